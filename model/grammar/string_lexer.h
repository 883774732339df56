// The inside of a JSON string, byte by byte, after the opening quote: valid UTF-8, no control characters,
// escapes. Escaped surrogates are left out; a character beyond U+FFFF is written as itself.
//
// Tested by tests/model/grammar/grammar_test.cc.
#pragma once

#include <cstdint>

namespace clamor {

// Where in a character.
enum class StringPart : uint8_t {
  kBetween,  // two characters
  kEscape,   // after a backslash
  kHex4,     // four hexadecimal digits to come
  kHex3AfterD,
  kHex3,
  kHex2,
  kHex1,
  kTail1,  // one byte of UTF-8 to come
  kTail2,
  kTail3,
  kTailE0,  // after that first byte, whose second has a range of its own (Unicode, table 3-7)
  kTailED,
  kTailF0,
  kTailF4,
  kClosed,   // after the closing quote
  kInvalid,  // no string goes on like that
};

namespace string_lexer {

inline bool IsHex(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

inline StringPart If(bool condition, StringPart part) { return condition ? part : StringPart::kInvalid; }

inline StringPart Begin(unsigned char c) {
  using enum StringPart;
  if (c == '"') return kClosed;
  if (c == '\\') return kEscape;
  if (c < 0x80) return If(c >= 0x20, kBetween);
  if (c < 0xE0) return If(c >= 0xC2, kTail1);
  if (c < 0xF0) return c == 0xE0 ? kTailE0 : c == 0xED ? kTailED : kTail2;
  return c == 0xF0 ? kTailF0 : c == 0xF4 ? kTailF4 : If(c < 0xF4, kTail3);
}

inline StringPart Escape(unsigned char c) {
  switch (c) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
      return StringPart::kBetween;
    default:
      return If(c == 'u', StringPart::kHex4);
  }
}

}  // namespace string_lexer

inline StringPart NextStringPart(StringPart part, unsigned char c) {
  using enum StringPart;
  using namespace string_lexer;  // NOLINT(google-build-using-namespace): its own parts
  const auto in = [c](unsigned char low, unsigned char high) { return c >= low && c <= high; };
  switch (part) {
    case kBetween:
      return Begin(c);
    case kEscape:
      return Escape(c);
    case kHex4:
      return c == 'd' || c == 'D' ? kHex3AfterD : If(IsHex(c), kHex3);
    case kHex3AfterD:
      return If(in('0', '7'), kHex2);
    case kHex3:
      return If(IsHex(c), kHex2);
    case kHex2:
      return If(IsHex(c), kHex1);
    case kHex1:
      return If(IsHex(c), kBetween);
    case kTail1:
      return If(in(0x80, 0xBF), kBetween);
    case kTail2:
      return If(in(0x80, 0xBF), kTail1);
    case kTail3:
      return If(in(0x80, 0xBF), kTail2);
    case kTailE0:
      return If(in(0xA0, 0xBF), kTail1);
    case kTailED:
      return If(in(0x80, 0x9F), kTail1);
    case kTailF0:
      return If(in(0x90, 0xBF), kTail2);
    case kTailF4:
      return If(in(0x80, 0x8F), kTail2);
    case kClosed:
    case kInvalid:
      return kInvalid;
  }
  return kInvalid;
}

}  // namespace clamor
