// Last step of encoding: the ids that stand before and after a text, as the field `post_processor` of
// tokenizer.json says.
//
// TemplateProcessing (its `single` form), ByteLevel (which changes no ids), and Sequence of these; null adds
// nothing.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;

  // INVALID_ARGUMENT names field and value, ids outside [0, vocab_size) among them.
  static absl::StatusOr<PostProcessor> FromJson(const nlohmann::json& json, const std::string& path,
                                                int32_t vocab_size);

 private:
  absl::Status Add(const nlohmann::json& json, const std::string& path, int32_t vocab_size);
};

}  // namespace clamor
