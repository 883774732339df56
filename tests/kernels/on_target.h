// What the kernel tests share: a fixture that runs each test on every CPU target of this machine,
// reproducible random floats, and comparison by bits.
#pragma once

#include <bit>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu_target.h"

namespace clamor::kernels {

// Sanitizers and unoptimised twins are slow: there the larger loops take every kStride-th step only.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
inline constexpr int kStride = 3;
#else
inline constexpr int kStride = 1;
#endif

class OnTarget : public testing::TestWithParam<CpuTarget> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetCpuTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SetCpuTarget(SupportedCpuTargets().back()).ok()); }

  float Uniform(float low = -1.0f, float high = 1.0f) {
    return std::uniform_real_distribution<float>(low, high)(random_);
  }
  int Below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  std::vector<float> Floats(size_t n, float low = -1.0f, float high = 1.0f) {
    std::vector<float> v(n);
    for (float& x : v) x = Uniform(low, high);
    return v;
  }

  std::mt19937 random_{1};
};

#define CLAMOR_ON_EVERY_TARGET(suite)                           \
  INSTANTIATE_TEST_SUITE_P(                                     \
      Targets, suite, testing::ValuesIn(SupportedCpuTargets()), \
      [](const testing::TestParamInfo<CpuTarget>& info) { return std::string(CpuTargetName(info.param)); })

// -0.0 differs from 0.0; any NaN equals any NaN.
inline testing::AssertionResult SameBits(const float* expected, const float* actual, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (std::bit_cast<uint32_t>(expected[i]) == std::bit_cast<uint32_t>(actual[i])) continue;
    if (expected[i] != expected[i] && actual[i] != actual[i]) continue;
    return testing::AssertionFailure()
           << "element " << i << " of " << n << " is " << actual[i] << ", expected " << expected[i];
  }
  return testing::AssertionSuccess();
}
inline testing::AssertionResult SameBits(const std::vector<float>& expected,
                                         const std::vector<float>& actual) {
  if (expected.size() != actual.size()) return testing::AssertionFailure() << "sizes differ";
  return SameBits(expected.data(), actual.data(), expected.size());
}

}  // namespace clamor::kernels
