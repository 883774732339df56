// tokenizer.json of any bytes is refused, or encodes and decodes whatever text comes after its NUL, in
// bounded memory and without an id outside its vocabulary.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace clamor;  // NOLINT
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t cut = std::min(bytes.find('\0'), size);
  TokenizerFiles files;
  files.contents["tokenizer.json"] = bytes.substr(0, cut);
  const auto tokenizer = Tokenizer::Load(files);
  if (!tokenizer.ok()) return 0;

  std::string ascii;
  for (char c = ' '; c <= '~'; ++c) ascii.push_back(c);
  const std::string texts[] = {ascii, "Hello, world 12  \n\t<s>", "\xC3\xA9\xE2\x82\xAC<|im_end|>",
                               std::string(cut < size ? bytes.substr(cut + 1) : std::string_view())};
  for (const std::string& text : texts) {
    const auto ids = (*tokenizer)->Encode(text, {});
    if (!ids.ok()) continue;
    for (const int32_t id : *ids)
      if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
    const auto decoded = (*tokenizer)->Decode(*ids, false);
    if (!decoded.ok() || FindInvalidUtf8(*decoded).has_value()) std::abort();
    StreamDecoder stream(tokenizer->get(), false);
    std::string streamed;
    for (const int32_t id : *ids) streamed += stream.Add(id);
    streamed += stream.Finish();
    if (streamed != *decoded) std::abort();
  }
  return 0;
}
