// Second step of encoding: cuts text into the pieces that the model encodes one by one, as the field
// `pre_tokenizer` of tokenizer.json says.
//
// Split, ByteLevel, Metaspace, Digits, and Sequence of these. Immutable; any thread.
// Tested by tests/model/tokenizer/tokenizer_test.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

struct Piece {
  std::string text;       // valid UTF-8, not empty
  bool at_start = false;  // begins where the whole text begins
};

class PreTokenizer {
 public:
  class Step {
   public:
    virtual ~Step() = default;
    virtual absl::Status Apply(std::vector<Piece>* pieces) const = 0;
  };

  // null: one piece. INVALID_ARGUMENT names field and value.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& json, const std::string& path);

  absl::Status Apply(std::vector<Piece>* pieces) const;

 private:
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace clamor
