// `clamor report`: one page from the logs of training runs, side by side if there are several.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/train/report.h"
#include "model/train/training_log.h"
#include "services/cli/command.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {
namespace {

struct Flags {
  std::vector<std::string> runs;
  std::string output = "report.html";
};

absl::Status Report(const Flags& flags) {
  if (flags.runs.size() > kMaxComparedRuns) {
    return UsageError(absl::StrCat("RUN is given ", flags.runs.size(), " times, limit is ", kMaxComparedRuns));
  }
  std::vector<NamedLog> logs;
  for (const std::string& run : flags.runs) {
    CLAMOR_ASSIGN_OR_RETURN(TrainingLog log, ReadTrainingLog(absl::StrCat(run, "/training.jsonl")));
    logs.push_back({ModelName(run), std::move(log)});
  }
  const std::string page = logs.size() == 1 ? RenderReport(logs[0].log) : RenderComparison(logs);
  CLAMOR_RETURN_IF_ERROR(WriteFileAtomically(flags.output, page));
  std::fprintf(stderr, "wrote %s\n", flags.output.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddReport(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("report", "One HTML page from training runs, side by side if several");
  verb->add_option("RUN", flags->runs, "Folders that `clamor train --output` made")->required();
  verb->add_option("--output", flags->output, "Where the page goes")->capture_default_str();
  verb->callback([flags, &run] { run = [flags] { return Report(*flags); }; });
}

}  // namespace clamor::cli
