// One layer's cache of keys and values on the device, in pages of 16 tokens, bf16.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clamor::kernels::cuda {

inline constexpr int kPageTokens = 16;

// Borrowed device memory, 16-byte aligned. A slot is page * kPageTokens + offset. Unlike on the CPU, keys lie
// like values: the 16 vectors of a page and head one after the other, as ldmatrix wants them.
struct KvPages {
  uint16_t* keys;    // [pages][kv_heads][kPageTokens][head_dim]
  uint16_t* values;  // likewise
  int kv_heads;
  int head_dim;  // a multiple of 16, at most kMaxHeadDim
};
inline constexpr int kMaxHeadDim = 256;

// Where the vector of a slot and head begins.
constexpr size_t KvElement(int32_t slot, int head, int kv_heads, int head_dim) {
  const size_t page = static_cast<uint32_t>(slot) / kPageTokens,
               offset = static_cast<uint32_t>(slot) % kPageTokens;
  return ((page * kv_heads + head) * kPageTokens + offset) * head_dim;
}

}  // namespace clamor::kernels::cuda
