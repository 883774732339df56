// A chat template of any bytes is refused, or renders within its limits.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "model/tokenizer/chat_template.h"

namespace {

// Four tokens, two of them special: enough for a template to name.
constexpr std::string_view kTokenizer = R"({
  "added_tokens": [{"id": 2, "content": "<s>", "special": true}, {"id": 3, "content": "</s>", "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";

const clamor::Tokenizer& SmallTokenizer() {
  static const auto& tokenizer =
      *new auto(clamor::Tokenizer::Load({.contents = {{"tokenizer.json", std::string(kTokenizer)}}}).value());
  return *tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace clamor;  // NOLINT
  TokenizerFiles files;
  files.contents["chat_template.jinja"] = std::string(reinterpret_cast<const char*>(data), size);
  const auto chat = ChatTemplate::Load(files, &SmallTokenizer());
  if (!chat.ok()) return 0;
  const nlohmann::ordered_json messages = {{{"role", "system"}, {"content", "Be brief.</s>"}},
                                           {{"role", "user"}, {"content", " a \n"}}};
  const auto text = (*chat)->Render(messages, {{"add_generation_prompt", true}});
  if (text.ok() && text->size() > (16u << 20)) std::abort();
  const auto ids = (*chat)->Encode({{"system", "Be brief.</s>"}, {"user", " a \n"}});
  if (!ids.ok()) return 0;
  for (const int32_t id : *ids)
    if (id < 0 || id >= SmallTokenizer().vocab_size()) std::abort();
  return 0;
}
