// A JSON number, byte by byte. Its parts are bounded, so that it ends, fits in 64 bits if it is an integer,
// and is finite as a double.
//
// Tested by tests/model/grammar/grammar_test.cc.
#pragma once

#include <cstdint>

namespace clamor {

enum class NumberPart : uint8_t {
  kMinus,
  kZero,
  kInteger,
  kPoint,
  kFraction,
  kE,
  kSign,
  kExponent,
  kInvalid
};

inline NumberPart NextNumberPart(NumberPart part, unsigned char c) {
  using enum NumberPart;
  const bool digit = c >= '0' && c <= '9';
  const bool e = c == 'e' || c == 'E';
  switch (part) {
    case kMinus:
      return c == '0' ? kZero : digit ? kInteger : kInvalid;
    case kZero:
      return c == '.' ? kPoint : e ? kE : kInvalid;
    case kInteger:
      return digit ? kInteger : c == '.' ? kPoint : e ? kE : kInvalid;
    case kPoint:
      return digit ? kFraction : kInvalid;
    case kFraction:
      return digit ? kFraction : e ? kE : kInvalid;
    case kE:
      return digit ? kExponent : c == '+' || c == '-' ? kSign : kInvalid;
    case kSign:
    case kExponent:
      return digit ? kExponent : kInvalid;
    case kInvalid:
      return kInvalid;
  }
  return kInvalid;
}

inline bool EndsNumber(NumberPart part) {
  using enum NumberPart;
  return part == kZero || part == kInteger || part == kFraction || part == kExponent;
}

inline bool IsNumberByte(unsigned char c) {
  return (c >= '0' && c <= '9') || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-';
}

inline bool IsIntegerSoFar(NumberPart part) { return part <= NumberPart::kInteger; }

// Whether digits in a row are in `part`, and how many may be.
inline bool CountsDigits(NumberPart part) {
  return part == NumberPart::kInteger || part == NumberPart::kFraction || part == NumberPart::kExponent;
}
inline uint32_t MaxDigits(NumberPart part) { return part == NumberPart::kExponent ? 2 : 18; }

}  // namespace clamor
