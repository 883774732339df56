// Token texts back to text, as the field `decoder` of tokenizer.json says, one token after the other.
//
// The tokenizers library maps a list of tokens to text in one go. Here each decoder is a stage that is pushed
// parts of tokens and pushes on what no later token can change, so that decoding a whole and decoding a
// stream are the same code. ByteLevel, Replace (of strings), ByteFallback, Fuse, Strip, Metaspace, Sequence;
// null joins tokens with spaces. Tested by tests/model/tokenizer/decoder_test.cc against a transcription of
// the library's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

class Decoder {
 public:
  class Stage {
   public:
    virtual ~Stage() = default;
    // The next characters of a token (valid UTF-8, unless Incomplete::kKept); `ends_token` if they are its
    // last.
    virtual void Push(std::string_view text, bool ends_token) = 0;
    // No more tokens. Called once.
    virtual void Finish() = 0;
  };

  // INVALID_ARGUMENT names field and value.
  static absl::StatusOr<Decoder> FromJson(const nlohmann::json& json, const std::string& path);

  // What becomes of bytes that are not whole characters.
  enum class Incomplete { kReplaced, kKept };  // by U+FFFD; as they are, and `out` need not be UTF-8

  // The first stage of a new chain, whose last appends to `out`, which must outlive it. The chain owns all it
  // needs.
  std::unique_ptr<Stage> NewChain(std::string* out, Incomplete incomplete = Incomplete::kReplaced) const;

 private:
  using StageMaker =
      std::function<std::unique_ptr<Stage>(std::unique_ptr<Stage> next, Incomplete incomplete)>;
  absl::Status Add(const nlohmann::json& json, const std::string& path);
  absl::Status AddReplace(const nlohmann::json& json, const std::string& path);

  std::vector<StageMaker> makers_;  // in the order of the stages
  size_t growth_ = 1;               // how many times as long replacements may make a text
};

}  // namespace clamor
