// The forward pass, in the order in which it meets them.
#include <bit>
#include <cmath>
#include <memory>
#include <tuple>

#include "kernels/cuda/bias.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/silu_gate.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "tests/kernels/cuda/attention_step.h"
#include "tests/kernels/cuda/conformance.h"

namespace clamor::kernels::cuda {
namespace {

constexpr float kEps = 1e-6f;

Problem Embedding(Random& random, int rows) {
  const int n = 8 * random.Between(1, 140), vocabulary = random.Between(1, 30);
  const std::vector<float> table = random.BF16s(vocabulary * n);
  const std::vector<int32_t> tokens = random.Ints(rows, 0, vocabulary - 1);
  return {.reference =
              [=] {
                std::vector<float> hidden;
                for (const int32_t token : tokens)
                  hidden.insert(hidden.end(), &table[token * n], &table[token * n] + n);
                return Results{{hidden}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                PackedMatrix packed(vocabulary, n, Storage::kBF16);
                packed.PackRows(0, vocabulary, table.data(), DType::kF32, pool);
                std::vector<float> hidden(rows * n);
                for (int r = 0; r < rows; ++r) packed.UnpackRow(tokens[r], &hidden[r * n]);
                return Results{{hidden}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                DeviceArray<uint16_t> t(stream, BF16sOf(table));
                DeviceArray<int32_t> ids(stream, First(tokens, count));
                DeviceArray<float> hidden(stream, count * n);
                Embed(t.data(), ids.data(), count, n, hidden.data(), stream);
                return Results{{hidden.Read()}};
              }};
}

Problem ResidualRmsNorm(Random& random, int rows) {
  const int n = 8 * random.Between(1, 140);
  const std::vector<float> hidden = random.Floats(rows * n, -3, 3), addend = random.Floats(rows * n),
                           weight = random.Floats(n);
  return {.reference =
              [=] {
                std::vector<float> sums(rows * n), y(rows * n);
                for (int i = 0; i < rows * n; ++i) sums[i] = hidden[i] + addend[i];
                for (int r = 0; r < rows; ++r)
                  reference::RmsNorm(&sums[r * n], n, weight.data(), kEps, &y[r * n]);
                return Results{{sums}, {Rounded(y)}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                std::vector<float> sums(rows * n), y(rows * n);
                kernels::Add(hidden.data(), addend.data(), rows * n, sums.data(), pool);
                kernels::RmsNorm(sums.data(), rows, n, weight.data(), kEps, y.data(), pool);
                return Results{{sums}, {Rounded(y)}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                DeviceArray<float> h(stream, First(hidden, count * n)), a(stream, First(addend, count * n)),
                    w(stream, weight);
                DeviceArray<uint16_t> y(stream, count * n);
                AddRmsNorm({.hidden = h.data(),
                            .addend = a.data(),
                            .which = nullptr,
                            .weight = w.data(),
                            .eps = kEps,
                            .rows = count,
                            .n = n,
                            .y = y.data()},
                           stream);
                return Results{{h.Read()}, {Widened(y.Read())}};
              }};
}

// Of rows that `which` names, which stay as they are; the sum goes to an array of its own where one is given.
Problem ChosenRmsNorm(Random& random, int rows) {
  const int n = 8 * random.Between(1, 40), all = rows + 3;
  const std::vector<float> hidden = random.Floats(all * n), weight = random.Floats(n);
  const std::vector<int32_t> which = random.Ints(rows, 0, all - 1);
  return {.reference =
              [=] {
                std::vector<float> y(rows * n);
                for (int r = 0; r < rows; ++r)
                  reference::RmsNorm(&hidden[which[r] * n], n, weight.data(), kEps, &y[r * n]);
                return Results{{Rounded(y)}, {hidden}};
              },
          .cpu = nullptr,
          .device =
              [=](cudaStream_t stream, int count) {
                DeviceArray<float> h(stream, hidden), w(stream, weight);
                DeviceArray<int32_t> chosen(stream, First(which, count));
                DeviceArray<uint16_t> y(stream, count * n);
                AddRmsNorm({.hidden = h.data(),
                            .addend = nullptr,
                            .which = chosen.data(),
                            .weight = w.data(),
                            .eps = kEps,
                            .rows = count,
                            .n = n,
                            .y = y.data()},
                           stream);
                return Results{{Widened(y.Read())}, {h.Read()}};
              }};
}

// Results by row: queries, and what lies in the row's slot of keys and of values.
Problem QkNormRopeKv(Random& random, int rows) {
  const int kv_heads = random.Between(1, 2), heads = kv_heads * random.Between(1, 7),
            dim = 16 * random.Between(1, 4), all = heads + 2 * kv_heads, half = dim / 2, positions = 70;
  const bool norm = random.Between(0, 1) == 1;
  const std::vector<float> qkv = random.Floats(rows * all * dim, -2, 2), q_norm = random.Floats(dim),
                           k_norm = random.Floats(dim);
  std::vector<double> frequencies;
  for (int i = 0; i < half; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / dim));
  const auto table = std::make_shared<RopeTable>(frequencies, positions);
  const std::vector<int32_t> at = random.Ints(rows, 0, positions - 1);
  const int pages = rows / kPageTokens + 2;
  std::vector<int32_t> slots(pages * kPageTokens);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int32_t>(i);
  random.Shuffle(slots);

  // All heads of all rows, [rows, all * dim], as queries, keys and values.
  const auto split = [=](const std::vector<float>& heads_of_rows) {
    Results results(3);
    for (int r = 0; r < rows; ++r) {
      const auto row = heads_of_rows.begin() + r * all * dim;
      const int ends[] = {0, heads * dim, (heads + kv_heads) * dim, all * dim};
      for (int i = 0; i < 3; ++i)
        results[i].values.insert(results[i].values.end(), row + ends[i], row + ends[i + 1]);
    }
    for (Array& array : results) array.values = Rounded(array.values);
    return results;
  };
  return {.reference =
              [=] {
                std::vector<float> out = qkv;
                for (int r = 0; r < rows; ++r) {
                  for (int h = 0; h < heads + kv_heads; ++h) {
                    float* const head = &out[(r * all + h) * dim];
                    if (norm) reference::RmsNorm(head, dim, (h < heads ? q_norm : k_norm).data(), kEps, head);
                    for (int i = 0; i < half; ++i) {
                      const float a = head[i], b = head[half + i];
                      const float c = table->cos(at[r])[i], s = table->sin(at[r])[i];
                      head[i] = std::fma(a, c, -(b * s));
                      head[half + i] = std::fma(b, c, a * s);
                    }
                  }
                }
                return split(out);
              },
          .cpu =
              [=](ThreadPool& pool) {
                std::vector<float> out = qkv;
                if (norm) {
                  RmsNormHeads(out.data(), rows, all * dim, heads, dim, q_norm.data(), kEps, pool);
                  RmsNormHeads(&out[heads * dim], rows, all * dim, kv_heads, dim, k_norm.data(), kEps, pool);
                }
                Rope(out.data(), rows, all * dim, heads + kv_heads, at.data(), *table, pool);
                return split(out);
              },
          .device =
              [=](cudaStream_t stream, int count) {
                const int size = positions * half;
                DeviceArray<float> in(stream, First(qkv, count * all * dim)), qn(stream, q_norm),
                    kn(stream, k_norm), c(stream, std::vector<float>(table->cos(0), table->cos(0) + size)),
                    s(stream, std::vector<float>(table->sin(0), table->sin(0) + size));
                DeviceArray<int32_t> p(stream, First(at, count)), to(stream, First(slots, count));
                const std::vector<uint16_t> empty(pages * kPageTokens * kv_heads * dim, 0xffff);
                DeviceArray<uint16_t> k(stream, empty), v(stream, empty), q(stream, count * heads * dim);
                RopeKv({.qkv = in.data(),
                        .q_norm = norm ? qn.data() : nullptr,
                        .k_norm = norm ? kn.data() : nullptr,
                        .eps = kEps,
                        .cos = c.data(),
                        .sin = s.data(),
                        .positions = p.data(),
                        .slots = to.data(),
                        .rows = count,
                        .heads = heads,
                        .q = q.data(),
                        .kv = {.keys = k.data(), .values = v.data(), .kv_heads = kv_heads, .head_dim = dim}},
                       stream);
                Results results = {{Widened(q.Read())}, {}, {}};
                const std::vector<uint16_t> caches[] = {k.Read(), v.Read()};
                for (int i = 0; i < 2; ++i) {
                  int untouched = 0;
                  for (const uint16_t v : caches[i]) untouched += v == 0xffff;
                  EXPECT_EQ(untouched, static_cast<int>(empty.size()) - count * kv_heads * dim);
                  for (int r = 0; r < count; ++r) {
                    for (int h = 0; h < kv_heads; ++h) {
                      const size_t begin =
                          ((slots[r] / 16 * kv_heads + h) * 16 + slots[r] % 16) * size_t{1} * dim;
                      for (int d = 0; d < dim; ++d)
                        results[i + 1].values.push_back(Widen(caches[i][begin + d]));
                    }
                  }
                }
                return results;
              }};
}

// Trees of up to kMaxNodes rows, each of its own sequence; a part of the rows is a part of the trees.
Problem PagedTreeAttention(Random& random, int rows) {
  const AttentionShape shapes[] = {{4, 2, 16}, {7, 1, 32, 70}, {2, 1, 64}, {2, 2, 96}, {1, 1, 128, 200}};
  const AttentionShape shape = shapes[random.Between(0, 4)];
  const auto tokens = std::make_shared<AttentionTokens>(shape, random.bits());
  std::vector<AttentionRowPath> all;
  for (int begin = 0; begin < rows; begin += kMaxNodes) {
    const std::vector<int> prefix = tokens->Add(random.Between(0, 320));
    for (const AttentionRowPath& row :
         tokens->RandomTree(begin / kMaxNodes, prefix, std::min(rows - begin, kMaxNodes), 20)) {
      all.push_back(row);
    }
  }
  const int sequences = (rows + kMaxNodes - 1) / kMaxNodes;
  const auto step_of = [=, seed = random.Between(0, 1000)](const std::vector<AttentionRowPath>& of) {
    std::mt19937 bits(seed);
    AttentionStep step(shape, *tokens, sequences, bits);
    for (size_t begin = 0; begin < of.size(); begin += kMaxNodes) {
      const size_t end = std::min(of.size(), begin + kMaxNodes);
      step.Add({of.begin() + begin, of.begin() + end});
    }
    return step;
  };
  // Half a unit of bf16 for the weights, which mostly cancels, and for the result.
  return {.reference =
              [=] {
                std::vector<float> out;
                for (const AttentionRowPath& row : all) {
                  for (const double v : tokens->Attend(row)) out.push_back(static_cast<float>(v));
                }
                return Results{{.values = out, .cpu = 1e-5, .device = 6e-3}};
              },
          .cpu = [=](ThreadPool& pool) { return Results{{step_of(all).RunOnCpu(pool)}}; },
          .device = [=](cudaStream_t stream,
                        int count) { return Results{{Widened(step_of(First(all, count)).Run(stream))}}; },
          .chain =
              [=](cudaStream_t stream, int row) {
                AttentionRowPath end = all[row];
                end.committed = static_cast<int>(end.path.size()) - 1;
                return Results{{Widened(step_of({end}).Run(stream))}};
              }};
}

Problem Gate(Random& random, int rows) {
  const int n = 8 * random.Between(1, 140);
  std::vector<float> gate_up = random.Floats(rows * 2 * n, -20, 20);
  gate_up[0] = -200.0f;
  gate_up[1] = 100.0f;
  return {.reference =
              [=] {
                std::vector<float> out;
                for (int r = 0; r < rows; ++r) {
                  const float* const row = &gate_up[r * 2 * n];
                  for (int i = 0; i < n; ++i) out.push_back(reference::Silu(row[i]) * row[n + i]);
                }
                return Results{{Rounded(out)}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                std::vector<float> out(rows * n);
                kernels::SiluGate(gate_up.data(), rows, n, out.data(), pool);
                return Results{{Rounded(out)}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                DeviceArray<float> in(stream, First(gate_up, count * 2 * n));
                DeviceArray<uint16_t> out(stream, count * n);
                SiluGate(in.data(), count, n, out.data(), stream);
                return Results{{Widened(out.Read())}};
              }};
}

// With its bias.
Problem Product(Random& random, int rows) {
  const int n = 8 * random.Between(1, 9), k = 8 * random.Between(1, 9);
  const std::vector<float> x = random.BF16s(rows * k), w = random.BF16s(n * k), bias = random.Floats(n);
  return {.reference =
              [=] {
                std::vector<float> y = reference::MatMul(x.data(), k, rows, w, n, k, bias);
                return Results{{.values = y, .device = 1e-6}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                PackedMatrix packed(n, k, Storage::kBF16);
                packed.PackRows(0, n, w.data(), DType::kF32, pool);
                std::vector<float> y(rows * n);
                MatMul(x.data(), k, rows, packed, bias.data(), y.data(), n, pool);
                return Results{{y}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                std::vector<float> padded = First(x, count * k);
                padded.resize(PaddedRows(count) * k, 7.0f);
                MatMulPlans plans;
                plans.Prepare(n, k);
                DeviceArray<uint16_t> device_x(stream, BF16sOf(padded)), device_w(stream, BF16sOf(w));
                DeviceArray<float> y(stream, PaddedRows(count) * n), b(stream, bias);
                plans.MatMul(device_x.data(), count, device_w.data(), n, k, y.data(), stream);
                AddBias(b.data(), count, n, y.data(), stream);
                return Results{{First(y.Read(), count * n)}};
              }};
}

}  // namespace

std::vector<Operator> ForwardOperators() {
  return {{"Embed", Embedding, kRowCounts},
          {"AddRmsNorm", ResidualRmsNorm, kRowCounts},
          {"RmsNormOfChosenRows", ChosenRmsNorm, {}},
          {"QkNormRopeKv", QkNormRopeKv, kRowCounts},
          {"TreeAttention", PagedTreeAttention, kRowCounts},
          {"SiluGate", Gate, kRowCounts},
          {"MatMul", Product, kRowCounts}};
}

}  // namespace clamor::kernels::cuda
