// One text to learn from, as token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace clamor {

// Positions [begin, end) of a sample.
struct Span {
  int32_t begin = 0, end = 0;

  int32_t size() const { return end - begin; }
  bool operator==(const Span&) const = default;
};

struct Sample {
  std::vector<int32_t> ids;  // clean; at least two
  std::vector<Span>
      responses;       // what the model is to write: ascending, apart, not empty, begin >= 1. Noise goes here
  std::string source;  // "data.jsonl:17", for messages

  bool operator==(const Sample&) const = default;
};

}  // namespace clamor
