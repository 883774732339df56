// Gradients of what a row makes of itself and of products, the loss, the optimizer.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/elementwise_backward.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_backward.h"
#include "kernels/cuda/rope_backward.h"
#include "kernels/cuda/top_k.h"
#include "kernels/elementwise.h"
#include "kernels/elementwise_backward.h"
#include "kernels/matmul.h"
#include "kernels/matmul_backward.h"
#include "kernels/packed_rows.h"
#include "kernels/rope.h"
#include "tests/kernels/cuda/conformance.h"

namespace clamor::kernels::cuda {
namespace {

constexpr float kEps = 1e-5f;

// Results by row: the gradient of x added to d, and rounded; the terms of the weight's gradient.
Problem NormGradient(Random& random, int rows) {
  const int n = 8 * random.Between(1, 140);
  const std::vector<float> x = random.Floats(rows * n, -2, 2), weight = random.Floats(n),
                           dy = random.Floats(rows * n), d = random.Floats(rows * n);
  return {.reference =
              [=] {
                std::vector<float> dx = dy, sums(rows * n), terms(rows * n);
                for (int r = 0; r < rows; ++r)
                  reference::RmsNormBackward(&x[r * n], n, weight.data(), kEps, &dx[r * n], &terms[r * n]);
                for (int i = 0; i < rows * n; ++i) sums[i] = d[i] + dx[i];
                return Results{{sums}, {Rounded(sums)}, {terms}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                std::vector<float> dx = dy, sums(rows * n), terms(rows * n);
                for (int r = 0; r < rows; ++r)
                  kernels::RmsNormBackward(&x[r * n], n, 1, 1, n, weight.data(), kEps, &dx[r * n], n,
                                           &terms[r * n], pool);
                kernels::Add(d.data(), dx.data(), rows * n, sums.data(), pool);
                return Results{{sums}, {Rounded(sums)}, {terms}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                // Rows in another order, by `which`.
                std::vector<int32_t> which(count);
                std::vector<float> from(count * n), to(count * n);
                for (int r = 0; r < count; ++r) {
                  which[r] = (r + 1) % count;
                  std::copy_n(&x[r * n], n, &from[which[r] * n]);
                  std::copy_n(&d[r * n], n, &to[which[r] * n]);
                }
                DeviceArray<float> dx(stream, from), w(stream, weight), ddy(stream, First(dy, count * n)),
                    dd(stream, to), terms(stream, count * n);
                DeviceArray<int32_t> chosen(stream, which);
                DeviceArray<uint16_t> rounded(stream, count * n);
                RmsNormBackward({.x = dx.data(),
                                 .which = chosen.data(),
                                 .weight = w.data(),
                                 .eps = kEps,
                                 .dy = ddy.data(),
                                 .rows = count,
                                 .n = n,
                                 .d = dd.data(),
                                 .rounded = rounded.data(),
                                 .terms = terms.data()},
                                stream);
                const std::vector<float> sums = dd.Read(), short_sums = Widened(rounded.Read());
                Results results = {
                    {std::vector<float>(count * n)}, {std::vector<float>(count * n)}, {terms.Read()}};
                for (int r = 0; r < count; ++r) {
                  std::copy_n(&sums[which[r] * n], n, &results[0].values[r * n]);
                  std::copy_n(&short_sums[which[r] * n], n, &results[1].values[r * n]);
                }
                return results;
              }};
}

// In the order that the header states; in fp32, and of what bf16 holds.
Problem RowSums(Random& random, int units) {
  const int n = random.Between(1, 300), rows = units == 1 ? 200 : units;
  const std::vector<float> x = random.BF16s(rows * n), before = random.Floats(n);
  return {.reference =
              [=] {
                std::vector<float> sums = before;
                for (int first = 0; first < rows; first += static_cast<int>(kSumRows)) {
                  for (int i = 0; i < n; ++i) {
                    float sum = 0;
                    for (int r = first; r < std::min(rows, first + static_cast<int>(kSumRows)); ++r)
                      sum += x[r * n + i];
                    sums[i] += sum;
                  }
                }
                return Results{{.values = sums, .cpu = 1e-5}, {.values = sums, .cpu = 1e-5}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                PackedRows packed;
                packed.Pack(x.data(), n, rows, n, pool);
                std::vector<float> sums = before;
                AddBiasGradient(packed, sums.data(), pool);
                return Results{{sums}, {sums}};
              },
          .device =
              [=](cudaStream_t stream, int) {
                DeviceArray<float> wide(stream, x), a(stream, before), b(stream, before),
                    partial(stream, RowSumsWorkspace(rows, n));
                DeviceArray<uint16_t> narrow(stream, BF16sOf(x));
                AddRowSums(wide.data(), rows, n, partial.data(), a.data(), stream);
                AddRowSums(narrow.data(), rows, n, partial.data(), b.data(), stream);
                return Results{{a.Read()}, {b.Read()}};
              }};
}

// Results by row: the gradient of the product, and the terms of the norms' gradients.
Problem RopeGradient(Random& random, int rows) {
  const int kv_heads = random.Between(1, 2), heads = kv_heads * random.Between(1, 5),
            dim = 16 * random.Between(1, 4), rotated = heads + kv_heads, all = rotated + kv_heads,
            half = dim / 2, positions = 60;
  const bool norm = random.Between(0, 1) == 1;
  const std::vector<float> d_qkv = random.Floats(rows * all * dim),
                           qkv = random.Floats(rows * all * dim, -2, 2), q_norm = random.Floats(dim),
                           k_norm = random.Floats(dim);
  const std::vector<int32_t> at = random.Ints(rows, 0, positions - 1);
  std::vector<double> frequencies;
  for (int i = 0; i < half; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / dim));
  const auto table = std::make_shared<RopeTable>(frequencies, positions);
  // Undoes the norm of each head with undo(x, dy, weight, terms).
  const auto norms = [=](std::vector<float> d, auto undo) {
    Results results(3);
    for (int r = 0; norm && r < rows; ++r) {
      for (int h = 0; h < rotated; ++h) {
        std::vector<float> terms(dim);
        undo(&qkv[(r * all + h) * dim], &d[(r * all + h) * dim], h < heads ? q_norm : k_norm, terms.data());
        std::vector<float>& to = results[h < heads ? 1 : 2].values;
        to.insert(to.end(), terms.begin(), terms.end());
      }
    }
    results[0].values = Rounded(d);
    return results;
  };
  return {
      .reference =
          [=] {
            std::vector<float> d = d_qkv;
            for (int r = 0; r < rows; ++r) {
              for (int h = 0; h < rotated; ++h) {
                float* const head = &d[(r * all + h) * dim];
                for (int i = 0; i < half; ++i) {
                  const float a = head[i], b = head[half + i];
                  const float c = table->cos(at[r])[i], s = -table->sin(at[r])[i];
                  head[i] = std::fma(a, c, -(b * s));
                  head[half + i] = std::fma(b, c, a * s);
                }
              }
            }
            return norms(d, [=](const float* x, float* dy, const std::vector<float>& weight, float* terms) {
              reference::RmsNormBackward(x, dim, weight.data(), kEps, dy, terms);
            });
          },
      .cpu =
          [=](ThreadPool& pool) {
            std::vector<float> d = d_qkv;
            kernels::RopeBackward(d.data(), rows, all * dim, rotated, at.data(), *table, pool);
            return norms(d, [&](const float* x, float* dy, const std::vector<float>& weight, float* terms) {
              kernels::RmsNormBackward(x, dim, 1, 1, dim, weight.data(), kEps, dy, dim, terms, pool);
            });
          },
      .device =
          [=](cudaStream_t stream, int count) {
            const int size = count * all * dim, angles = positions * half;
            DeviceArray<float> d(stream, First(d_qkv, size)), raw(stream, First(qkv, size)),
                qn(stream, q_norm), kn(stream, k_norm),
                c(stream, std::vector<float>(table->cos(0), table->cos(0) + angles)),
                s(stream, std::vector<float>(table->sin(0), table->sin(0) + angles)),
                q_terms(stream, count * heads * dim), k_terms(stream, count * kv_heads * dim);
            DeviceArray<int32_t> p(stream, First(at, count));
            DeviceArray<uint16_t> rounded(stream, size);
            RopeBackward({.d_qkv = d.data(),
                          .qkv = raw.data(),
                          .q_norm = norm ? qn.data() : nullptr,
                          .k_norm = norm ? kn.data() : nullptr,
                          .eps = kEps,
                          .cos = c.data(),
                          .sin = s.data(),
                          .positions = p.data(),
                          .rows = count,
                          .heads = heads,
                          .kv_heads = kv_heads,
                          .head_dim = dim,
                          .rounded = rounded.data(),
                          .q_terms = norm ? q_terms.data() : nullptr,
                          .k_terms = norm ? k_terms.data() : nullptr},
                         stream);
            Results results = {{Widened(rounded.Read())}, {}, {}};
            if (norm) {
              results[1].values = q_terms.Read();
              results[2].values = k_terms.Read();
            }
            return results;
          }};
}

Problem GateGradient(Random& random, int rows) {
  const int n = 8 * random.Between(1, 140);
  const std::vector<float> gate_up = random.Floats(rows * 2 * n, -120, 120), d_out = random.Floats(rows * n);
  return {
      .reference =
          [=] {
            std::vector<float> d(gate_up.size());
            for (int r = 0; r < rows; ++r) {
              for (int i = 0; i < n; ++i) {
                const float g = gate_up[r * 2 * n + i], u = gate_up[r * 2 * n + n + i], dy = d_out[r * n + i];
                const float denominator = 1.0f + Exp(0.0f - g), q = 1.0f / denominator;
                d[r * 2 * n + i] = dy * u * (q * std::fma(g, 1.0f - q, 1.0f));
                d[r * 2 * n + n + i] = dy * (g / denominator);
              }
            }
            return Results{{Rounded(d)}};
          },
      .cpu =
          [=](ThreadPool& pool) {
            std::vector<float> d = gate_up;
            kernels::SiluGateBackward(d.data(), d_out.data(), rows, n, pool);
            return Results{{Rounded(d)}};
          },
      .device =
          [=](cudaStream_t stream, int count) {
            DeviceArray<float> in(stream, First(gate_up, count * 2 * n)), d(stream, First(d_out, count * n));
            DeviceArray<uint16_t> out(stream, count * 2 * n);
            SiluGateBackward(in.data(), d.data(), count, n, out.data(), stream);
            return Results{{Widened(out.Read())}};
          }};
}

Problem EmbeddingGradient(Random& random, int rows) {
  const int n = 8 * random.Between(1, 60), vocabulary = random.Between(1, 9);
  const std::vector<int32_t> tokens = random.Ints(rows, 0, vocabulary - 1);
  const std::vector<float> d = random.Floats(rows * n), before = random.Floats(vocabulary * n);
  return {
      .reference =
          [=] {
            std::vector<float> gradient = before;
            for (int r = 0; r < rows; ++r) {
              for (int i = 0; i < n; ++i) gradient[tokens[r] * n + i] += d[r * n + i];
            }
            return Results{{gradient}};
          },
      .cpu =
          [=](ThreadPool& pool) {
            std::vector<float> gradient = before;
            kernels::AddEmbeddingGradient(tokens.data(), d.data(), rows, n, gradient.data(), pool);
            return Results{{gradient}};
          },
      .device =
          [=](cudaStream_t stream, int) {
            std::vector<int32_t> order(rows);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return tokens[a] < tokens[b]; });
            DeviceArray<int32_t> ids(stream, tokens), by_token(stream, order);
            DeviceArray<float> dd(stream, d), gradient(stream, before);
            AddEmbeddingGradient(ids.data(), by_token.data(), dd.data(), rows, n, gradient.data(), stream);
            return Results{{gradient.Read()}};
          }};
}

// Results by row: losses, and the gradient of the logits. One row is as wide as vocabularies come.
Problem Loss(Random& random, int rows) {
  const int32_t n = rows == 1 ? 151'936 : random.Between(1, 700), stride = n + random.Between(0, 7);
  const float scale = 0.01f;
  const std::vector<float> logits = random.Floats(rows * stride, -9, 9);
  const std::vector<int32_t> targets = random.Ints(rows, 0, n - 1);
  return {.reference =
              [=] {
                std::vector<float> losses, d(rows * stride);
                for (int r = 0; r < rows; ++r) {
                  const float* const row = &logits[r * stride];
                  const float maximum = *std::max_element(row, row + n);
                  float sums[kTopKSums] = {};
                  for (int32_t i = 0; i < n; ++i) sums[i % kTopKSums] += Exp(row[i] - maximum);
                  reference::PartialSums of_warps;
                  for (int w = 0; w < kTopKSums / 32; ++w) {
                    float* const s = sums + 32 * w;
                    for (int fold = 16; fold > 0; fold /= 2) {
                      for (int i = 0; i < fold; ++i) s[i] += s[i + fold];
                    }
                    of_warps.Add(w, s[0]);
                  }
                  const float total = of_warps.Fold(), factor = scale / total;
                  losses.push_back(maximum + Log(total) - row[targets[r]]);
                  for (int32_t i = 0; i < n; ++i)
                    d[r * stride + i] = Exp(row[i] - maximum) * factor - (i == targets[r] ? scale : 0.0f);
                }
                return Results{{.values = losses, .cpu = 1e-6}, {.values = Rounded(d), .cpu = 4e-3}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                std::vector<float> losses(rows), d(rows * stride);
                for (int r = 0; r < rows; ++r) {
                  std::copy_n(&logits[r * stride], n, &d[r * stride]);
                  kernels::CrossEntropy(&d[r * stride], 1, n, &targets[r], scale, &losses[r], pool);
                }
                return Results{{losses}, {Rounded(d)}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                const int padded = count + 3;
                DeviceArray<float> in(stream, First(logits, count * stride)), losses(stream, count);
                DeviceArray<int32_t> to(stream, First(targets, count));
                DeviceArray<uint16_t> d(stream, padded * stride);
                CrossEntropy({.logits = in.data(),
                              .stride = stride,
                              .targets = to.data(),
                              .rows = count,
                              .n = n,
                              .scale = scale,
                              .losses = losses.data(),
                              .padded = padded,
                              .d_logits = d.data()},
                             stream);
                const std::vector<float> all = Widened(d.Read());
                EXPECT_EQ(std::vector<float>(all.begin() + count * stride, all.end()),
                          std::vector<float>(3 * stride));
                return Results{{losses.Read()}, {First(all, count * stride)}};
              }};
}

// ---- products

Problem InputGradient(Random& random, int rows) {
  const int n = 8 * random.Between(1, 9), k = 8 * random.Between(1, 9);
  const std::vector<float> dy = random.BF16s(rows * n), w = random.BF16s(n * k);
  return {.reference =
              [=] {
                std::vector<float> transposed(n * k);
                for (int i = 0; i < n * k; ++i) transposed[i % k * n + i / k] = w[i];
                return Results{
                    {.values = reference::MatMul(dy.data(), n, rows, transposed, k, n, {}), .device = 1e-6}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                PackedMatrix transposed(k, n, Storage::kF32);
                transposed.PackTransposed(0, n, w.data(), DType::kF32, pool);
                std::vector<float> dx(rows * k);
                MatMul(dy.data(), n, rows, transposed, nullptr, dx.data(), k, pool);
                return Results{{dx}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                std::vector<float> padded = First(dy, count * n);
                padded.resize(PaddedRows(count) * n, 7.0f);
                GradientPlans plans;
                DeviceArray<uint16_t> d(stream, BF16sOf(padded)), weights(stream, BF16sOf(w));
                DeviceArray<float> dx(stream, PaddedRows(count) * k);
                plans.InputGradient(d.data(), count, weights.data(), n, k, dx.data(), stream);
                return Results{{First(dx.Read(), count * k)}};
              }};
}

Problem WeightGradient(Random& random, int units) {
  const int n = 8 * random.Between(1, 9), k = 8 * random.Between(1, 9), rows = units == 1 ? 150 : units;
  const std::vector<float> dy = random.BF16s(rows * n), x = random.BF16s(rows * k),
                           before = random.Floats(n * k);
  return {.reference =
              [=] {
                std::vector<float> dw = before;
                for (int r = 0; r < rows; ++r) {
                  for (int i = 0; i < n * k; ++i)
                    dw[i] = std::fma(dy[r * n + i / k], x[r * k + i % k], dw[i]);
                }
                return Results{{.values = dw, .device = 1e-5}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                PackedRows packed_dy, packed_x;
                packed_dy.Pack(dy.data(), n, rows, n, pool);
                packed_x.Pack(x.data(), k, rows, k, pool);
                std::vector<float> dw = before;
                kernels::AddWeightGradient(packed_dy, packed_x, dw.data(), pool);
                return Results{{dw}};
              },
          .device =
              [=](cudaStream_t stream, int) {
                std::vector<float> padded_dy = dy, padded_x = x;
                padded_dy.resize(PaddedRows(rows) * n, 0.0f);
                padded_x.resize(PaddedRows(rows) * k, 7.0f);
                GradientPlans plans;
                DeviceArray<uint16_t> d(stream, BF16sOf(padded_dy)), in(stream, BF16sOf(padded_x));
                DeviceArray<float> dw(stream, before);
                plans.AddWeightGradient(d.data(), in.data(), rows, n, k, dw.data(), stream);
                return Results{{dw.Read()}};
              }};
}

// ---- the optimizer

Problem Optimizer(Random& random, int units) {
  const int n = 4 * random.Between(1, units == 1 ? 3000 : 300);
  const std::vector<float> gradients = random.Floats(n), parameters = random.Floats(n),
                           first = random.Floats(n), second = random.Floats(n, 0, 1);
  const double clip = random.Between(0, 1) == 1 ? 0.5 : 0.0;
  const AdamWStep step = {.learning_rate = 1e-2f,
                          .beta2 = 0.95f,
                          .weight_decay = 0.1f,
                          .correction1 = 0.3f,
                          .correction2_root = 0.2f};
  return {.reference =
              [=] {
                double squares = 0;
                for (int begin = 0; begin < n; begin += static_cast<int>(kSquaresPiece)) {
                  reference::PartialSums piece;
                  for (int i = begin; i < std::min(n, begin + static_cast<int>(kSquaresPiece)); ++i)
                    piece.AddSquare(i, gradients[i]);
                  squares += double{piece.Fold()};
                }
                const auto scale =
                    static_cast<float>(clip > 0 ? std::min(1.0, clip / (std::sqrt(squares) + 1e-6)) : 1.0);
                std::vector<float> p = parameters, m = first, v = second;
                for (int i = 0; i < n; ++i) {
                  const float g = gradients[i] * scale;
                  m[i] = std::fma(1.0f - step.beta1, g - m[i], m[i]);
                  v[i] = std::fma((1.0f - step.beta2) * g, g, step.beta2 * v[i]);
                  const float keep = 1.0f - step.learning_rate * step.weight_decay;
                  p[i] =
                      std::fma(-(step.learning_rate / step.correction1),
                               m[i] / (std::sqrt(v[i]) / step.correction2_root + step.epsilon), p[i] * keep);
                }
                return Results{{p}, {Rounded(p)}, {m}, {v}, {{static_cast<float>(squares)}}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                const double squares = SumOfSquares(gradients.data(), n, pool);
                AdamWStep scaled = step;
                scaled.gradient_scale =
                    static_cast<float>(clip > 0 ? std::min(1.0, clip / (std::sqrt(squares) + 1e-6)) : 1.0);
                std::vector<float> p = parameters, m = first, v = second;
                kernels::AdamW(scaled, gradients.data(), p.data(), m.data(), v.data(), n, pool);
                return Results{{p}, {Rounded(p)}, {m}, {v}, {{static_cast<float>(squares)}}};
              },
          .device =
              [=](cudaStream_t stream, int) {
                DeviceArray<float> g(stream, gradients), p(stream, parameters), m(stream, first),
                    v(stream, second), pieces(stream, SquaresPieces(n));
                DeviceArray<double> squares(stream, std::vector<double>(1));
                DeviceArray<uint16_t> rounded(stream, n);
                SumSquares(g.data(), n, pieces.data(), stream);
                AddInOrder(pieces.data(), SquaresPieces(n), squares.data(), stream);
                AdamW({.learning_rate = step.learning_rate,
                       .beta1 = step.beta1,
                       .beta2 = step.beta2,
                       .epsilon = step.epsilon,
                       .weight_decay = step.weight_decay,
                       .correction1 = step.correction1,
                       .correction2_root = step.correction2_root,
                       .squares = squares.data(),
                       .clip_norm = clip,
                       .gradients = g.data(),
                       .parameters = p.data(),
                       .first_moments = m.data(),
                       .second_moments = v.data(),
                       .rounded = rounded.data(),
                       .count = n},
                      stream);
                return Results{{p.Read()},
                               {Widened(rounded.Read())},
                               {m.Read()},
                               {v.Read()},
                               {{static_cast<float>(squares.Read()[0])}}};
              }};
}

}  // namespace

std::vector<Operator> BackwardOperators() {
  return {{"CrossEntropy", Loss, kRowCounts},
          {"MatMulInputGradient", InputGradient, kRowCounts},
          {"MatMulWeightGradient", WeightGradient, {}},
          {"SiluGateBackward", GateGradient, kRowCounts},
          {"RmsNormBackward", NormGradient, kRowCounts},
          {"QkNormRopeBackward", RopeGradient, kRowCounts},
          {"RowSums", RowSums, {}},
          {"EmbeddingGradient", EmbeddingGradient, {}},
          {"AdamW", Optimizer, {}}};
}

}  // namespace clamor::kernels::cuda
