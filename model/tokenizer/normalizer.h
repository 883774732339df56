// First step of encoding: rewrites text as the field `normalizer` of tokenizer.json says.
//
// NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, and Sequence of these. Immutable; any thread.
// Tested by tests/model/tokenizer/normalizer_test.cc.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer/marked_text.h"
#include "nlohmann/json.hpp"

namespace clamor {

class Normalizer {
 public:
  class Step {
   public:
    virtual ~Step() = default;
    virtual absl::Status Apply(MarkedText* text) const = 0;
  };

  // null: text stays as it is. INVALID_ARGUMENT names field and value.
  static absl::StatusOr<Normalizer> FromJson(const nlohmann::json& json, const std::string& path);

  // `text` is valid UTF-8. RESOURCE_EXHAUSTED if the result is out of proportion.
  absl::Status Apply(MarkedText* text) const;

 private:
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace clamor
