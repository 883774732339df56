#include "model/text_record.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"

namespace clamor {
namespace {

// The string `key` of `object`; `owner` is what an error begins with: "" or "messages[3]: ".
absl::StatusOr<std::string> TakeString(const nlohmann::json& object, const char* key,
                                       const std::string& owner) {
  const auto found = object.find(key);
  if (found == object.end()) {
    return absl::InvalidArgumentError(absl::StrCat(owner, "field '", key, "' is missing"));
  }
  if (!found->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(owner, "field '", key, "' must be a string, is ", found->type_name()));
  }
  return found->get<std::string>();
}

absl::StatusOr<std::vector<ChatMessage>> TakeMessages(const nlohmann::json& array) {
  if (!array.is_array() || array.empty()) {
    return absl::InvalidArgumentError("field 'messages' must be an array that is not empty");
  }
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& entry : array) {
    const std::string owner = absl::StrCat("messages[", messages.size(), "]: ");
    if (!entry.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(owner, "must be an object, is ", entry.type_name()));
    }
    CLAMOR_ASSIGN_OR_RETURN(std::string role, TakeString(entry, "role", owner));
    CLAMOR_ASSIGN_OR_RETURN(std::string content, TakeString(entry, "content", owner));
    messages.push_back({std::move(role), std::move(content)});
  }
  return messages;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseRecord(std::string_view line) {
  if (line.size() > kMaxRecordBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the line has ", line.size(), " bytes, limit is ", kMaxRecordBytes));
  }
  CLAMOR_ASSIGN_OR_RETURN(nlohmann::json object, ParseUntrustedJson("not a JSON object", line));
  if (!object.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("not a JSON object but ", object.type_name()));
  }
  return object;
}

absl::StatusOr<TextRecord> ReadRecord(const nlohmann::json& object) {
  TextRecord record;
  if (const auto messages = object.find("messages"); messages != object.end()) {
    record.kind = TextRecord::Kind::kMessages;
    CLAMOR_ASSIGN_OR_RETURN(record.messages, TakeMessages(*messages));
    return record;
  }
  if (object.contains("prompt") || object.contains("response")) {
    record.kind = TextRecord::Kind::kPromptResponse;
    CLAMOR_ASSIGN_OR_RETURN(std::string prompt, TakeString(object, "prompt", ""));
    CLAMOR_ASSIGN_OR_RETURN(std::string response, TakeString(object, "response", ""));
    record.messages = {{"user", std::move(prompt)}, {"assistant", std::move(response)}};
    return record;
  }
  if (!object.contains("text")) {
    return absl::InvalidArgumentError("has none of the fields 'text', 'prompt' and 'response', 'messages'");
  }
  CLAMOR_ASSIGN_OR_RETURN(record.text, TakeString(object, "text", ""));
  return record;
}

}  // namespace clamor
