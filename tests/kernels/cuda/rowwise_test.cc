// The operators between the products: the CPU's bits, rounded to bf16, whatever the schedule and the other
// rows.
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/bias.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/silu_gate.h"
#include "kernels/rope.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

class RowwiseTest : public OnDevice {};

// Of the first `rows` rows.
template <class T>
std::vector<T> Head(const std::vector<T>& v, size_t rows, size_t n) {
  return std::vector<T>(v.begin(), v.begin() + rows * n);
}

TEST_F(RowwiseTest, RmsNormAddsAndNorms) {
  for (const int n : {8, 24, 64, 136, 896, 1032}) {
    const int rows = 3;
    const std::vector<float> hidden = Floats(rows * n, -3, 3), addend = Floats(rows * n), weight = Floats(n);
    std::vector<float> sums(rows * n), expected(rows * n);
    for (int i = 0; i < rows * n; ++i) sums[i] = hidden[i] + addend[i];
    for (int r = 0; r < rows; ++r)
      reference::RmsNorm(&sums[r * n], n, weight.data(), 1e-6f, &expected[r * n]);

    const auto run = [&](int count) {
      DeviceArray<float> h(stream_, Head(hidden, count, n)), a(stream_, Head(addend, count, n)),
          w(stream_, weight);
      DeviceArray<uint16_t> y(stream_, count * n);
      AddRmsNorm({.hidden = h.data(),
                  .addend = a.data(),
                  .which = nullptr,
                  .weight = w.data(),
                  .eps = 1e-6f,
                  .rows = count,
                  .n = n,
                  .y = y.data()},
                 stream_);
      return std::pair(h.Read(), y.Read());
    };
    const auto [h, y] = OnEverySchedule([&] { return run(rows); });
    EXPECT_TRUE(SameBits(sums, h)) << n;
    EXPECT_EQ(y, BF16sOf(expected)) << n;
    EXPECT_EQ(run(1).second, Head(y, 1, n)) << "the other rows show";
  }
}

TEST_F(RowwiseTest, BiasIsAddedToEachRow) {
  for (const int n : {4, 24, 516}) {
    const int rows = 3;
    const std::vector<float> y = Floats(rows * n), bias = Floats(n);
    std::vector<float> expected(rows * n);
    for (int i = 0; i < rows * n; ++i) expected[i] = y[i] + bias[i % n];
    EXPECT_TRUE(SameBits(expected, OnEverySchedule([&] {
                           DeviceArray<float> device_y(stream_, y), device_bias(stream_, bias);
                           AddBias(device_bias.data(), rows, n, device_y.data(), stream_);
                           return device_y.Read();
                         })))
        << n;
  }
}

TEST_F(RowwiseTest, RmsNormOfChosenRowsLeavesThemAlone) {
  const int n = 72;
  const std::vector<float> hidden = Floats(5 * n), weight = Floats(n);
  const std::vector<int32_t> which = {4, 1};
  std::vector<float> expected(2 * n);
  for (int r = 0; r < 2; ++r) {
    reference::RmsNorm(&hidden[which[r] * n], n, weight.data(), 1e-5f, &expected[r * n]);
  }
  DeviceArray<float> h(stream_, hidden), w(stream_, weight);
  DeviceArray<int32_t> chosen(stream_, which);
  DeviceArray<uint16_t> y(stream_, 2 * n);
  AddRmsNorm({.hidden = h.data(),
              .addend = nullptr,
              .which = chosen.data(),
              .weight = w.data(),
              .eps = 1e-5f,
              .rows = 2,
              .n = n,
              .y = y.data()},
             stream_);
  EXPECT_EQ(y.Read(), BF16sOf(expected));
  EXPECT_TRUE(SameBits(hidden, h.Read()));
}

TEST_F(RowwiseTest, EmbedWidensRows) {
  for (const int n : {8, 72, 1032}) {
    const std::vector<uint16_t> table = BF16sOf(Floats(7 * n));
    const std::vector<int32_t> tokens = {6, 0, 3, 3};
    std::vector<float> expected;
    for (const int32_t token : tokens) {
      for (int i = 0; i < n; ++i) expected.push_back(Widen(table[token * n + i]));
    }
    EXPECT_TRUE(SameBits(expected, OnEverySchedule([&] {
                           DeviceArray<uint16_t> t(stream_, table);
                           DeviceArray<int32_t> ids(stream_, tokens);
                           DeviceArray<float> hidden(stream_, tokens.size() * n);
                           Embed(t.data(), ids.data(), tokens.size(), n, hidden.data(), stream_);
                           return hidden.Read();
                         })))
        << n;
  }
}

