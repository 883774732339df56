// The `clamor` command. README.md lists the verbs and the files behind them.
#include <cstdio>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/cpu_target.h"
#include "services/cli/command.h"
#include "services/rpc_error.h"

#ifndef CLAMOR_VERSION
#error "services/cli/CMakeLists.txt defines it"
#endif

namespace clamor::cli {
namespace {

int Fail(absl::string_view message, int code) {
  std::fprintf(stderr, "clamor: %s\n", OneLine(message).c_str());
  return code;
}

int Main(int argc, char** argv) {
  CLI::App app("Large language models, decoded with TR-Jacobi speculation. Same answer, sooner.", "clamor");
  app.set_version_flag("--version", "clamor " CLAMOR_VERSION);
  app.require_subcommand(1);
  Run run;
  AddGenerate(app, run);
  AddChat(app, run);
  AddScore(app, run);
  AddTokenize(app, run);
  AddDetokenize(app, run);
  AddTrain(app, run);
  AddReport(app, run);
  AddIngest(app, run);
  AddServe(app, run);
  AddEval(app, run);
  AddBench(app, run);
  AddStatus(app, run);
  AddCheckpoint(app, run);
  AddCompletion(app, run);
  AddMan(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& shown) {  // --help, --version
    return app.exit(shown);
  } catch (const CLI::ParseError& error) {
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommands().empty()) {
      return Fail(absl::StrCat("'", argv[1], "' is no verb; clamor --help lists them"), 2);
    }
    return Fail(error.what(), 2);
  }
  if (absl::Status status = kernels::SetCpuTargetFromEnvironment(); !status.ok()) {
    return Fail(status.message(), 1);
  }
  const absl::Status status = run();
  return status.ok() ? 0 : Fail(MessageOf(status), ExitCode(status));
}

}  // namespace
}  // namespace clamor::cli

int main(int argc, char** argv) { return clamor::cli::Main(argc, argv); }
