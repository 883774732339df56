// Text to token ids and back, as a Hugging Face `tokenizer.json` says: normalizer, pre-tokenizer, byte-pair
// encoding (byte-level or SentencePiece-style with byte fallback), post-processor, decoder.
//
// Immutable after Load; every method may be called from any thread.
// Tested by tests/model/tokenizer/tokenizer_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace clamor {

// The files a tokenizer is made of, by their names in the model directory: `tokenizer.json` (required),
// `tokenizer_config.json`, `chat_template.jinja` (optional). As bytes, because a gateway gets them from a
// worker.
struct TokenizerFiles {
  std::map<std::string, std::string> contents;

  // Reads those that exist. NOT_FOUND names the directory and the missing file; RESOURCE_EXHAUSTED a file
  // over 256 MiB.
  static absl::StatusOr<TokenizerFiles> Read(const std::string& model_dir);
  // SHA-256 in lower-case hex over `tokenizer.json`: two models with equal fingerprints share token ids.
  std::string Fingerprint() const;
};

class Tokenizer {
 public:
  // INVALID_ARGUMENT names the file, the field and the value that is not understood.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const TokenizerFiles& files);
  ~Tokenizer();

  // How text that spells a special token is read.
  enum class Specials {
    kParse,      // "<|im_end|>" becomes that token: for rendered templates and trusted prompts
    kPlainText,  // it stays text: for what a user typed. Added tokens that are not special are found all the
                 // same
  };
  struct EncodeOptions {
    bool add_specials = true;  // run the post-processor (BOS and the like)
    Specials specials = Specials::kParse;
  };
  // INVALID_ARGUMENT for invalid UTF-8 (names the byte offset) and for text over 16 MiB.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, const EncodeOptions& options) const;

  // The text of `ids`; invalid UTF-8 becomes U+FFFD. INVALID_ARGUMENT names an id outside [0, vocab_size()).
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_specials) const;

  // The bytes that `id` adds to a text between other tokens; not always whole characters. Empty for special
  // tokens and for ids without a token.
  std::string TokenBytes(int32_t id) const;

  // One more than the largest id that has a token. A model's head may be wider.
  int32_t vocab_size() const;
  bool IsSpecial(int32_t id) const;
  std::optional<int32_t> TokenToId(std::string_view token) const;
  // From tokenizer_config.json; empty if unset.
  const std::string& bos_token() const;
  const std::string& eos_token() const;

 private:
  friend class StreamDecoder;
  friend class ChatTemplate;
  Tokenizer();
  struct Rep;
  std::unique_ptr<const Rep> rep_;
};

// Decodes one growing sequence. The concatenation of what Add and Finish return equals Decode of the whole,
// whatever the cuts; bytes of an unfinished UTF-8 character, and text that a later token could still change,
// are held back.
class StreamDecoder {
 public:
  // `tokenizer` must outlive this.
  StreamDecoder(const Tokenizer* tokenizer, bool skip_specials);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  // Text that became certain with `id`; may be empty. Ids without a token decode to nothing.
  std::string Add(int32_t id);
  // What was held back, incomplete characters as U+FFFD.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace clamor
