// Files of text as documents of token ids, one after the other, in bounded memory.
//
// Tested by tests/services/cli/cli_test.py.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {

struct TokenDocument {
  std::vector<int32_t> ids;
  uint64_t bytes = 0;  // of the text it came from
};

// Reads one file. `*.jsonl` and `*.json` hold a JSON object per line, as model/text_record.h says.
// Conversations, for which a prompt with its response counts, go through the model's template, so that they
// match what the model will be asked. Any other file is plain text and is cut at line ends into documents of
// about a mebibyte.
class DocumentReader {
 public:
  // NOT_FOUND names the file. `tokenizer` (its transformer may be null) must outlive the reader.
  static absl::StatusOr<std::unique_ptr<DocumentReader>> Open(const std::string& path,
                                                              const LoadedModel* tokenizer);

  // The next document; nothing at the end. INVALID_ARGUMENT names "file:line" and the field; the next call
  // goes on after that line.
  absl::StatusOr<std::optional<TokenDocument>> Next();

 private:
  DocumentReader(std::string path, std::ifstream file, bool json, const LoadedModel* tokenizer);
  absl::StatusOr<TokenDocument> FromJson(const std::string& line) const;
  absl::StatusOr<TokenDocument> FromText(const std::string& text) const;
  absl::StatusOr<TokenDocument> FromConversation(const std::vector<ChatMessage>& messages) const;

  const std::string path_;
  std::ifstream file_;
  const bool json_;
  const LoadedModel* tokenizer_;
  int64_t line_ = 0;  // the last one read, from 1
};

}  // namespace clamor::cli
