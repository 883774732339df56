#include "kernels/kv_layer.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/float_formats.h"

namespace clamor::kernels {
namespace {

// Where a vector lies in a tile: element i at first + i * step.
struct Place {
  std::byte* tile;
  int offset;  // of its slot in the page
  size_t first, step;
};
Place KeyPlace(const KvLayer& layer, int32_t slot, int head) {
  const int offset = slot % kPageSize;
  return {layer.KeyTile(slot / kPageSize, head), offset, static_cast<size_t>(offset), kPageSize};
}
Place ValuePlace(const KvLayer& layer, int32_t slot, int head) {
  const int offset = slot % kPageSize;
  return {layer.ValueTile(slot / kPageSize, head), offset, size_t{1} * offset * layer.head_dim, 1};
}

template <typename T>
T* Elements(std::byte* tile) {
  return reinterpret_cast<T*>(tile + (sizeof(T) == 1 ? kKvScalesBytes : 0));
}
float& ScaleAt(const Place& at) { return reinterpret_cast<float*>(at.tile)[at.offset]; }

float Int8Scale(const float* x, int n) {
  float greatest = 0.0f;
  bool finite = true;
  for (int i = 0; i < n; ++i) {
    const float magnitude = std::fabs(x[i]);
    finite &= magnitude <= FLT_MAX;
    greatest = std::max(greatest, magnitude);
  }
  return finite ? greatest / 127.0f : std::numeric_limits<float>::quiet_NaN();
}

// A scale below the normal numbers may have been rounded down by much, hence the clamp.
int8_t ToInt8(float x, float scale) {
  if (!(scale > 0.0f)) return 0;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  return static_cast<int8_t>(std::clamp(x / scale, -127.0f, 127.0f) + kMagic - kMagic);
}

template <typename T, class Fn>
void Store(const float* x, int n, const Place& at, Fn convert) {
  T* const to = Elements<T>(at.tile) + at.first;
  for (int i = 0; i < n; ++i) to[i * at.step] = convert(x[i]);
}
void Store(const float* x, const KvLayer& layer, const Place& at) {
  const int n = layer.head_dim;
  switch (layer.format) {
    case KvFormat::kF32:
      return Store<float>(x, n, at, [](float v) { return v; });
    case KvFormat::kBF16:
      return Store<uint16_t>(x, n, at, ToBF16);
    case KvFormat::kInt8:
      const float scale = ScaleAt(at) = Int8Scale(x, n);
      return Store<int8_t>(x, n, at, [scale](float v) { return ToInt8(v, scale); });
  }
}

template <typename T>
void Move(int n, const Place& from, const Place& to) {
  const T* const source = Elements<T>(from.tile) + from.first;
  T* const target = Elements<T>(to.tile) + to.first;
  for (int i = 0; i < n; ++i) target[i * to.step] = source[i * from.step];
}
void Move(const KvLayer& layer, const Place& from, const Place& to) {
  switch (layer.format) {
    case KvFormat::kF32:
      return Move<float>(layer.head_dim, from, to);
    case KvFormat::kBF16:
      return Move<uint16_t>(layer.head_dim, from, to);
    case KvFormat::kInt8:
      ScaleAt(to) = ScaleAt(from);
      return Move<int8_t>(layer.head_dim, from, to);
  }
}

}  // namespace

std::string_view KvFormatName(KvFormat format) {
  constexpr std::string_view kNames[] = {"fp32", "bf16", "int8"};
  return kNames[static_cast<int>(format)];
}

absl::StatusOr<KvFormat> ParseKvFormat(std::string_view name) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8}) {
    if (name == KvFormatName(format)) return format;
  }
  return absl::InvalidArgumentError(absl::StrCat("'", std::string(name), "' must be fp32, bf16 or int8"));
}

size_t KvTileBytes(KvFormat format, int head_dim) {
  const size_t elements = size_t{kPageSize} * head_dim;
  const size_t bytes = format == KvFormat::kF32    ? elements * sizeof(float)
                       : format == KvFormat::kBF16 ? elements * sizeof(uint16_t)
                                                   : elements + kKvScalesBytes;
  return (bytes + 63) / 64 * 64;
}

void StoreKv(const float* k, size_t k_stride, const float* v, size_t v_stride, int64_t rows,
             const int32_t* slots, const KvLayer& layer, ThreadPool& pool) {
  pool.ParallelFor(rows, 16, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      for (int h = 0; h < layer.kv_heads; ++h) {
        const size_t column = size_t{1} * h * layer.head_dim;
        Store(k + r * k_stride + column, layer, KeyPlace(layer, slots[r], h));
        Store(v + r * v_stride + column, layer, ValuePlace(layer, slots[r], h));
      }
    }
  });
}

void MoveKv(const KvLayer& layer, int32_t from, int32_t to) {
  if (from == to) return;
  for (int h = 0; h < layer.kv_heads; ++h) {
    Move(layer, KeyPlace(layer, from, h), KeyPlace(layer, to, h));
    Move(layer, ValuePlace(layer, from, h), ValuePlace(layer, to, h));
  }
}

}  // namespace clamor::kernels
