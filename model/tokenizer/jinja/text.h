// What Python's str does, over marked text: the marks of the bytes that stay are kept. Pure functions.
// Characters are code points. Results over the limits of value.h are RESOURCE_EXHAUSTED.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/marked_text.h"

namespace clamor::jinja {

bool IsPythonSpace(uint32_t code);

// The offset of `needle` in `text` from `from` on, or npos; linear in both.
size_t Find(std::string_view text, std::string_view needle, size_t from = 0);
size_t FindLast(std::string_view text, std::string_view needle);

// The offset of each character, and the size of the text after them.
std::vector<size_t> CharOffsets(std::string_view text);
size_t CountChars(std::string_view text);

enum class Sides { kLeft, kRight, kBoth };
// Without `chars`, of which there are at most 64 bytes: white space.
absl::StatusOr<MarkedText> Strip(const MarkedText& text, const std::optional<std::string>& chars,
                                 Sides sides);

// At most `limit` cuts; negative: all. Without `separator`: at runs of white space.
absl::StatusOr<std::vector<MarkedText>> Split(const MarkedText& text,
                                              const std::optional<std::string>& separator, int64_t limit);
absl::StatusOr<std::vector<MarkedText>> SplitFromRight(const MarkedText& text,
                                                       const std::optional<std::string>& separator,
                                                       int64_t limit);
absl::StatusOr<std::vector<MarkedText>> SplitLines(const MarkedText& text);

absl::StatusOr<MarkedText> Replace(const MarkedText& text, std::string_view from, const MarkedText& to,
                                   int64_t limit);
absl::StatusOr<MarkedText> Repeat(const MarkedText& text, int64_t times);

MarkedText Upper(const MarkedText& text);
MarkedText Lower(const MarkedText& text);
MarkedText Capitalize(const MarkedText& text);
// A capital wherever a letter does not follow a letter (str.title).
MarkedText Title(const MarkedText& text);
// A capital after white space, hyphens and opening brackets (Jinja's filter).
MarkedText TitleWords(const MarkedText& text);

}  // namespace clamor::jinja
