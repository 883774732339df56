// UTF-8 and the few Unicode properties that tokenizers and templates ask for. Pure functions.
// Tested by tests/model/tokenizer/utf8_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace clamor {

enum class Utf8Validity { kValid, kInvalid, kIncomplete };

struct Utf8Char {
  Utf8Validity validity;
  uint32_t code;  // set only if kValid
  size_t size;    // bytes of the character, or of the longest prefix that could have begun one
};

// The first character of `text`, which is not empty. kIncomplete: `text` ends inside a character right so
// far.
Utf8Char FirstChar(std::string_view text);

// The offset of the first byte that is not part of valid UTF-8.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

void AppendUtf8(uint32_t code, std::string* out);

// Appends `bytes` to `out`, each maximal invalid part as one U+FFFD. Unless `at_end`, an incomplete character
// at the end is left alone. Returns how many bytes were used.
size_t AppendLossyUtf8(std::string_view bytes, bool at_end, std::string* out);

bool IsAscii(std::string_view text);
bool IsWhitespace(uint32_t code);  // property White_Space
bool IsNumeric(uint32_t code);     // categories Nd, Nl, No
bool IsWord(uint32_t code);        // letters, marks, digits, connectors, joiners

// Calls `visit(code, part)` for each character of valid `text`; `part` is its bytes.
template <typename Visitor>
void ForEachChar(std::string_view text, Visitor visit) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = FirstChar(text.substr(at));
    visit(c.code, text.substr(at, c.size));
    at += c.size;
  }
}

}  // namespace clamor
