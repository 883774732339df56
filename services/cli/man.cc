// `clamor man`: manual pages.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/cli/command.h"
#include "services/man_page.h"

namespace clamor::cli {
namespace {

struct Flags {
  std::string verb;
  std::string folder;
};

absl::Status WritePage(const CLI::App& app, const std::filesystem::path& path) {
  std::ofstream file(path);
  file << ManPage(app);
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat(path.string(), ": cannot write"));
}

absl::Status WriteAll(const CLI::App& root, const std::filesystem::path& folder) {
  CLAMOR_RETURN_IF_ERROR(WritePage(root, folder / (root.get_name() + ".1")));
  for (const CLI::App* verb : root.get_subcommands([](const CLI::App*) { return true; })) {
    CLAMOR_RETURN_IF_ERROR(
        WritePage(*verb, folder / absl::StrCat(root.get_name(), "-", verb->get_name(), ".1")));
  }
  return absl::OkStatus();
}

absl::Status Man(const Flags& flags, const CLI::App& root) {
  if (!flags.folder.empty()) return WriteAll(root, flags.folder);
  for (const CLI::App* app :
       root.get_subcommands([&](const CLI::App* verb) { return verb->get_name() == flags.verb; })) {
    std::fputs(ManPage(*app).c_str(), stdout);
    return absl::OkStatus();
  }
  if (!flags.verb.empty()) {
    return UsageError(absl::StrCat("'", flags.verb, "' is no verb; clamor --help lists them"));
  }
  std::fputs(ManPage(root).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddMan(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("man", "A manual page, to be read by `clamor man VERB | man -l -`");
  CLI::Option* of = verb->add_option("verb", flags->verb, "Which verb's; the command's own if not given");
  verb->add_option("--folder", flags->folder, "Write all pages into this folder instead")->excludes(of);
  verb->callback([flags, &app, &run] { run = [flags, &app] { return Man(*flags, app); }; });
}

}  // namespace clamor::cli
