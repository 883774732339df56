// Trains a model over the very batches that another trainer read, in its order and with its noise, so that
// what the two make of them can be compared: between runs that differ in seeds alone, the loss of a small
// model differs by more than anything else (bench/README.md has figures).
//
//     train_replay MODEL_DIR STEPS.jsonl OUTPUT_DIR [--lr 2e-3] [--threads 2]
//
// Each line of STEPS.jsonl is an optimizer step: [{"inputs": [id, ...], "labels": [id, ...], "from": n},
// ...], a text each; labels from index n on are learnt. The schedule is that of `clamor train`. Writes a
// model directory in fp32 and prints one JSON object.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "model/config.h"
#include "model/spec/sampler.h"
#include "model/train/batch_plan.h"
#include "model/train/model_export.h"
#include "model/train/trainer.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

struct Flags {
  std::string model, steps, output;
  TrainerOptions trainer;
  int threads = 2;
};

// The step in `line`, cut for memory as `clamor train` does it.
absl::StatusOr<std::vector<TrainingBatch>> ParseStep(const std::string& line, const ModelConfig& config,
                                                     int64_t micro_tokens) {
  const nlohmann::json texts = nlohmann::json::parse(line, nullptr, false);
  std::vector<std::vector<int32_t>> inputs, labels;
  std::vector<int32_t> from, sizes;
  for (const auto& text : texts) {
    if (!text.is_object() || !text.contains("inputs") || !text.contains("labels")) {
      return absl::InvalidArgumentError("a text has no inputs or labels");
    }
    inputs.push_back(text["inputs"].get<std::vector<int32_t>>());
    labels.push_back(text["labels"].get<std::vector<int32_t>>());
    from.push_back(text.value("from", 0));
    sizes.push_back(static_cast<int32_t>(inputs.back().size()));
    for (const auto& ids : {inputs.back(), labels.back()}) {
      CLAMOR_RETURN_IF_ERROR(CheckTokenIds("a text", ids, config.vocab_size));
    }
    if (sizes.back() > config.max_positions) {
      return absl::InvalidArgumentError(
          absl::StrCat("a text has ", sizes.back(), " tokens, the context ", config.max_positions));
    }
    if (labels.back().size() != inputs.back().size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a text has ", inputs.back().size(), " inputs and ", labels.back().size(), " labels"));
    }
  }
  std::vector<int32_t> all(sizes.size());
  std::iota(all.begin(), all.end(), 0);
  std::vector<TrainingBatch> parts;
  for (const auto& run : MicroBatches(all, sizes, micro_tokens)) {
    TrainingBatch& part = parts.emplace_back();
    for (const int32_t i : run) part.Add(inputs[i], labels[i], [&](int32_t at) { return at >= from[i]; });
  }
  return parts;
}

absl::Status Run(Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const ModelDescription description, LoadModelDescription(flags.model));
  std::vector<std::string> lines;
  std::ifstream file(flags.steps);
  for (std::string line; std::getline(file, line);) lines.push_back(std::move(line));
  if (lines.empty()) return absl::NotFoundError(absl::StrCat(flags.steps, ": cannot read a step"));

  kernels::ThreadPool pool(flags.threads);
  TrainableModel model(description.config);
  CLAMOR_RETURN_IF_ERROR(LoadParameters(flags.model, description.config, model.table(), model.values(),
                                        [](uint64_t, uint64_t) {}));
  model.Pack(pool);
  // The trainer's own data is a stand-in of one step an epoch, which gives the schedule its length.
  const std::vector<Sample> stand_in = {{.ids = {0, 1}, .responses = {{1, 2}}}};
  flags.trainer.epochs = static_cast<int32_t>(lines.size());
  CLAMOR_RETURN_IF_ERROR(flags.trainer.Validate());
  Trainer trainer(&model, stand_in, {}, flags.trainer, &pool);
  int64_t tokens = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& line : lines) {
    CLAMOR_ASSIGN_OR_RETURN(const auto batches,
                            ParseStep(line, description.config, flags.trainer.micro_tokens));
    const TrainingStep step = trainer.Step(batches);
    tokens += step.tokens;
    if (step.step % 20 == 0) {
      std::fprintf(stderr, "\r%lld/%zu  loss %.4f ", static_cast<long long>(step.step), lines.size(),
                   step.loss);
    }
  }
  std::fprintf(stderr, "\n");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  CLAMOR_RETURN_IF_ERROR(ExportModel(flags.output, flags.model, model, {}, kernels::DType::kF32, pool));
  const nlohmann::ordered_json result = {
      {"steps", lines.size()},
      {"tokens", tokens},
      {"seconds", seconds.count()},
      {"tokens_per_second", static_cast<double>(tokens) / seconds.count()}};
  std::printf("%s\n", result.dump().c_str());
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Trains a model over given batches");
  app.add_option("model", flags.model, "Model directory to start from")->required();
  app.add_option("steps", flags.steps, "JSONL, an optimizer step a line")->required();
  app.add_option("output", flags.output, "Model directory to write")->required();
  app.add_option("--lr", flags.trainer.learning_rate, "Highest learning rate")->capture_default_str();
  app.add_option("--threads", flags.threads)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  absl::Status status = kernels::SetCpuTargetFromEnvironment();
  if (status.ok()) status = Run(flags);
  if (status.ok()) return 0;
  std::cerr << "train_replay: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
