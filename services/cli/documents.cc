#include "services/cli/documents.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/text_record.h"
#include "nlohmann/json.hpp"

namespace clamor::cli {
namespace {

constexpr size_t kTextDocumentBytes = 1 << 20;
constexpr Tokenizer::EncodeOptions kPlain{.add_specials = false, .specials = Tokenizer::Specials::kPlainText};

}  // namespace

DocumentReader::DocumentReader(std::string path, std::ifstream file, bool json, const LoadedModel* tokenizer)
    : path_(std::move(path)), file_(std::move(file)), json_(json), tokenizer_(tokenizer) {}

absl::StatusOr<std::unique_ptr<DocumentReader>> DocumentReader::Open(const std::string& path,
                                                                     const LoadedModel* tokenizer) {
  std::error_code ignored;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, ignored)) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot read"));
  }
  const bool json = absl::EndsWith(path, ".jsonl") || absl::EndsWith(path, ".json");
  return std::unique_ptr<DocumentReader>(new DocumentReader(path, std::move(file), json, tokenizer));
}

absl::StatusOr<std::optional<TokenDocument>> DocumentReader::Next() {
  std::string text, line;
  int64_t first_line = line_ + 1;
  while (std::getline(file_, line)) {
    ++line_;
    if (text.empty()) first_line = line_;
    if (!json_) line.push_back('\n');
    text += line;
    if (json_ && text.find_first_not_of(" \t\r") == std::string::npos) text.clear();  // a blank line
    if (text.size() >= (json_ ? 1 : kTextDocumentBytes)) break;
  }
  if (file_.bad()) return absl::DataLossError(absl::StrCat(path_, ":", line_, ": cannot read"));
  if (text.empty()) return std::optional<TokenDocument>();
  auto document = json_ ? FromJson(text) : FromText(text);
  if (!document.ok()) {
    return absl::Status(document.status().code(),
                        absl::StrCat(path_, ":", first_line, ": ", document.status().message()));
  }
  return std::optional<TokenDocument>(*std::move(document));
}

absl::StatusOr<TokenDocument> DocumentReader::FromJson(const std::string& line) const {
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json object, ParseRecord(line));
  CLAMOR_ASSIGN_OR_RETURN(const TextRecord record, ReadRecord(object));
  return record.kind == TextRecord::Kind::kText ? FromText(record.text) : FromConversation(record.messages);
}

absl::StatusOr<TokenDocument> DocumentReader::FromText(const std::string& text) const {
  TokenDocument document{.ids = {}, .bytes = text.size()};
  CLAMOR_ASSIGN_OR_RETURN(document.ids, tokenizer_->tokenizer->Encode(text, kPlain));
  return document;
}

// The ids that the model saw and wrote: everything before the last answer as a prompt, then that answer.
absl::StatusOr<TokenDocument> DocumentReader::FromConversation(
    const std::vector<ChatMessage>& messages) const {
  TokenDocument document;
  for (const ChatMessage& message : messages) document.bytes += message.content.size();
  std::vector<ChatMessage> before = messages;
  std::string answer;
  if (before.back().role == "assistant") {
    answer = std::move(before.back().content);
    before.pop_back();
  }
  if (tokenizer_->chat_template != nullptr && !before.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(document.ids, tokenizer_->chat_template->Encode(before));
  } else {
    for (const ChatMessage& message : before) {
      CLAMOR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              tokenizer_->tokenizer->Encode(message.content, kPlain));
      document.ids.insert(document.ids.end(), ids.begin(), ids.end());
    }
  }
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer_->tokenizer->Encode(answer, kPlain));
  document.ids.insert(document.ids.end(), ids.begin(), ids.end());
  return document;
}

}  // namespace clamor::cli
