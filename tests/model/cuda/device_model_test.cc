// Whole models on the device against the goldens of PyTorch and a dull twin with the same rounding points;
// and bit by bit: a tree against its paths as text, one sequence alone against several together.
#include "model/cuda/device_model.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/model/cuda/device_runner.h"
#include "tests/model/cuda/dull_device_twin.h"

namespace clamor {
namespace {

// Of the greatest logit, or of 1: what rounding to bf16 does to these models; the twin is as far off.
constexpr float kTolerance = 2e-2f;

Sequence Copy(const Sequence& s) { return {.text = s.text, .tree = s.tree, .parents = s.parents}; }

std::vector<int32_t> TextOf(const Sequence& s, int32_t node) {
  std::vector<int32_t> path;
  for (; node >= 0; node = s.parents[node]) path.push_back(s.tree[node]);
  std::vector<int32_t> text = s.text;
  text.insert(text.end(), path.rbegin(), path.rend());
  return text;
}

float Tolerance(const std::vector<float>& logits) {
  float greatest = 1.0f;
  for (const float logit : logits) greatest = std::max(greatest, std::fabs(logit));
  return kTolerance * greatest;
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
      ASSERT_NEAR(rows[0][i], expected[i], Tolerance(expected)) << s.text.size() << " tokens, logit " << i;
    }
  }
}

// One row a step, from graphs: each id of PyTorch's greedy answer is the best, or as good as the best.
TEST_P(DeviceModelTest, GreedyAnswersAreTheGoldens) {
  const auto golden = DecodingGoldens(GetParam()).at(2);
  DeviceRunner runner(GetParam());
  Sequence s = {.text = golden.at("prompt_ids").get<std::vector<int32_t>>()};
  for (const int32_t id : golden.at("greedy_ids").get<std::vector<int32_t>>()) {
    const auto row = runner.Run({&s})[0];
    ASSERT_GE(row[id], *std::max_element(row.begin(), row.end()) - Tolerance(row)) << s.text.size();
    s.text.push_back(id);
  }
}

// Sums are the only difference, and what they do to roundings.
TEST_P(DeviceModelTest, LogitsAreThoseOfTheTwin) {
  DeviceRunner runner(GetParam());
  DullDeviceTwin twin(TinyDirectory(GetParam()));
  for (const auto& golden : DecodingGoldens(GetParam())) {
    Sequence s = {.text = golden.at("prompt_ids").get<std::vector<int32_t>>()};
    if (s.text.size() > 64) continue;  // no splits in the twin
    const auto row = runner.Run({&s})[0], expected = twin.Logits(s.text);
    double misses = 0, squares = 0;
    for (size_t i = 0; i < row.size(); ++i) {
      misses += std::pow(double{row[i]} - expected[i], 2);
      squares += std::pow(double{expected[i]}, 2);
    }
    EXPECT_LT(std::sqrt(misses / squares), 1e-3) << s.text.size() << " tokens";
  }
}

// All nodes of the golden tree, and three sequences at once; on other schedules as well.
TEST_P(DeviceModelTest, TreesAndBatchesKeepTheBitsOfTextsAlone) {
  const auto golden = DecodingGoldens(GetParam()).at(2);
  const Sequence fresh = {.text = golden.at("prompt_ids").get<std::vector<int32_t>>(),
                          .tree = golden.at("tree").at("tokens").get<std::vector<int32_t>>(),
                          .parents = golden.at("tree").at("parents").get<std::vector<int32_t>>()};
  std::vector<std::vector<float>> texts(fresh.tree.size());  // by node: its path as plain text
  {
    DeviceRunner runner(GetParam());
    for (size_t node = 0; node < fresh.tree.size(); node += 5) {
      Sequence s = {.text = TextOf(fresh, static_cast<int32_t>(node))};
      texts[node] = runner.Run({&s})[0];
    }
  }
  for (const int seed : {1, 2}) {
    SetSchedule(seed);
    DeviceRunner runner(GetParam());
    Sequence first = {.text = {5, 6, 7}}, second = Copy(fresh), third = {.text = {9, 8, 7, 6, 5}};
    const auto rows = runner.Run({&first, &second, &third});
    ASSERT_EQ(rows.size(), 3 + fresh.tree.size());
    for (size_t node = 0; node < fresh.tree.size(); node += 5) {
      EXPECT_EQ(rows[2 + node], texts[node]) << "node " << node << ", schedule " << seed;
    }
  }
}

// Guesses that are kept: what lay in their slots is where their tokens stand, and steps replay from graphs.
TEST_P(DeviceModelTest, KeptGuessesAreText) {
  DeviceRunner runner(GetParam());
  Sequence s = {.text = DecodingGoldens(GetParam()).at(1).at("prompt_ids").get<std::vector<int32_t>>()};
  runner.Run({&s});
  // Nodes 0 - 2 - 3 are kept of each tree, so that two tokens move down by one.
  for (int32_t step = 0; step < 4; ++step) {
    s.tree = {11 + step, 12 + step, 13 + step, 14 + step};
    s.parents = {-1, 0, 0, 2};
    runner.Run({&s});
    runner.Keep(s, {0, 2, 3});
  }
  Sequence whole = {.text = s.text};
  s.text.push_back(99);
  whole.text.push_back(99);
  EXPECT_EQ(runner.Run({&s})[0], runner.Run({&whole})[0]);
}

TEST(DeviceModelLimitsTest, TooLittleMemoryIsARefusal) {
  if (kernels::cuda::DeviceCount() == 0) GTEST_SKIP() << "there is no GPU";
  auto model = DeviceModel::Load(TinyDirectory("llama"), 0, {}, [](uint64_t, uint64_t) {});
  ASSERT_TRUE(model.ok()) << model.status();
  kernels::ThreadPool pool(1);
  const size_t page = KvCache::BytesPerPage((*model)->config(), kernels::KvFormat::kBF16);
  KvCache cache((*model)->config(), static_cast<int64_t>(kernels::cuda::FreeDeviceBytes() / page) + 1);
  const auto pass = (*model)->NewPass(cache, {.rows = 16, .sequences = 1, .top_k = 10}, pool);
  EXPECT_TRUE(absl::IsResourceExhausted(pass.status())) << pass.status();
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceModelTest, testing::Values("llama", "qwen2", "qwen3", "mistral"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace clamor
