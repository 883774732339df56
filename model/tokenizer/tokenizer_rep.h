// What Tokenizer, StreamDecoder and ChatTemplate share: the steps of a loaded tokenizer. Include only from
// their sources.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/marked_text.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/post_processor.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/tokenizer.h"

namespace clamor {

inline constexpr char kTokenizerJson[] = "tokenizer.json";
inline constexpr char kTokenizerConfigJson[] = "tokenizer_config.json";
inline constexpr char kChatTemplateJinja[] = "chat_template.jinja";
inline constexpr size_t kMaxTextBytes = 16 << 20;

struct Tokenizer::Rep {
  Normalizer normalizer;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  PostProcessor post_processor;
  Decoder decoder;
  int32_t vocab_size = 0;
  std::map<std::string, std::string>
      named_tokens;  // "bos_token" and the like, as far as tokenizer_config.json sets them

  // Encode without the post-processor. Special tokens count where `parse_specials` and no byte of them is
  // marked.
  absl::StatusOr<std::vector<int32_t>> EncodeMarked(const MarkedText& text, bool parse_specials) const;

  // The text of `id` as the decoder takes it; null if it has none or is special and skipped.
  const std::string* TokenText(int32_t id, bool skip_specials) const;
};

}  // namespace clamor
