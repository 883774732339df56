// Attention over whole texts, as training has it, and its gradients.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/causal_attention.h"
#include "kernels/cuda/causal_attention.h"
#include "tests/kernels/cuda/conformance.h"

namespace clamor::kernels::cuda {
namespace {

struct Texts {
  std::vector<int64_t> starts;  // of each text, and the end of the last
  CausalShape shape;
  std::vector<float> qkv, d_out;  // in bf16

  int64_t rows() const { return starts.back(); }
};

Texts RandomTexts(Random& random, const std::vector<int>& lengths) {
  const CausalShape shapes[] = {{4, 2, 16, 0.25f, 0}, {3, 1, 32, 0.18f, 70},  {2, 1, 64, 0.125f, 0},
                                {2, 2, 96, 0.1f, 33}, {1, 1, 128, 0.09f, 64}, {4, 4, 16, 0.25f, 5}};
  Texts texts = {.starts = {0}, .shape = shapes[random.Between(0, 5)], .qkv = {}, .d_out = {}};
  for (const int length : lengths) texts.starts.push_back(texts.rows() + length);
  texts.qkv = random.BF16s(texts.rows() * texts.shape.row_size(), -2, 2);
  texts.d_out = random.BF16s(texts.rows() * texts.shape.out_size());
  return texts;
}

// In double, as calculus has it. d_qkv: null, or as large as qkv.
std::vector<double> DullAttention(const Texts& x, std::vector<double>* d_qkv) {
  const CausalShape& s = x.shape;
  std::vector<double> out(x.rows() * s.out_size());
  const auto at = [&](int64_t row, int head) { return row * s.row_size() + int64_t{head} * s.head_dim; };
  for (size_t t = 0; t + 1 < x.starts.size(); ++t) {
    for (int64_t r = x.starts[t]; r < x.starts[t + 1]; ++r) {
      const int64_t first = s.window > 0 ? std::max(x.starts[t], r + 1 - s.window) : x.starts[t];
      for (int head = 0; head < s.heads; ++head) {
        const int kv = s.heads + head / (s.heads / s.kv_heads);
        const float* const q = &x.qkv[at(r, head)];
        const auto dot = [&](const float* a, int64_t row, int of) {
          double sum = 0;
          for (int d = 0; d < s.head_dim; ++d) sum += double{a[d]} * x.qkv[at(row, of) + d];
          return sum;
        };
        std::vector<double> p;
        for (int64_t j = first; j <= r; ++j) p.push_back(std::exp(dot(q, j, kv) * s.scale));
        const double total = std::accumulate(p.begin(), p.end(), 0.0);
        for (double& v : p) v /= total;
        const float* const d = &x.d_out[r * s.out_size() + head * s.head_dim];
        double mean = 0;
        for (int64_t j = first; j <= r; ++j) {
          mean += p[j - first] * dot(d, j, kv + s.kv_heads);
          for (int c = 0; c < s.head_dim; ++c)
            out[r * s.out_size() + head * s.head_dim + c] += p[j - first] * x.qkv[at(j, kv + s.kv_heads) + c];
        }
        if (d_qkv == nullptr) continue;
        for (int64_t j = first; j <= r; ++j) {
          const double ds = p[j - first] * (dot(d, j, kv + s.kv_heads) - mean) * s.scale;
          for (int c = 0; c < s.head_dim; ++c) {
            (*d_qkv)[at(r, head) + c] += ds * x.qkv[at(j, kv) + c];
            (*d_qkv)[at(j, kv) + c] += ds * q[c];
            (*d_qkv)[at(j, kv + s.kv_heads) + c] += p[j - first] * d[c];
          }
        }
      }
    }
  }
  return out;
}

// What the device has of the first `rows` rows, the last text cut off there if need be.
struct DeviceTexts {
  DeviceTexts(cudaStream_t stream, const Texts& x, int64_t rows)
      : x(x),
        rows(rows),
        q(stream, BF16sOf(Heads(0, x.shape.heads))),
        keys(stream, Pages(x.shape.heads)),
        values(stream, Pages(x.shape.heads + x.shape.kv_heads)),
        tiles(stream, Tiles()),
        out(stream, rows * x.shape.out_size()),
        log_sum_exp(stream, rows * x.shape.heads) {}

  CausalAttentionArgs Args() {
    return {.q = q.data(),
            .kv = {.keys = keys.data(),
                   .values = values.data(),
                   .kv_heads = x.shape.kv_heads,
                   .head_dim = x.shape.head_dim},
            .tiles = tiles.data(),
            .tile_count = static_cast<int64_t>(Tiles().size()),
            .heads = x.shape.heads,
            .scale = x.shape.scale,
            .window = x.shape.window,
            .out = out.data(),
            .log_sum_exp = log_sum_exp.data()};
  }

