// Every golden of four families: logits, next-token log-probabilities, greedy continuations and all nodes of
// draft trees, as PyTorch computed them in fp32 from the same files.
#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu_target.h"
#include "kernels/top_k.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

constexpr float kTolerance = 2e-4f;

// A model, a cache and the scratch to run single sequences through it.
class Runner {
 public:
  explicit Runner(const std::string& family, int threads = 1, WeightFormat format = WeightFormat::kStored,
                  const std::string& packed_file = "")
      : pool_(threads) {
    auto model = Transformer::Load(
        std::string(CLAMOR_TESTDATA) + "/tiny-" + family, format, 0, pool_, [](uint64_t, uint64_t) {},
        packed_file);
    if (!model.ok()) {
      ADD_FAILURE() << model.status();
      std::abort();
    }
    model_ = *std::move(model);
    cache_ = std::make_unique<KvCache>(model_->config(), 64);
  }

  PackedFileUse packed_file() const { return model_->weights().packed_file; }

  // Logits after each of `ids`, then after each node of a tree (parents[0] == -1 is the root; it follows the
  // last id).
  std::vector<std::vector<float>> Logits(const std::vector<int32_t>& ids,
                                         const std::vector<int32_t>& tree = {},
                                         const std::vector<int32_t>& parents = {}) {
    const int64_t n = static_cast<int64_t>(ids.size());
    KvLease lease;
    EXPECT_TRUE(cache_->Grow(lease, n + static_cast<int64_t>(tree.size())));
    Batch batch;
    batch.extra.reserve(tree.size() * tree.size());
    const auto add = [&](int32_t token, int32_t position, int64_t slot, kernels::AttentionRow row) {
      batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
      batch.tokens.push_back(token);
      batch.positions.push_back(position);
      batch.slots.push_back(lease.Slot(slot));
      row.pages = lease.pages().data();
      batch.attention.push_back(row);
    };
    for (int32_t i = 0; i < n; ++i) add(ids[i], i, i, {.prefix = i + 1});
    for (size_t i = 0; i < tree.size(); ++i) {
      std::vector<int32_t> path;  // slots, root first
      for (int32_t j = static_cast<int32_t>(i); j >= 0; j = parents[j]) path.push_back(lease.Slot(n + j));
      std::reverse(path.begin(), path.end());
      const size_t begin = batch.extra.size();
      batch.extra.insert(batch.extra.end(), path.begin(), path.end());
      const int32_t depth = static_cast<int32_t>(path.size()) - 1;
      add(tree[i], static_cast<int32_t>(n) + depth, n + static_cast<int64_t>(i),
          {.prefix = static_cast<int32_t>(n),
           .extra = batch.extra.data() + begin,
           .extra_count = static_cast<int32_t>(path.size())});
    }
    model_->Forward(batch, *cache_, scratch_, pool_);
    const int64_t vocab = model_->config().vocab_size;
    std::vector<std::vector<float>> rows;
    for (int64_t r = 0; r < batch.rows(); ++r) {
      rows.emplace_back(scratch_.logits.begin() + r * vocab, scratch_.logits.begin() + (r + 1) * vocab);
    }
    return rows;
  }

 private:
  kernels::ThreadPool pool_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<KvCache> cache_;
  Activations scratch_;
};

int32_t ArgMax(const std::vector<float>& v) {
  return static_cast<int32_t>(std::max_element(v.begin(), v.end()) - v.begin());
}

double LogProbability(const std::vector<float>& logits, int32_t id) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - most);
  return logits[id] - most - std::log(sum);
}

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  GoldenTest() {
    std::ifstream in(std::string(CLAMOR_TESTDATA) + "/tiny-" + GetParam() + "/golden.json");
    cases_ = nlohmann::json::parse(in).at("decoding");
  }
  nlohmann::json cases_;
};

TEST_P(GoldenTest, LogitsAndLogProbabilities) {
  Runner runner(GetParam());
  ASSERT_EQ(cases_.size(), 5u);
  for (const auto& golden : cases_) {
    const auto ids = golden.at("prompt_ids").get<std::vector<int32_t>>();
    const auto rows = runner.Logits(ids);
    const auto expected = golden.at("last_logits").get<std::vector<float>>();
    EXPECT_THAT(rows.back(), testing::Pointwise(testing::FloatNear(kTolerance), expected))
        << ids.size() << " tokens";
    const auto next = golden.at("next_logprobs").get<std::vector<double>>();
    ASSERT_EQ(next.size(), ids.size() - 1);
    for (size_t i = 0; i < next.size(); ++i)
      EXPECT_NEAR(LogProbability(rows[i], ids[i + 1]), next[i], kTolerance) << i;
  }
}

TEST_P(GoldenTest, GreedyContinuation) {
  Runner runner(GetParam());
  for (const auto& golden : cases_) {
    auto ids = golden.at("prompt_ids").get<std::vector<int32_t>>();
    const auto expected = golden.at("greedy_ids").get<std::vector<int32_t>>();
    ASSERT_EQ(expected.size(), 40u);
    for (const int32_t id : expected) {
      ASSERT_EQ(ArgMax(runner.Logits(ids).back()), id) << "after " << ids.size() << " tokens";
      ids.push_back(id);
    }
  }
}

