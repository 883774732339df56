// The flags of `clamor train`, and what they mean together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "model/train/dataset.h"
#include "model/train/trainable_model.h"
#include "model/train/trainer.h"
#include "nlohmann/json.hpp"

namespace clamor::cli {

struct TrainFlags {
  std::string model;              // a directory to go on from; or, from nothing:
  std::string config, tokenizer;  // a config.json, and a tokenizer.json with its companions beside it

  std::vector<std::string> data;
  std::string holdout;
  int32_t max_length = 0;  // 0: what the model and a batch can hold
  std::string on_bad_sample = "refuse";

  std::string noise = "ahead";
  std::string loss = "response";
  std::string batches = "mixed";
  TrainerOptions trainer;
  std::string recompute = "auto";
  LowRankOptions adapters;

  std::string output;
  std::string dtype = "stored";
  int64_t checkpoint_every = 0;  // 0: twenty times a run, but not more often than every 50 steps
  bool resume = false;

  int64_t evaluate_every = 0;  // 0: ten times a run, but not more often than every 50 steps
  int32_t evaluate_prompts = 8;
  int32_t evaluate_tokens = 128;
  std::vector<std::string> evaluate_nodes = {"8", "16", "64", "published"};

  std::string device = "cpu";
  int threads = 0;
};

void AddTrainFlags(CLI::App& verb, TrainFlags& flags);

// Puts the words into flags.trainer and checks everything that needs no file. A UsageError names the flag.
absl::Status Resolve(TrainFlags& flags);

// All flags by name, for the log and the report.
nlohmann::json DescribeFlags(const TrainFlags& flags);

// Those that decide the bits of a run: a run resumes only with the same.
nlohmann::json Fingerprint(const TrainFlags& flags);

}  // namespace clamor::cli
