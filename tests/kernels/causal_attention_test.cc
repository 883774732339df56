#include "kernels/causal_attention.h"

#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "kernels/elementwise.h"
#include "kernels/tree_attention.h"
#include "tests/kernels/central_differences.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

class CausalAttentionTest : public OnTarget {
 protected:
  // Rows as starts say, of texts with the given lengths.
  static std::vector<int64_t> Starts(const std::vector<int>& lengths) {
    std::vector<int64_t> starts = {0};
    for (const int length : lengths) starts.push_back(starts.back() + length);
    return starts;
  }
};

int FirstKey(int query, const CausalShape& s) { return s.window > 0 ? std::max(0, query + 1 - s.window) : 0; }

// The dull twin of both passes, one text: plain loops over queries and keys.
struct Twin {
  Twin(const float* qkv, int length, const CausalShape& shape) : qkv(qkv), length(length), s(shape) {}

  const float* Q(int head, int i) const { return qkv + i * s.row_size() + head * s.head_dim; }
  const float* K(int head, int i) const { return Q(s.heads + head / (s.heads / s.kv_heads), i); }
  const float* V(int head, int i) const { return Q(s.heads + s.kv_heads + head / (s.heads / s.kv_heads), i); }
  float Dot(const float* a, const float* b) const {
    float sum = 0;
    for (int d = 0; d < s.head_dim; ++d) sum = std::fma(a[d], b[d], sum);
    return sum;
  }
  // Weights of the keys FirstKey..query, and their sum.
  std::vector<float> Weights(int head, int query, float* total) const {
    std::vector<float> weights;
    float maximum = -reference::kInfinity;
    for (int j = FirstKey(query, s); j <= query; ++j) {
      weights.push_back(Dot(Q(head, query), K(head, j)) * s.scale);
      maximum = std::max(maximum, weights.back());
    }
    reference::PartialSums sums;
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] = Exp(weights[i] - maximum);
      sums.Add(FirstKey(query, s) + static_cast<int>(i), weights[i]);
    }
    *total = sums.Fold();
    return weights;
  }
  void Forward(float* out) const {
    for (int i = 0; i < length; ++i) {
      for (int head = 0; head < s.heads; ++head) {
        float total;
        const std::vector<float> weights = Weights(head, i, &total);
        for (int d = 0; d < s.head_dim; ++d) {
          float sum = 0;
          for (size_t j = 0; j < weights.size(); ++j)
            sum = std::fma(weights[j], V(head, FirstKey(i, s) + j)[d], sum);
          out[i * s.out_size() + head * s.head_dim + d] = sum / total;
        }
      }
    }
  }
  void Backward(const float* d_out, float* d_qkv) const {
    std::fill_n(d_qkv, length * s.row_size(), 0.0f);
    const auto at = [&](const float* of) { return d_qkv + (of - qkv); };
    for (int head = 0; head < s.heads; ++head) {
      for (int i = 0; i < length; ++i) {
        const float* d = d_out + i * s.out_size() + head * s.head_dim;
        float total;
        std::vector<float> p = Weights(head, i, &total), dp;
        float lanes[16] = {};
        for (size_t j = 0; j < p.size(); ++j) {
          const int key = FirstKey(i, s) + static_cast<int>(j);
          p[j] = p[j] / total;
          dp.push_back(Dot(d, V(head, key)));
          lanes[key % 16] = std::fma(p[j], dp[j], lanes[key % 16]);
        }
        reference::PartialSums mean;
        for (int lane = 0; lane < 16; ++lane) mean.Add(lane, lanes[lane]);
        for (size_t j = 0; j < p.size(); ++j) {
          const int key = FirstKey(i, s) + static_cast<int>(j);
          const float ds = p[j] * (dp[j] - mean.Fold()) * s.scale;
          for (int c = 0; c < s.head_dim; ++c) {
            float& dq = at(Q(head, i))[c];
            float& dk = at(K(head, key))[c];
            float& dv = at(V(head, key))[c];
            dq = std::fma(ds, K(head, key)[c], dq);
            dk = std::fma(ds, Q(head, i)[c], dk);
            dv = std::fma(p[j], d[c], dv);
          }
        }
      }
    }
  }

  const float* qkv;
  const int length;
  const CausalShape& s;
};

// Adding a masked key's zero may turn -0 into 0; that apart, the bits are the same.
testing::AssertionResult SameButForZeros(std::vector<float> expected, std::vector<float> actual) {
  for (float& v : expected) v += 0.0f;
  for (float& v : actual) v += 0.0f;
  return SameBits(expected, actual);
}

