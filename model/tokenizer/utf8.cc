#include "model/tokenizer/utf8.h"

#include <utf8proc.h>

namespace clamor {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

Utf8Char Invalid(size_t size) { return {Utf8Validity::kInvalid, 0, size}; }

}  // namespace

// Table 3-7 of the Unicode standard: only the second byte has a range of its own.
Utf8Char FirstChar(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return {Utf8Validity::kValid, first, 1};
  if (first < 0xC2 || first > 0xF4) return Invalid(1);
  const size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  uint32_t code = first & (0x7Fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if (i == text.size()) return {Utf8Validity::kIncomplete, 0, i};
    const auto next = static_cast<unsigned char>(text[i]);
    if (next < low || next > high) return Invalid(i);
    low = 0x80;
    high = 0xBF;
    code = code << 6 | (next & 0x3Fu);
  }
  return {Utf8Validity::kValid, code, size};
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = FirstChar(text.substr(at));
    if (c.validity != Utf8Validity::kValid) return at;
    at += c.size;
  }
  return std::nullopt;
}

void AppendUtf8(uint32_t code, std::string* out) {
  utf8proc_uint8_t buffer[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), buffer);
  out->append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(size));
}

size_t AppendLossyUtf8(std::string_view bytes, bool at_end, std::string* out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Char c = FirstChar(bytes.substr(at));
    if (c.validity == Utf8Validity::kIncomplete && !at_end) break;
    out->append(c.validity == Utf8Validity::kValid ? bytes.substr(at, c.size) : kReplacement);
    at += c.size;
  }
  return at;
}

bool IsAscii(std::string_view text) {
  unsigned char all = 0;
  for (const char c : text) all |= static_cast<unsigned char>(c);
  return all < 0x80;
}

bool IsWhitespace(uint32_t code) {
  return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

bool IsNumeric(uint32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool IsWord(uint32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return code == 0x200C || code == 0x200D || (code >= 0x24B6 && code <= 0x24E9);
  }
}

}  // namespace clamor
