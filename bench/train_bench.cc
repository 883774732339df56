// Speed of training: optimizer steps over given batches, without files, evaluation or progress around them.
// bench/peers/train.py runs it beside PyTorch on the same batches; bench/README.md has the command and a
// table.
//
//     train_bench CONFIG.json BATCHES.json [THREADS]
// BATCHES.json: [[[id, ...], ...], ...], the texts of each batch. The loss is of every token. Prints one JSON
// object.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu_target.h"
#include "model/config.h"
#include "model/train/batch_plan.h"
#include "model/train/trainer.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

std::string Read(const char* path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int64_t PeakMemoryMiB() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss >> 10;
}

// As `clamor train` does it by default.
std::vector<TrainingBatch> Cut(const std::vector<std::vector<int32_t>>& texts) {
  std::vector<int32_t> sizes, all(texts.size());
  for (const auto& text : texts) sizes.push_back(static_cast<int32_t>(text.size()));
  std::iota(all.begin(), all.end(), 0);
  std::vector<TrainingBatch> parts;
  for (const auto& micro_batch : MicroBatches(all, sizes, TrainerOptions().micro_tokens)) {
    TrainingBatch& part = parts.emplace_back();
    for (int32_t i : micro_batch) part.Add(texts[i], texts[i], [](int32_t) { return true; });
  }
  return parts;
}

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: train_bench CONFIG.json BATCHES.json [THREADS]\n");
    return 2;
  }
  if (absl::Status status = kernels::SetCpuTargetFromEnvironment(); !status.ok()) {
    std::cerr << status.message() << "\n";
    return 1;
  }
  const auto description = ParseModelDescription(Read(argv[1]), "");
  if (!description.ok()) {
    std::cerr << description.status().message() << "\n";
    return 1;
  }
  const nlohmann::json file = nlohmann::json::parse(Read(argv[2]), nullptr, false);
  std::vector<std::vector<TrainingBatch>> batches;
  for (const auto& texts : file) batches.push_back(Cut(texts.get<std::vector<std::vector<int32_t>>>()));
  kernels::ThreadPool pool(argc > 3 ? std::atoi(argv[3])
                                    : static_cast<int>(std::thread::hardware_concurrency()));
  TrainableModel model(description->config);
  InitializeParameters(model.table(), 1, model.values());
  model.Pack(pool);
  const std::vector<Sample> unused = {{.ids = {0, 1}, .responses = {{1, 2}}}};
  Trainer trainer(&model, unused, {}, {.learning_rate = 2e-3, .min_learning_rate = 1.0, .warmup_steps = 0}, &pool);
  int64_t tokens = 0;
  double loss = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const std::vector<TrainingBatch>& batch : batches) {
    const TrainingStep step = trainer.Step(batch);
    tokens += step.tokens;
    loss = step.loss;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const nlohmann::ordered_json result = {{"seconds", seconds.count()},
                                         {"tokens", tokens},
                                         {"tokens_per_second", static_cast<double>(tokens) / seconds.count()},
                                         {"last_loss", loss},
                                         {"peak_memory_mib", PeakMemoryMiB()}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
