#include "kernels/kv_layer.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

constexpr int kKvHeads = 2, kPages = 3;
constexpr size_t kTooFar = 4096;  // what nothing may write to lies behind each array

class KvLayerTest : public testing::TestWithParam<KvFormat> {
 protected:
  struct Memory {
    Memory(KvFormat format, int head_dim)
        : size(KvTileBytes(format, head_dim) * kKvHeads * kPages),
          keys(size + kTooFar, std::byte{0xff}),
          values(keys),
          layer{keys.data(), values.data(), kKvHeads, head_dim, format} {}
    size_t size;
    std::vector<std::byte> keys, values;
    KvLayer layer;
  };

  std::vector<float> Floats(size_t n, float greatest = 3.0f) {
    std::vector<float> v(n);
    for (float& x : v) x = std::uniform_real_distribution<float>(-greatest, greatest)(random_);
    return v;
  }

  void Store(const std::vector<float>& k, const std::vector<float>& v, const std::vector<int32_t>& slots,
             const KvLayer& layer) {
    const size_t width = size_t{1} * kKvHeads * layer.head_dim;
    ASSERT_EQ(k.size(), slots.size() * width);
    StoreKv(k.data(), width, v.data(), width, static_cast<int64_t>(slots.size()), slots.data(), layer, pool_);
  }

  // What `x`, one vector, reads as.
  static std::vector<float> Twin(KvFormat format, std::vector<float> x) {
    float greatest = 0;
    for (float v : x) greatest = std::isfinite(v) ? std::max(greatest, std::fabs(v)) : INFINITY;
    const float scale = std::isfinite(greatest) ? greatest / 127 : NAN;
    for (float& v : x) {
      if (format == KvFormat::kBF16 && !std::isnan(v)) v = reference::RoundToBF16(v);
      if (format != KvFormat::kInt8) continue;
      const int element = scale > 0 ? static_cast<int>(std::nearbyint(v / scale)) : 0;  // no -0
      v = std::isnan(scale) ? NAN : static_cast<float>(std::min(127, std::max(-127, element))) * scale;
    }
    return x;
  }

  void ExpectReadsAsTwin(const std::vector<float>& k, const std::vector<float>& v, int32_t slot,
                         const KvLayer& layer) {
    for (int h = 0; h < kKvHeads; ++h) {
      const int dim = layer.head_dim;
      std::vector<float> keys(dim), values(dim);
      for (int d = 0; d < dim; ++d) {
        keys[d] = reference::KeyElement(layer, slot, h, d);
        values[d] = reference::ValueElement(layer, slot, h, d);
      }
      const auto head = [&](const std::vector<float>& all) {
        return Twin(layer.format, {all.begin() + h * dim, all.begin() + (h + 1) * dim});
      };
      EXPECT_TRUE(SameBits(head(k), keys)) << "key of head " << h << " in slot " << slot;
      EXPECT_TRUE(SameBits(head(v), values)) << "value of head " << h << " in slot " << slot;
    }
  }

  std::mt19937 random_{1};
  ThreadPool pool_{2};
};

TEST_P(KvLayerTest, ReadsAsTheTwin) {
  for (const int head_dim : {1, 6, 8, 12, 64}) {
    Memory memory(GetParam(), head_dim);
    for (const float greatest : {3.0f, 1e-3f, 1e30f, 3e38f, 1e-37f, 1e-43f}) {
      const int32_t slot = static_cast<int32_t>(random_() % (kPages * kPageSize));
      const auto k = Floats(kKvHeads * head_dim, greatest), v = Floats(kKvHeads * head_dim, greatest);
      Store(k, v, {slot}, memory.layer);
      ExpectReadsAsTwin(k, v, slot, memory.layer);
    }
  }
}