TEST_P(CausalAttentionTest, BothPassesFollowTheirTwin) {
  for (const CausalShape& shape : {CausalShape{4, 2, 12, 0.3f, 0},
                                   {4, 4, 16, 0.25f, 0},
                                   {6, 1, 24, 0.2f, 0},
                                   {2, 1, 64, 0.125f, 0},
                                   {4, 2, 8, 0.35f, 5},
                                   {2, 2, 40, 0.2f, 40}}) {
    const std::vector<int64_t> starts = Starts({1, 2, 15, 0, 16, 17, 47, 48, 49, 100});
    const int64_t rows = starts.back();
    const std::vector<float> qkv = Floats(rows * shape.row_size(), -2.0f, 2.0f);
    const std::vector<float> d_out = Floats(rows * shape.out_size());
    std::vector<float> expected(rows * shape.out_size()), expected_d(qkv.size());
    for (size_t t = 0; t + 1 < starts.size(); ++t) {
      const Twin twin(&qkv[starts[t] * shape.row_size()], static_cast<int>(starts[t + 1] - starts[t]), shape);
      twin.Forward(&expected[starts[t] * shape.out_size()]);
      twin.Backward(&d_out[starts[t] * shape.out_size()], &expected_d[starts[t] * shape.row_size()]);
    }
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      std::vector<float> out(expected.size()), d_qkv(qkv.size());
      CausalAttention(qkv.data(), starts, shape, out.data(), pool);
      CausalAttentionBackward(qkv.data(), d_out.data(), starts, shape, d_qkv.data(), pool);
      EXPECT_TRUE(SameButForZeros(expected, out)) << shape.head_dim;
      EXPECT_TRUE(SameButForZeros(expected_d, d_qkv)) << shape.head_dim;
    }
  }
}

// Training sees what decoding sees.
TEST_P(CausalAttentionTest, ForwardIsTreeAttention) {
  ThreadPool pool(2);
  const CausalShape shape = {.heads = 4, .kv_heads = 2, .head_dim = 24, .scale = 0.2f, .window = 30};
  constexpr int kRows = 70, kPages = 5;
  const std::vector<float> qkv = Floats(kRows * shape.row_size());
  const size_t size = kPages * 2 * KvTileBytes(KvFormat::kF32, 24);
  std::vector<std::byte> cache(2 * size + 64);
  std::byte* base = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(cache.data()) + 63) / 64 * 64);
  const KvLayer layer = {base, base + size, 2, 24};
  std::vector<int32_t> slots(kRows), pages(kPages);
  std::iota(slots.begin(), slots.end(), 0);
  std::iota(pages.begin(), pages.end(), 0);
  const int64_t stride = shape.row_size();
  StoreKv(qkv.data() + 4 * 24, stride, qkv.data() + 6 * 24, stride, kRows, slots.data(), layer, pool);
  std::vector<AttentionRow> rows;
  for (int i = 0; i < kRows; ++i) rows.push_back({.pages = pages.data(), .prefix = i + 1});
  std::vector<float> expected(kRows * shape.out_size()), actual(expected.size());
  TreeAttention(qkv.data(), stride, rows, 4, shape.scale, shape.window, layer, expected.data(),
                shape.out_size(), pool);
  CausalAttention(qkv.data(), Starts({kRows}), shape, actual.data(), pool);
  EXPECT_TRUE(SameButForZeros(expected, actual));
}

TEST_P(CausalAttentionTest, AgreesWithCentralDifferences) {
  ThreadPool pool(1);
  constexpr int kRows = 19;
  for (const int window : {0, 7}) {
    const CausalShape shape = {.heads = 2, .kv_heads = 1, .head_dim = 4, .scale = 0.5f, .window = window};
    const std::vector<float> qkv = Floats(kRows * shape.row_size()), seen = Floats(kRows * shape.out_size());
    const auto f = [&](const std::vector<double>& x) {
      double sum = 0;
      for (int i = 0; i < kRows; ++i) {
        for (int h = 0; h < 2; ++h) {
          std::vector<double> weights;
          double total = 0;
          for (int j = FirstKey(i, shape); j <= i; ++j) {
            double score = 0;
            for (int d = 0; d < 4; ++d) score += x[i * 16 + h * 4 + d] * x[j * 16 + 8 + d];
            total += weights.emplace_back(std::exp(score * shape.scale));
          }
          for (size_t j = 0; j < weights.size(); ++j) {
            for (int d = 0; d < 4; ++d) {
              sum += seen[i * 8 + h * 4 + d] * weights[j] / total * x[(FirstKey(i, shape) + j) * 16 + 12 + d];
            }
          }
        }
      }
      return sum;
    };
    std::vector<float> d_qkv(qkv.size());
    CausalAttentionBackward(qkv.data(), seen.data(), Starts({kRows}), shape, d_qkv.data(), pool);
    EXPECT_TRUE(Near(CentralDifferences(f, Doubles(qkv)), d_qkv.data())) << window;
  }
}

CLAMOR_ON_EVERY_TARGET(CausalAttentionTest);

}  // namespace
}  // namespace clamor::kernels
