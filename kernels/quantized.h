// Weights and activations as small integers, in groups of 32 along k that share a scale: value = q * scale.
//
// int8: q in [-127, 127]. scale = the group's largest magnitude / 127, rounded up to bf16, so that no q
// leaves the range; q = w * (1 / scale) to the nearest integer, ties to even.
// int4: q is one of the sixteen kInt4Values, dense where weights are: the best steps for normally distributed
// ones, as Lloyd's iteration finds them ("Least squares quantization in PCM", 1982), rounded to integers. Of
// the scales e / -22, e / -23, ..., e / -36, rounded to bf16, where e is the group's value of largest
// magnitude (the first of several), the one with the least sum of squared errors, or the first of several. So
// a scale may be negative: e is to become the value that reaches furthest. That sum is one fp32 fma chain in
// k order; q is the value nearest to w * (1 / scale), the lower one in the middle.
// Activations: q in [-127, 127], scale = largest magnitude / 127 in fp32; q = x * (127 / that magnitude) to
// the nearest, ties to even. A group that holds an infinity or a NaN has the scale NaN and q = 0: each of the
// row's outputs becomes NaN, on every target.
//
// In all three a group whose largest magnitude is below 2^-100 counts as zeros, scale 0. A last group that k
// does not fill is padded with zeros.
//
// Weights must be finite: infinities and NaN become arbitrary numbers.
// Tested by tests/kernels/quantized_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matmul.h"

namespace clamor::kernels {

inline constexpr int64_t kGroup = 32;
inline constexpr float kLeastMagnitude = 0x1p-100f;

inline bool IsQuantized(Storage stored) { return stored == Storage::kI8 || stored == Storage::kI4; }
inline int64_t GroupsFor(int64_t k) { return (k + kGroup - 1) / kGroup; }

inline constexpr int8_t kInt4Values[16] = {-31, -25, -19, -15, -12, -8, -5, -2, 0, 3, 6, 9, 12, 16, 21, 26};

// What is added to each q to multiply it without sign: that is how `vpdpbusd` wants one side. int8 is stored
// so, int4 as an index into kInt4Values.
inline int ZeroPoint(Storage stored) { return stored == Storage::kI8 ? 128 : 32; }

// A panel of sixteen columns is a sequence of pairs of groups, in lines of 64 bytes. First the scales, bf16
// [2][16], then eight lines (int4: four) of each group: int8 [k/4][16 columns][4 k]; int4 [k/8][16
// columns][4], the low half of a byte is one of k..k+3, the high half four k further. An odd last group
// leaves its pair half empty.
inline size_t LinesOfGroup(Storage stored) { return stored == Storage::kI8 ? 8 : 4; }
inline size_t BytesOfGroup(Storage stored) { return 64 * LinesOfGroup(stored); }
inline size_t BytesOfPair(Storage stored) { return 64 + 2 * BytesOfGroup(stored); }
// From the beginning of a panel to a group's sixteen scales and to its lines.
inline size_t ScalesOffset(Storage stored, int64_t group) {
  return group / 2 * BytesOfPair(stored) + group % 2 * 32;
}
inline size_t LinesOffset(Storage stored, int64_t group) {
  return group / 2 * BytesOfPair(stored) + 64 + group % 2 * BytesOfGroup(stored);
}

// One group of sixteen columns, as a panel has it.
struct ColumnGroup {
  uint16_t scales[16];
  alignas(64) uint8_t lines[512];  // int4: the first 256
};

// One group of a row of activations.
struct RowGroup {
  int8_t q[kGroup];
  float scale;
  int32_t correction;  // -ZeroPoint of the weights * the sum of q: takes their offset out of a dot product
};
static_assert(sizeof(RowGroup) == 40);

}  // namespace clamor::kernels
