// The 16-bit formats in which weights are stored, to and from fp32. The conversions to fp32 are exact.
//
// Tested by tests/kernels/float_formats_test.cc.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace clamor::kernels {

inline float FromBF16(uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); }

// To the nearest, ties to even.
inline uint16_t ToBF16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  // Rounding could carry a NaN into infinity.
  if (std::isnan(v)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// To the nearest, ties to even; from 65520 on that is infinity.
inline uint16_t ToF16(float v) {
  const uint32_t sign = std::bit_cast<uint32_t>(v) >> 16 & 0x8000;
  const uint32_t magnitude = std::bit_cast<uint32_t>(v) & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // below 2^-14: a subnormal, in steps of 2^-24, as floats from 1/2 to 1 have
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f)));
  }
  const uint32_t rebased = magnitude - (uint32_t{112} << 23);
  return static_cast<uint16_t>(sign | (rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
}

inline float FromF16(uint16_t v) {
  const uint32_t sign = uint32_t{v & 0x8000u} << 16;
  const uint32_t exponent = v >> 10 & 0x1f;
  const uint32_t fraction = v & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact
    return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f) | sign);
  }
  const uint32_t wide = exponent == 0x1f ? 0xff : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

}  // namespace clamor::kernels