TEST_P(GoldenTest, EveryNodeOfEveryTree) {
  Runner runner(GetParam());
  for (const auto& golden : cases_) {
    const auto ids = golden.at("prompt_ids").get<std::vector<int32_t>>();
    const auto tree = golden.at("tree").at("tokens").get<std::vector<int32_t>>();
    const auto parents = golden.at("tree").at("parents").get<std::vector<int32_t>>();
    const auto& top = golden.at("tree").at("top5");
    const auto rows = runner.Logits(ids, tree, parents);
    for (size_t node = 0; node < tree.size(); ++node) {
      const auto& logits = rows[ids.size() + node];
      kernels::ThreadPool pool(1);
      int32_t best[5];
      float values[5];
      kernels::TopK(logits.data(), logits.size(), 1, logits.size(), 5, best, values, nullptr, pool);
      for (int k = 0; k < 5; ++k) {
        EXPECT_NEAR(logits[top[node][k][0].get<int32_t>()], top[node][k][1].get<float>(), kTolerance) << node;
        EXPECT_NEAR(values[k], top[node][k][1].get<float>(), kTolerance) << node;
      }
    }
  }
}

// Formats that round the weights move all logits of a text a little; this is the root mean square of how far,
// in units of that of the logits.
TEST_P(GoldenTest, EveryFormatStaysNear) {
  const auto ids = cases_.at(2).at("prompt_ids").get<std::vector<int32_t>>();
  const auto exact = Runner(GetParam(), 1, WeightFormat::kF32).Logits(ids);
  const auto distance = [&](WeightFormat format) {
    const auto rows = Runner(GetParam(), 1, format).Logits(ids);
    double misses = 0, squares = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t i = 0; i < rows[r].size(); ++i) {
        misses += std::pow(double{rows[r][i]} - exact[r][i], 2);
        squares += std::pow(double{exact[r][i]}, 2);
      }
    }
    return std::sqrt(misses / squares);
  };
  EXPECT_EQ(distance(WeightFormat::kStored), 0);
  EXPECT_LT(distance(WeightFormat::kBF16), 0.01);
  EXPECT_LT(distance(WeightFormat::kF16), 0.002);
  const double int8 = distance(WeightFormat::kI8), int4 = distance(WeightFormat::kI4);
  EXPECT_GT(int8, 0);
  EXPECT_LT(int8, 0.05);
  EXPECT_GT(int4, int8);
  EXPECT_LT(int4, 0.4);
}

TEST_P(GoldenTest, AFileOfPackedWeightsGivesTheSameLogits) {
  const auto ids = cases_.at(2).at("prompt_ids").get<std::vector<int32_t>>();
  const std::string file = testing::TempDir() + "transformer_test." + GetParam() + ".packed";
  for (const WeightFormat format : {WeightFormat::kStored, WeightFormat::kF32, WeightFormat::kBF16,
                                    WeightFormat::kF16, WeightFormat::kI8, WeightFormat::kI4}) {
    std::filesystem::remove(file);
    const auto packed = Runner(GetParam(), 1, format).Logits(ids);
    Runner writes(GetParam(), 2, format, file), reads(GetParam(), 2, format, file);
    EXPECT_EQ(writes.packed_file(), PackedFileUse::kWritten);
    EXPECT_EQ(reads.packed_file(), PackedFileUse::kRead);
    EXPECT_EQ(writes.Logits(ids), packed) << WeightFormatName(format);
    EXPECT_EQ(reads.Logits(ids), packed) << WeightFormatName(format);
  }
  std::filesystem::remove(file);
}

// A node's logits are the bits that its path gives as a plain text, on every target, with any number of
// threads.
TEST_P(GoldenTest, TreeEqualsTextBitwise) {
  const auto& golden = cases_.at(2);
  const auto ids = golden.at("prompt_ids").get<std::vector<int32_t>>();
  const auto tree = golden.at("tree").at("tokens").get<std::vector<int32_t>>();
  const auto parents = golden.at("tree").at("parents").get<std::vector<int32_t>>();
  const kernels::CpuTarget before = kernels::ActiveCpuTarget();
  std::vector<std::vector<float>> first;
  for (const kernels::CpuTarget target : kernels::SupportedCpuTargets()) {
    ASSERT_TRUE(kernels::SetCpuTarget(target).ok());
    for (const int threads : {1, 2}) {
      Runner runner(GetParam(), threads);
      auto rows = runner.Logits(ids, tree, parents);
      if (first.empty()) {
        for (size_t node = 0; node < tree.size(); ++node) {
          std::vector<int32_t> text;
          for (int32_t j = static_cast<int32_t>(node); j >= 0; j = parents[j]) text.push_back(tree[j]);
          text.insert(text.end(), ids.rbegin(), ids.rend());
          std::reverse(text.begin(), text.end());
          ASSERT_EQ(runner.Logits(text).back(), rows[ids.size() + node]) << "node " << node;
        }
        first = std::move(rows);
      } else {
        ASSERT_EQ(rows, first) << kernels::CpuTargetName(target) << ", " << threads << " threads";
      }
    }
  }
  ASSERT_TRUE(kernels::SetCpuTarget(before).ok());
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest, testing::Values("llama", "qwen2", "qwen3", "mistral"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace clamor
