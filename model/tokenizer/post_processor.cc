#include "model/tokenizer/post_processor.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"

namespace clamor {
namespace {

constexpr size_t kMaxAddedIds = 1024;

// The ids of {"SpecialToken": {"id": NAME}}, which `special_tokens` lists under NAME.
absl::StatusOr<std::vector<int32_t>> IdsOf(const nlohmann::json& special,
                                           const nlohmann::json& special_tokens, const std::string& path,
                                           int32_t vocab_size) {
  CLAMOR_ASSIGN_OR_RETURN(const std::string name, StringField(special, "id", path));
  const auto entry = special_tokens.is_object() ? special_tokens.find(name) : special_tokens.end();
  if (!special_tokens.is_object() || entry == special_tokens.end()) {
    return UnexpectedValue(absl::StrCat(path, ".id"), name, "a name in special_tokens");
  }
  const nlohmann::json& ids = Field(*entry, "ids");
  if (!ids.is_array() || ids.size() > kMaxAddedIds)
    return UnexpectedValue(absl::StrCat(path, ": ids"), ids, "an array");
  std::vector<int32_t> result;
  for (const nlohmann::json& id : ids) {
    if (!IsIntegerIn(id, 0, vocab_size - 1)) {
      return UnexpectedValue(absl::StrCat(path, ": ids"), id, absl::StrCat("an id below ", vocab_size));
    }
    result.push_back(id.get<int32_t>());
  }
  return result;
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::FromJson(const nlohmann::json& json, const std::string& path,
                                                      int32_t vocab_size) {
  PostProcessor processor;
  if (!json.is_null()) CLAMOR_RETURN_IF_ERROR(processor.Add(json, path, vocab_size));
  return processor;
}

absl::Status PostProcessor::Add(const nlohmann::json& json, const std::string& path, int32_t vocab_size) {
  CLAMOR_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", path));
  if (type == "ByteLevel") return absl::OkStatus();
  if (type == "Sequence") {
    CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json* parts, ArrayField(json, "processors", path));
    for (size_t i = 0; i < parts->size(); ++i) {
      CLAMOR_RETURN_IF_ERROR(Add((*parts)[i], absl::StrCat(path, ".processors[", i, "]"), vocab_size));
    }
    return absl::OkStatus();
  }
  if (type != "TemplateProcessing") {
    return UnexpectedValue(absl::StrCat(path, ".type"), Field(json, "type"),
                           "TemplateProcessing, ByteLevel or Sequence");
  }
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json* parts, ArrayField(json, "single", path));
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool seen_text = false;
  for (size_t i = 0; i < parts->size(); ++i) {
    const std::string where = absl::StrCat(path, ".single[", i, "]");
    const nlohmann::json& special = Field((*parts)[i], "SpecialToken");
    if (special.is_object()) {
      CLAMOR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              IdsOf(special, Field(json, "special_tokens"), where, vocab_size));
      auto& side = seen_text ? after : before;
      side.insert(side.end(), ids.begin(), ids.end());
    } else if (!seen_text && Field(Field((*parts)[i], "Sequence"), "id") == "A") {
      seen_text = true;
    } else {
      return UnexpectedValue(where, (*parts)[i], "special tokens around one Sequence A");
    }
  }
  if (!seen_text)
    return UnexpectedValue(absl::StrCat(path, ".single"), *parts, "special tokens around one Sequence A");
  prefix.insert(prefix.begin(), before.begin(), before.end());
  suffix.insert(suffix.end(), after.begin(), after.end());
  if (prefix.size() + suffix.size() > kMaxAddedIds) {
    return UnexpectedValue(absl::StrCat(path, ".single"), *parts,
                           absl::StrCat("at most ", kMaxAddedIds, " ids"));
  }
  return absl::OkStatus();
}

}  // namespace clamor