TEST_F(RowwiseTest, SiluGateMatchesTheCpu) {
  for (const int n : {8, 40, 1024, 1032}) {
    const int rows = 2;
    std::vector<float> gate_up = Floats(rows * 2 * n, -20, 20);
    gate_up[0] = -200.0f;  // exp overflows
    gate_up[1] = reference::kInfinity;
    gate_up[2] = 0.0f;
    std::vector<float> expected(rows * n);
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n; ++i) {
        expected[r * n + i] = reference::Silu(gate_up[r * 2 * n + i]) * gate_up[r * 2 * n + n + i];
      }
    }
    EXPECT_EQ(OnEverySchedule([&] {
                DeviceArray<float> in(stream_, gate_up);
                DeviceArray<uint16_t> out(stream_, rows * n);
                SiluGate(in.data(), rows, n, out.data(), stream_);
                return out.Read();
              }),
              BF16sOf(expected))
        << n;
  }
}

struct Heads {
  int heads, kv_heads, head_dim;
  bool norm;
};

class RopeKvTest : public OnDevice, public testing::WithParamInterface<Heads> {};

TEST_P(RopeKvTest, NormsRotatesAndStores) {
  const auto [heads, kv_heads, dim, norm] = GetParam();
  const int rows = 3, all = heads + 2 * kv_heads, pages = 3;
  const std::vector<float> qkv = Floats(rows * all * dim, -2, 2), q_norm = Floats(dim), k_norm = Floats(dim);
  const std::vector<int32_t> positions = {0, 17, 5}, slots = {40, 3, 17};
  std::vector<double> frequencies;
  for (int i = 0; i < dim / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / dim));
  const RopeTable table(frequencies, 32);

  std::vector<uint16_t> q(rows * heads * dim), keys(pages * kPageTokens * kv_heads * dim, 0xffff),
      values = keys;
  for (int r = 0; r < rows; ++r) {
    for (int h = 0; h < all; ++h) {
      const float* const from = &qkv[(r * all + h) * dim];
      std::vector<float> head(from, from + dim);
      const bool is_q = h < heads, is_v = h >= heads + kv_heads;
      if (norm && !is_v) {
        reference::RmsNorm(head.data(), dim, (is_q ? q_norm : k_norm).data(), 1e-6f, head.data());
      }
      if (!is_v) {
        for (int i = 0; i < dim / 2; ++i) {
          const float a = head[i], b = head[dim / 2 + i];
          const float c = table.cos(positions[r])[i], s = table.sin(positions[r])[i];
          head[i] = std::fma(a, c, -(b * s));
          head[dim / 2 + i] = std::fma(b, c, a * s);
        }
      }
      for (int i = 0; i < dim; ++i) {
        const int kv_head = (h - heads) % kv_heads, slot = slots[r];
        const size_t in_cache = ((slot / 16 * kv_heads + kv_head) * 16 + slot % 16) * dim + i;
        (is_q ? q[(r * heads + h) * dim + i] : is_v ? values[in_cache] : keys[in_cache]) = BF16Of(head[i]);
      }
    }
  }

  const std::vector<float> cos(table.cos(0), table.cos(0) + 32 * dim / 2),
      sin(table.sin(0), table.sin(0) + 32 * dim / 2);
  const auto [got_q, got_keys, got_values] = OnEverySchedule([&] {
    DeviceArray<float> in(stream_, qkv), qn(stream_, q_norm), kn(stream_, k_norm), c(stream_, cos),
        s(stream_, sin);
    DeviceArray<int32_t> at(stream_, positions), to(stream_, slots);
    const std::vector<uint16_t> empty(keys.size(), 0xffff);
    DeviceArray<uint16_t> k(stream_, empty), v(stream_, empty), out(stream_, q.size());
    RopeKv({.qkv = in.data(),
            .q_norm = norm ? qn.data() : nullptr,
            .k_norm = norm ? kn.data() : nullptr,
            .eps = 1e-6f,
            .cos = c.data(),
            .sin = s.data(),
            .positions = at.data(),
            .slots = to.data(),
            .rows = rows,
            .heads = heads,
            .q = out.data(),
            .kv = {.keys = k.data(), .values = v.data(), .kv_heads = kv_heads, .head_dim = dim}},
           stream_);
    return std::tuple(out.Read(), k.Read(), v.Read());
  });
  EXPECT_EQ(got_q, q);
  EXPECT_EQ(got_keys, keys);
  EXPECT_EQ(got_values, values);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RopeKvTest,
                         testing::Values(Heads{4, 2, 16, false}, Heads{2, 1, 80, true}, Heads{7, 1, 64, true},
                                         Heads{1, 1, 256, false}));

}  // namespace
}  // namespace clamor::kernels::cuda