  std::vector<TextTile> Tiles() const {
    std::vector<TextTile> tiles;
    for (size_t t = 0; t + 1 < x.starts.size() && x.starts[t] < rows; ++t) {
      const auto begin = static_cast<int32_t>(x.starts[t]);
      const auto end = static_cast<int32_t>(std::min(rows, x.starts[t + 1]));
      for (int32_t first = begin; first < end; first += kTextTile) tiles.push_back({begin, end, first});
    }
    return tiles;
  }
  // Heads [begin, end) of each row.
  std::vector<float> Heads(int begin, int end) const {
    std::vector<float> v;
    for (int64_t r = 0; r < rows; ++r) {
      const auto row = x.qkv.begin() + r * x.shape.row_size();
      v.insert(v.end(), row + begin * x.shape.head_dim, row + end * x.shape.head_dim);
    }
    return v;
  }
  // Key heads `first` and on as pages; NaN where there are no rows.
  std::vector<uint16_t> Pages(int first) const {
    const int dim = x.shape.head_dim, kv = x.shape.kv_heads;
    std::vector<uint16_t> pages((rows + kPageTokens - 1) / kPageTokens * kPageTokens * kv * dim, 0x7fc0);
    for (int64_t r = 0; r < rows; ++r) {
      for (int h = 0; h < kv; ++h) {
        for (int d = 0; d < dim; ++d) {
          pages[((r / 16 * kv + h) * 16 + r % 16) * dim + d] =
              BF16Of(x.qkv[r * x.shape.row_size() + (first + h) * dim + d]);
        }
      }
    }
    return pages;
  }

  const Texts& x;
  const int64_t rows;
  DeviceArray<uint16_t> q, keys, values;
  DeviceArray<TextTile> tiles;
  DeviceArray<uint16_t> out;
  DeviceArray<float> log_sum_exp;
};

// Units are rows: a row does not see those behind it, so a text may end anywhere.
Problem TextAttention(Random& random, int rows) {
  std::vector<int> lengths;
  for (int left = rows; left > 0; left -= lengths.back()) {
    const int length = lengths.empty() ? 70 : random.Between(1, 40);
    lengths.push_back(std::min(left, length));
  }
  const Texts x = RandomTexts(random, lengths);
  return {.reference =
              [=] {
                const std::vector<double> out = DullAttention(x, nullptr);
                return Results{{.values = {out.begin(), out.end()}, .cpu = 1e-5, .device = 6e-3}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                std::vector<float> out(rows * x.shape.out_size());
                kernels::CausalAttention(x.qkv.data(), x.starts, x.shape, out.data(), pool);
                return Results{{out}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                DeviceTexts texts(stream, x, count);
                CausalAttention(texts.Args(), stream);
                return Results{{Widened(texts.out.Read())}};
              }};
}

// Units are texts.
Problem TextAttentionBackward(Random& random, int units) {
  std::vector<int> lengths;
  for (int i = 0; i < units; ++i) lengths.push_back(i == 1 ? 75 : i == 3 ? 64 : random.Between(1, 50));
  const Texts x = RandomTexts(random, lengths);
  return {.reference =
              [=] {
                std::vector<double> d(x.qkv.size());
                DullAttention(x, &d);
                return Results{{.values = {d.begin(), d.end()}, .cpu = 1e-5, .device = 1e-2}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                std::vector<float> d_qkv(x.qkv.size());
                kernels::CausalAttentionBackward(x.qkv.data(), x.d_out.data(), x.starts, x.shape,
                                                 d_qkv.data(), pool);
                return Results{{d_qkv}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                const int64_t rows = x.starts[count], size = rows * x.shape.out_size();
                DeviceTexts texts(stream, x, rows);
                CausalAttention(texts.Args(), stream);
                DeviceArray<float> d_out(stream, First(x.d_out, size)),
                    products(stream, rows * x.shape.heads), d_qkv(stream, rows * x.shape.row_size());
                DeviceArray<uint16_t> rounded(stream, size);
                CausalAttentionBackward({.forward = texts.Args(),
                                         .d_out = d_out.data(),
                                         .rows = rows,
                                         .rounded = rounded.data(),
                                         .products = products.data(),
                                         .d_qkv = d_qkv.data()},
                                        stream);
                return Results{{d_qkv.Read()}};
              }};
}

}  // namespace

std::vector<Operator> TextOperators() {
  return {{"CausalAttention", TextAttention, kRowCounts},
          {"CausalAttentionBackward", TextAttentionBackward, kTextCounts}};
}

}  // namespace clamor::kernels::cuda
