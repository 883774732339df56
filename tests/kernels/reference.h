// The dull twins of kernels/: one loop per definition, in scalar std::fma, sharing nothing with what they
// check. The headers of kernels/ promise exactly these bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/tree_attention.h"

namespace clamor::kernels::reference {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sixteen partial sums by index mod 16, folded pairwise.
class PartialSums {
 public:
  void AddSquare(int64_t index, float x) { sums_[index % 16] = std::fma(x, x, sums_[index % 16]); }
  void Add(int64_t index, float x) { sums_[index % 16] += x; }
  float Fold() const {
    float eight[8], four[4];
    for (int i = 0; i < 8; ++i) eight[i] = sums_[i] + sums_[i + 8];
    for (int i = 0; i < 4; ++i) four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
  }

 private:
  float sums_[16] = {};
};

inline float RoundToBF16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const uint32_t low = bits & 0xffff;
  uint32_t high = bits >> 16;
  if (low > 0x8000 || (low == 0x8000 && high % 2 == 1)) ++high;
  return std::bit_cast<float>(high << 16);
}

// |v| < 65520; ties to even.
inline float RoundToFP16(float v) {
  const int exponent = v == 0 ? -14 : std::max(-14, std::ilogb(v));
  return std::copysign(std::ldexp(std::nearbyint(std::ldexp(v, 10 - exponent)), exponent - 10), v);
}

// w: [n, k]; bias: [n] or empty; result: [rows, n].
inline std::vector<float> MatMul(const float* x, size_t x_stride, int64_t rows, const std::vector<float>& w,
                                 int64_t n, int64_t k, const std::vector<float>& bias) {
  std::vector<float> y(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      float sum = 0.0f;
      for (int64_t i = 0; i < k; ++i) sum = std::fma(x[r * x_stride + i], w[c * k + i], sum);
      y[r * n + c] = bias.empty() ? sum : sum + bias[c];
    }
  }
  return y;
}

// 32 values as q * scale.
struct Group {
  int q[32] = {};
  float scale = 0;
};

inline int64_t Nearest(float v) { return static_cast<int64_t>(std::nearbyint(v)); }  // ties to even

inline float RoundUpToBF16(float v) {  // v >= 0
  const uint32_t high = std::bit_cast<uint32_t>(v) >> 16 << 16;
  return std::bit_cast<float>(std::bit_cast<float>(high) < v ? high + 0x10000 : high);
}

