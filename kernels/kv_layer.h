// One layer's cache of keys and values, in pages of kPageSize tokens, held as fp32, bf16 or int8.
//
// What is stored of a position depends on its own key and value alone, and is widened to fp32 when it is
// read. fp32 is stored as it is. bf16 is rounded to the nearest, ties to even: a NaN stays one, and what lies
// beyond the largest bf16 becomes infinity. int8 goes by vector, the key or the value of one position and
// head: with scale = greatest magnitude / 127, an element is x / scale, rounded to the nearest, ties to even,
// and reads as element * scale, rounded once. A vector with a NaN or an infinity reads as NaN throughout, one
// so small that its scale is 0 as zeros.
//
// Tested by tests/kernels/kv_layer_test.cc, and by tests/kernels/tree_attention_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"

namespace clamor::kernels {

inline constexpr int kPageSize = 16;  // tokens; also the width by which sums over keys are split

enum class KvFormat : uint8_t { kF32, kBF16, kInt8 };

std::string_view KvFormatName(KvFormat format);                 // "fp32", "bf16" or "int8"
absl::StatusOr<KvFormat> ParseKvFormat(std::string_view name);  // INVALID_ARGUMENT names all three

// Bytes of a tile: the keys, or the values, of one page and head. A multiple of 64.
size_t KvTileBytes(KvFormat format, int head_dim);
inline constexpr size_t kKvScalesBytes = kPageSize * sizeof(float);  // at the head of an int8 tile

// Borrowed memory; both 64-byte aligned. A slot is page * kPageSize + offset.
// A tile of keys is [head_dim][kPageSize], so that vectors run across keys; one of values
// [kPageSize][head_dim], so that vectors run across head_dim. In int8 the kPageSize scales come first.
struct KvLayer {
  std::byte* keys = nullptr;    // [pages][kv_heads] tiles
  std::byte* values = nullptr;  // likewise
  int kv_heads = 0;
  int head_dim = 0;
  KvFormat format = KvFormat::kF32;

  std::byte* KeyTile(int32_t page, int head) const { return keys + TileAt(page, head); }
  std::byte* ValueTile(int32_t page, int head) const { return values + TileAt(page, head); }
  size_t TileAt(int32_t page, int head) const {
    return (size_t{static_cast<uint32_t>(page)} * kv_heads + head) * KvTileBytes(format, head_dim);
  }
};

// Writes row r of k and v ([rows, kv_heads * head_dim], row strides in floats) to slot slots[r] of the layer.
void StoreKv(const float* k, size_t k_stride, const float* v, size_t v_stride, int64_t rows,
             const int32_t* slots, const KvLayer& layer, ThreadPool& pool);

// Copies the key and value of slot `from` to slot `to`, bit for bit.
void MoveKv(const KvLayer& layer, int32_t from, int32_t to);

}  // namespace clamor::kernels
