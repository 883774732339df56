// The output folder of a training run:
//
//   model.safetensors, config.json, tokenizer...   the model at the last evaluation, and at the end
//   training.jsonl, report.html                    what happened
//   checkpoints/                                   where --resume goes on:
//     checkpoint-STEP.safetensors                  parameters and moments (model/train/checkpoint.h)
//     run.json                                     what decides the bits of the run
//     source/                                      config and tokenizer of a model that began from nothing
//
// One thread. Tested by tests/services/cli/train_test.py.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor::cli {

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  ~RunFolder();

  const std::string& path() const { return path_; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string source() const { return checkpoints() + "/source"; }
  std::string log() const { return path_ + "/training.jsonl"; }
  std::string report() const { return path_ + "/report.html"; }

  // Makes the folder if need be, and keeps other processes from training in it until the end of this object.
  // FAILED_PRECONDITION: a new run may not write over anything, one that is resumed only over a run. What a
  // run leaves that was refused before its first step does not count.
  absl::Status Open(bool resume);

  // Brings the files of a new model together in source().
  absl::Status AssembleSource(const std::string& config, const std::string& tokenizer);

  // A run is resumed only with the `identity` it began with; FAILED_PRECONDITION names each field that
  // differs and both values. The first call in a new folder settles it.
  absl::Status Identify(const nlohmann::json& identity);

 private:
  std::string identity_path() const { return checkpoints() + "/run.json"; }
  bool InUse() const;

  const std::string path_;
  int lock_ = -1;  // checkpoints(), open and locked
};

}  // namespace clamor::cli