TEST_P(KvLayerTest, ManyRowsGoWhereTheirSlotsSay) {
  constexpr int kDim = 8, kWidth = kKvHeads * kDim;
  Memory memory(GetParam(), kDim);
  std::vector<int32_t> slots(kPages * kPageSize);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int32_t>((i * 7 + 3) % slots.size());
  const auto k = Floats(slots.size() * kWidth), v = Floats(slots.size() * kWidth);
  Store(k, v, slots, memory.layer);
  for (size_t i = 0; i < slots.size(); ++i) {
    const auto row = [&](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + i * kWidth, all.begin() + (i + 1) * kWidth);
    };
    ExpectReadsAsTwin(row(k), row(v), slots[i], memory.layer);
  }
  for (size_t i = memory.size; i < memory.keys.size(); ++i) {
    ASSERT_EQ(memory.keys[i], std::byte{0xff});
    ASSERT_EQ(memory.values[i], std::byte{0xff});
  }
}

// What is stored of a position does not depend on its neighbours, also not on those that are no numbers.
TEST_P(KvLayerTest, NoNumbersStayNone) {
  constexpr int kDim = 12, kWidth = kKvHeads * kDim;
  for (const float odd : {NAN, -NAN, INFINITY, -INFINITY}) {
    Memory memory(GetParam(), kDim);
    auto k = Floats(kWidth), v = Floats(kWidth);
    const auto good_k = k, good_v = v;
    k[5] = v[kDim + 3] = odd;  // the key of one head, the value of the other
    Store(k, v, {20}, memory.layer);
    Store(good_k, good_v, {21}, memory.layer);
    ExpectReadsAsTwin(k, v, 20, memory.layer);
    ExpectReadsAsTwin(good_k, good_v, 21, memory.layer);
    EXPECT_FALSE(std::isfinite(reference::KeyElement(memory.layer, 20, 0, 5)));
    EXPECT_FALSE(std::isfinite(reference::ValueElement(memory.layer, 20, 1, 3)));
    EXPECT_TRUE(std::isfinite(reference::KeyElement(memory.layer, 20, 1, 5)));
  }
}

TEST_P(KvLayerTest, MoveKvCopiesOneSlotAndNothingElse) {
  constexpr int kDim = 24, kWidth = kKvHeads * kDim;
  Memory memory(GetParam(), kDim), expected(GetParam(), kDim);
  const auto k = Floats(2 * kWidth), v = Floats(2 * kWidth);
  const int32_t from = 2 * kPageSize + 5, to = 7, other = 8;
  Store(k, v, {from, other}, memory.layer);
  MoveKv(memory.layer, from, to);
  MoveKv(memory.layer, to, to);
  Store(k, v, {from, other}, expected.layer);
  Store({k.begin(), k.begin() + kWidth}, {v.begin(), v.begin() + kWidth}, {to}, expected.layer);
  EXPECT_EQ(expected.keys, memory.keys);
  EXPECT_EQ(expected.values, memory.values);
}

TEST_P(KvLayerTest, NamesAreRead) {
  const auto parsed = ParseKvFormat(KvFormatName(GetParam()));
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*parsed, GetParam());
  EXPECT_EQ(ParseKvFormat("fp16").status().message(), "'fp16' must be fp32, bf16 or int8");
}

// Half a step: of 1 / 127 of the greatest, or of bf16, whose steps below 4 are 1 / 64.
TEST_P(KvLayerTest, RoundTripsAreAsCloseAsTheFormatAllows) {
  constexpr int kDim = 64, kWidth = kKvHeads * kDim;
  Memory memory(GetParam(), kDim);
  const auto k = Floats(kWidth), v = Floats(kWidth);
  Store(k, v, {0}, memory.layer);
  const float most = GetParam() == KvFormat::kF32    ? 0.0f
                     : GetParam() == KvFormat::kBF16 ? 1.0f / 128
                                                     : 3.0f / 254;
  for (int i = 0; i < kWidth; ++i) {
    EXPECT_NEAR(reference::KeyElement(memory.layer, 0, i / kDim, i % kDim), k[i], most * 1.0001f);
    EXPECT_NEAR(reference::ValueElement(memory.layer, 0, i / kDim, i % kDim), v[i], most * 1.0001f);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, KvLayerTest,
                         testing::Values(KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8),
                         [](const testing::TestParamInfo<KvFormat>& info) {
                           return std::string(KvFormatName(info.param));
                         });

}  // namespace
}  // namespace clamor::kernels
