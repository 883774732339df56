// `clamor train`: MSN training from a model or from nothing, on JSONL, to a model directory.
#include <memory>

#include "services/cli/command.h"
#include "services/cli/train_flags.h"
#include "services/cli/train_run.h"

namespace clamor::cli {

void AddTrain(CLI::App& app, Run& run) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* verb = app.add_subcommand("train", "Fine-tune a model so that it drafts for itself (MSN)");
  AddTrainFlags(*verb, *flags);
  verb->callback([flags, &run] { run = [flags] { return Train(*flags); }; });
}

}  // namespace clamor::cli