// The value of largest magnitude, the first of several.
inline float Extreme(const float (&v)[32]) {
  return *std::max_element(v, v + 32, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

inline Group QuantizeInt8(const float (&w)[32]) {
  Group g;
  const float largest = std::fabs(Extreme(w));
  if (largest < 0x1p-100f) return g;
  g.scale = RoundUpToBF16(largest / 127.0f);
  for (int i = 0; i < 32; ++i) g.q[i] = static_cast<int>(Nearest(w[i] * (1.0f / g.scale)));
  return g;
}

inline constexpr int kInt4[] = {-31, -25, -19, -15, -12, -8, -5, -2, 0, 3, 6, 9, 12, 16, 21, 26};

// The lower one in the middle between two.
inline int NearestInt4(float v) {
  return *std::min_element(std::begin(kInt4), std::end(kInt4), [&](int a, int b) {
    return std::fabs(static_cast<double>(v) - a) < std::fabs(static_cast<double>(v) - b);
  });
}

// The least error of several scales.
inline Group QuantizeInt4(const float (&w)[32]) {
  Group best;
  const float extreme = Extreme(w);
  if (std::fabs(extreme) < 0x1p-100f) return best;
  float least = 0;
  for (int reach = 22; reach <= 36; ++reach) {
    Group g;
    g.scale = RoundToBF16(extreme / static_cast<float>(-reach));
    float error = 0;
    for (int i = 0; i < 32; ++i) {
      g.q[i] = NearestInt4(w[i] * (1.0f / g.scale));
      const float miss = w[i] - static_cast<float>(g.q[i]) * g.scale;
      error = std::fma(miss, miss, error);
    }
    if (reach == 22 || error < least) {
      best = g;
      least = error;
    }
  }
  return best;
}

inline Group QuantizeActivations(const float (&x)[32]) {
  Group g;
  for (const float v : x) {
    if (!std::isfinite(v)) g.scale = std::numeric_limits<float>::quiet_NaN();
  }
  const float largest = std::fabs(Extreme(x));
  if (std::isnan(g.scale) || largest < 0x1p-100f) return g;
  g.scale = largest / 127.0f;
  for (int i = 0; i < 32; ++i) g.q[i] = static_cast<int>(Nearest(x[i] * (127.0f / largest)));
  return g;
}

// The groups of k values, the last one padded with zeros.
template <class Quantize>
std::vector<Group> GroupsOf(const float* values, int64_t k, Quantize quantize) {
  std::vector<Group> groups;
  for (int64_t first = 0; first < k; first += 32) {
    float group[32] = {};
    std::copy_n(values + first, std::min<int64_t>(32, k - first), group);
    groups.push_back(quantize(group));
  }
  return groups;
}

inline std::vector<Group> WeightGroups(const float* w, int64_t k, Storage stored) {
  return GroupsOf(w, k, stored == Storage::kI8 ? QuantizeInt8 : QuantizeInt4);
}

// With weights that are quantised as `stored` from w: [n, k].
inline std::vector<float> MatMulQuantized(const float* x, size_t x_stride, int64_t rows,
                                          const std::vector<float>& w, int64_t n, int64_t k, Storage stored,
                                          const std::vector<float>& bias) {
  std::vector<std::vector<Group>> columns;
  for (int64_t c = 0; c < n; ++c) columns.push_back(WeightGroups(w.data() + c * k, k, stored));
  std::vector<float> y(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<Group> row = GroupsOf(x + r * x_stride, k, QuantizeActivations);
    for (int64_t c = 0; c < n; ++c) {
      float sum = 0.0f;
      for (size_t g = 0; g < row.size(); ++g) {
        int dot = 0;
        for (int i = 0; i < 32; ++i) dot += row[g].q[i] * columns[c][g].q[i];
        sum = std::fma(static_cast<float>(dot), row[g].scale * columns[c][g].scale, sum);
      }
      y[r * n + c] = bias.empty() ? sum : sum + bias[c];
    }
  }
  return y;
}

inline void RmsNorm(const float* x, int64_t n, const float* weight, float eps, float* y) {
  PartialSums squares;
  for (int64_t i = 0; i < n; ++i) squares.AddSquare(i, x[i]);
  const float scale = 1.0f / std::sqrt(squares.Fold() / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

// One vector. dy becomes the gradient of x; that of weight is added to dweight.
inline void RmsNormBackward(const float* x, int64_t n, const float* weight, float eps, float* dy,
                            float* dweight) {
  PartialSums squares;
  for (int64_t i = 0; i < n; ++i) squares.AddSquare(i, x[i]);
  const float s = 1.0f / std::sqrt(squares.Fold() / static_cast<float>(n) + eps);
  float sums[16] = {};
  for (int64_t i = 0; i < n; ++i) sums[i % 16] = std::fma(x[i], weight[i] * dy[i], sums[i % 16]);
  PartialSums products;
  for (int64_t i = 0; i < 16; ++i) products.Add(i, sums[i]);
  const float c = products.Fold() * (s * s * s) / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) {
    dweight[i] = std::fma(dy[i], x[i] * s, dweight[i]);
    dy[i] = std::fma(-c, x[i], s * (weight[i] * dy[i]));
  }
}

inline float Silu(float v) { return v / (1.0f + Exp(-v)); }

// The keys of one row in logical order, already without those outside the window: what position, what slot.
struct Key {
  int64_t position;
  int32_t slot;
};
inline std::vector<Key> VisibleKeys(const AttentionRow& row, int32_t window) {
  std::vector<Key> keys;
  for (int32_t p = 0; p < row.prefix; ++p)
    keys.push_back({p, row.pages[p / kPageSize] * kPageSize + p % kPageSize});
  for (int32_t e = 0; e < row.extra_count; ++e) keys.push_back({row.prefix + e, row.extra[e]});
  if (window > 0 && keys.size() > static_cast<size_t>(window)) keys.erase(keys.begin(), keys.end() - window);
  return keys;
}

// One stored element of a tile of the cache, as attention reads it.
inline float Widened(KvFormat format, const std::byte* tile, int offset, int64_t element) {
  const auto at = [&](auto type, int64_t bytes) {
    std::memcpy(&type, tile + bytes, sizeof(type));
    return type;
  };
  if (format == KvFormat::kF32) return at(float(), element * 4);
  if (format == KvFormat::kBF16) return std::bit_cast<float>(uint32_t{at(uint16_t(), element * 2)} << 16);
  return static_cast<float>(at(int8_t(), 64 + element)) * at(float(), offset * 4);
}
inline int64_t TileAt(const KvLayer& layer, int32_t slot, int kv_head) {
  const int64_t bytes = layer.format == KvFormat::kF32 ? 4 : layer.format == KvFormat::kBF16 ? 2 : 1;
  int64_t tile = 16 * layer.head_dim * bytes + (layer.format == KvFormat::kInt8 ? 64 : 0);
  while (tile % 64 != 0) ++tile;
  return (int64_t{slot / 16} * layer.kv_heads + kv_head) * tile;
}
inline float KeyElement(const KvLayer& layer, int32_t slot, int kv_head, int d) {
  return Widened(layer.format, layer.keys + TileAt(layer, slot, kv_head), slot % 16, d * 16 + slot % 16);
}
inline float ValueElement(const KvLayer& layer, int32_t slot, int kv_head, int d) {
  return Widened(layer.format, layer.values + TileAt(layer, slot, kv_head), slot % 16,
                 slot % 16 * layer.head_dim + d);
}

// What one chunk of keys leaves of a query: exp(score - maximum) as weights.
struct AttentionPart {
  float maximum = -kInfinity;
  float totals[16] = {};    // of weights, by logical position mod 16
  std::vector<float> sums;  // of weight * value
};

inline AttentionPart AttendToKeys(const float* q, std::span<const Key> keys, int kv_head, float scale,
                                  const KvLayer& layer) {
  const int dim = layer.head_dim;
  AttentionPart part;
  part.sums.assign(dim, 0.0f);
  std::vector<float> scores;
  for (const Key& key : keys) {
    float score = 0.0f;
    for (int d = 0; d < dim; ++d) score = std::fma(q[d], KeyElement(layer, key.slot, kv_head, d), score);
    scores.push_back(score * scale);
    part.maximum = std::max(part.maximum, scores.back());
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    const float weight = Exp(scores[i] - part.maximum);
    part.totals[keys[i].position % 16] += weight;
    for (int d = 0; d < dim; ++d) {
      part.sums[d] = std::fma(weight, ValueElement(layer, keys[i].slot, kv_head, d), part.sums[d]);
    }
  }
  return part;
}

// Both parts as if their maximum were the greater one.
inline AttentionPart Fold(const AttentionPart& a, const AttentionPart& b) {
  AttentionPart both = a;
  both.maximum = std::max(a.maximum, b.maximum);
  const float of_a = Exp(a.maximum - both.maximum), of_b = Exp(b.maximum - both.maximum);
  for (int i = 0; i < 16; ++i) both.totals[i] = std::fma(b.totals[i], of_b, a.totals[i] * of_a);
  for (size_t d = 0; d < a.sums.size(); ++d) both.sums[d] = std::fma(b.sums[d], of_b, a.sums[d] * of_a);
  return both;
}

// One query head of one row; out: [head_dim].
inline void Attention(const float* q, const AttentionRow& row, int kv_head, float scale, int32_t window,
                      const KvLayer& layer, float* out) {
  const std::vector<Key> keys = VisibleKeys(row, window);
  AttentionPart all;
  for (size_t begin = 0, end; begin < keys.size(); begin = end) {
    const int64_t chunk = keys[begin].position / kKeyChunk;
    for (end = begin; end < keys.size() && keys[end].position / kKeyChunk == chunk;) ++end;
    const AttentionPart part =
        AttendToKeys(q, std::span(keys).subspan(begin, end - begin), kv_head, scale, layer);
    all = begin == 0 ? part : Fold(all, part);
  }
  PartialSums total;
  for (int i = 0; i < 16; ++i) total.Add(i, all.totals[i]);
  for (int d = 0; d < layer.head_dim; ++d) out[d] = all.sums[d] / total.Fold();
}

inline void TopK(const float* logits, int64_t n, int k, int32_t* ids, float* values, float* log_sum_exp) {
  std::vector<int32_t> order;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isnan(logits[i])) order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (int i = 0; i < k; ++i) {
    const bool there = i < static_cast<int>(order.size());
    ids[i] = there ? order[i] : -1;
    values[i] = there ? logits[order[i]] : -kInfinity;
  }
  if (std::isinf(values[0])) {
    *log_sum_exp = values[0];
    return;
  }
  PartialSums sums;
  for (int64_t i = 0; i < n; ++i) sums.Add(i, Exp(logits[i] - values[0]));
  *log_sum_exp = values[0] + Log(sums.Fold());
}

}  // namespace clamor::kernels::reference
