// One line of a JSONL file as what it says: a conversation, a prompt with its response, or a text.
//
// Lines are untrusted: their size and depth are bounded. Tested by tests/model/train/text_record_test.cc.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/chat_template.h"
#include "nlohmann/json.hpp"

namespace clamor {

inline constexpr size_t kMaxRecordBytes = 16 << 20;  // of a line; what the tokenizer takes at once

struct TextRecord {
  enum class Kind {
    kMessages,        // {"messages": [{"role", "content"}, ..]}
    kPromptResponse,  // {"prompt", "response"}: `messages` are a user's turn and an assistant's
    kText,            // {"text"}
  };
  Kind kind = Kind::kText;
  std::vector<ChatMessage> messages;  // not empty, unless kText
  std::string text;                   // only if kText
};

// The JSON object of a line. INVALID_ARGUMENT names the offset where the line stops being one, or its size
// and the limit.
absl::StatusOr<nlohmann::json> ParseRecord(std::string_view line);

// What the object says; of several forms the first of the list above, and further fields are nobody's
// concern. INVALID_ARGUMENT names the field that is missing or has another type.
absl::StatusOr<TextRecord> ReadRecord(const nlohmann::json& object);

}  // namespace clamor
