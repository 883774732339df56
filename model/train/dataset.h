// Training data: JSONL files read into samples, every fault of the data named by file and line.
//
// Memory: the samples, and of the files one line of at most 16 MiB at a time.
// Tested by tests/model/train/dataset_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "model/train/record_encoder.h"
#include "model/train/sample.h"

namespace clamor {

enum class OnBadSample {
  kRefuse,  // the first fault ends the load
  kSkip,    // faults are counted and the line is left out
};

struct DatasetOptions {
  int32_t max_length = 1024;  // tokens of a sample
  OnBadSample on_bad_sample = OnBadSample::kRefuse;
  // Tokens that one response of a sample must have if noise is to fit (ResponseTokensForNoise); 0: no noise.
  // A sample without such a response is refused under kRefuse. Under kSkip it is not lost: short answers are
  // worth learning, so it is trained clean and counted in `without_noise`.
  int32_t response_tokens_for_noise = 0;
};

struct Dataset {
  std::vector<Sample> samples;         // in the order of files and lines; `source` is "file:line"
  std::map<std::string, int64_t> bad;  // lines left out, by kind of fault
  int64_t without_noise = 0;           // samples whose responses are all too short for it
  std::vector<std::string> messages;   // "file:line: what", the first ten faults and samples without noise
  int64_t tokens = 0;                  // of all samples
  int64_t response_tokens = 0;         // of those, what the loss is taken over

  int64_t bad_lines() const;
};

// Reads `files`, one JSON object a line (model/text_record.h says which), blank lines aside.
// `progress(done, total)`, in bytes, follows each line.
//
// Faults of the data are the kinds of EncodeRecord and "empty file", "long line", "invalid UTF-8", "invalid
// JSON", "field", "noise"; INVALID_ARGUMENT "file:line: what" under kRefuse. Whatever the option: NOT_FOUND
// for a file that cannot be opened, DATA_LOSS for one that cannot be read on, FAILED_PRECONDITION for a token
// that the model does not have, INVALID_ARGUMENT if no sample is left.
absl::StatusOr<Dataset> LoadDataset(const std::vector<std::string>& files, const DatasetTexts& texts,
                                    const DatasetOptions& options,
                                    absl::FunctionRef<void(uint64_t done, uint64_t total)> progress);

}  // namespace clamor
