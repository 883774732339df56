// Against the definition in double, a known answer of Philox, and the distribution that the noise must give,
// drawn plainly and through draft trees.
#include "model/spec/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/spec/draft_tree.h"

namespace clamor {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t Draw(const std::vector<float>& logits, const SamplingOptions& options, int64_t position = 0) {
  return Sampler().Draw(logits, options, position);
}

TEST(Greedy, BestLogitLowestIdOfEquals) {
  EXPECT_EQ(Draw({1, 3, 2}, {}), 1);
  EXPECT_EQ(Draw({1, 3, 3}, {}), 1);
  EXPECT_EQ(Draw({-0.0f, 0.0f}, {}), 0);
  EXPECT_EQ(Draw({0.0f, -0.0f}, {}), 0);
  EXPECT_EQ(Draw({-5, -5, -5}, {}), 0);
}

TEST(Greedy, NaNNeverWins) {
  EXPECT_EQ(Draw({kNaN, 1, kNaN, 2}, {}), 3);
  EXPECT_EQ(Draw({kNaN, kNaN}, {}), 0);
  EXPECT_EQ(Draw({-kInfinity, kNaN, -kInfinity}, {}), 0);
  EXPECT_EQ(Draw({0, kInfinity, kNaN}, {}), 1);
}

TEST(Sampled, NaNNeverWins) {
  for (int64_t position = 0; position < 200; ++position) {
    EXPECT_NE(Draw({kNaN, 1, 2}, {.temperature = 5}, position), 0);
    EXPECT_NE(Draw({kNaN, 1, 2}, {.temperature = 5, .top_k = 2, .top_p = 0.9f, .min_p = 0.1f}, position), 0);
    EXPECT_EQ(Draw({kNaN, kNaN, kNaN}, {.temperature = 1, .top_p = 0.5f}, position), 0);
  }
}

// Philox 4x32-10 of Random123's kat_vectors: counter and key all zero give 6627e8d5 e169c58d bc57ac4c
// 9b00dbd8. The noise of token 0 at position 0 with seed 0 is made of the first word; with counter (token 0,
// position 2^64 - 1) and so on there are no published vectors, so an independent Philox below says the rest.
double NoiseOfWord(uint32_t word) { return -std::log(-std::log(((word >> 9) + 0.5) / 8388608.0)); }

TEST(Gumbel, PhiloxKnownAnswer) { EXPECT_NEAR(GumbelNoise(0, 0, 0), NoiseOfWord(0x6627e8d5), 1e-5); }

// One round of the paper's figure, written with 64-bit words.
uint32_t SlowPhilox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    if (round > 0) {
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const uint64_t a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
    const uint32_t n0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0,
                   n2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c0 = n0, c1 = static_cast<uint32_t>(b), c2 = n2, c3 = static_cast<uint32_t>(a);
  }
  return c0;
}

TEST(Gumbel, SlowPhiloxKnowsThePublishedVectors) {
  EXPECT_EQ(SlowPhilox(0, 0, 0, 0, 0, 0), 0x6627e8d5u);
  EXPECT_EQ(SlowPhilox(~0u, ~0u, ~0u, ~0u, ~0u, ~0u), 0x408f276du);
  EXPECT_EQ(SlowPhilox(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0), 0xd16cfe09u);
}

TEST(Gumbel, CounterIsTokenAndPositionKeyIsSeed) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t seed = random();
    const int64_t position = static_cast<int64_t>(random() >> (1 + random() % 63));
    const int32_t token = static_cast<int32_t>(random() % 200000);
    const uint32_t word = SlowPhilox(static_cast<uint32_t>(token), 0, static_cast<uint32_t>(position),
                                     static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32),
                                     static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    ASSERT_NEAR(GumbelNoise(seed, position, token), NoiseOfWord(word),
                1e-5 * (1 + std::abs(NoiseOfWord(word))));
  }
}

// What top-k, then top-p, then min-p leave, in double; `doubtful` gets ids so close to a limit that float may
// differ.
std::set<int32_t> SlowKept(const std::vector<float>& logits, const SamplingOptions& options,
                           std::set<int32_t>& doubtful) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[a] / options.temperature >
           logits[b] / options.temperature;  // in float: equal quotients tie
  });
  if (options.top_k > 0 && options.top_k < static_cast<int32_t>(order.size())) order.resize(options.top_k);
  std::vector<double> p;
  for (const int32_t id : order)
    p.push_back(std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / options.temperature));
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  std::set<int32_t> kept;
  double before = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const bool by_top_p = options.top_p >= 1 || before < options.top_p * total;
    const bool by_min_p = p[i] >= options.min_p;
    if (i == 0 || (by_top_p && by_min_p)) kept.insert(order[i]);
    if (options.top_p < 1 && std::abs(before - options.top_p * total) < 1e-5 * total)
      doubtful.insert(order[i]);
    if (options.min_p > 0 && std::abs(p[i] - options.min_p) < 1e-5) doubtful.insert(order[i]);
    before += p[i];
  }
  return kept;
}

TEST(Sampled, IsTheArgmaxOverWhatTheFiltersLeave) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  Sampler sampler;
  int checked = 0;
  for (int round = 0; round < 4000; ++round) {
    std::vector<float> logits(1 + random() % 60);
    for (float& x : logits) x = random() % 4 ? normal(random) : std::round(normal(random));  // some ties
    const SamplingOptions options{.temperature = 0.2f + static_cast<float>(random() % 30) / 10,
                                  .top_k = random() % 2 ? static_cast<int32_t>(random() % 20) : 0,
                                  .top_p = random() % 2 ? 1.0f : static_cast<float>(1 + random() % 99) / 100,
                                  .min_p = random() % 2 ? 0.0f : static_cast<float>(random() % 50) / 100,
                                  .seed = random()};
    ASSERT_TRUE(options.Validate().ok());
    std::set<int32_t> doubtful;
    const std::set<int32_t> kept = SlowKept(logits, options, doubtful);
    const int64_t position = static_cast<int64_t>(random() % 100000);
    int32_t best = -1;
    double most = -1e300;
    for (const int32_t id : kept) {
      const double value =
          static_cast<double>(logits[id]) / options.temperature + GumbelNoise(options.seed, position, id);
      if (value > most + 1e-5) {
        best = id;
        most = value;
      }
    }
    const int32_t drawn = sampler.Draw(logits, options, position);
    if (!doubtful.empty()) continue;
    ++checked;
    ASSERT_EQ(drawn, best) << "round " << round << ", temperature " << options.temperature << ", top_k "
                           << options.top_k << ", top_p " << options.top_p << ", min_p " << options.min_p;
  }
  EXPECT_GT(checked, 3000);
}

// Chi-square of many positions against softmax: 15 degrees of freedom, so 50 is out of reach (p < 1e-5).
TEST(Sampled, FollowsTheSoftmax) {
  constexpr int kTokens = 16, kDraws = 40000;
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 1);
  for (const uint64_t seed : {0ull, 1ull, 0xDEADBEEF12345678ull}) {
    for (const float temperature : {0.7f, 1.0f, 2.0f}) {
      std::vector<float> logits(kTokens);
      for (float& x : logits) x = normal(random);
      std::vector<double> p(kTokens);
      for (int i = 0; i < kTokens; ++i) p[i] = std::exp(static_cast<double>(logits[i]) / temperature);
      const double total = std::accumulate(p.begin(), p.end(), 0.0);
      std::vector<int> drawn(kTokens, 0);
      Sampler sampler;
      for (int position = 0; position < kDraws; ++position) {
        ++drawn[sampler.Draw(logits, {.temperature = temperature, .seed = seed}, position)];
      }
      double chi_square = 0;
      for (int i = 0; i < kTokens; ++i) {
        const double expected = kDraws * p[i] / total;
        chi_square += (drawn[i] - expected) * (drawn[i] - expected) / expected;
      }
      EXPECT_LT(chi_square, 50) << "seed " << seed << ", temperature " << temperature;
    }
  }
}

// What a model of one token's memory says, drawn through draft trees.
class TreeDraws {
 public:
  static constexpr int32_t kTokens = 12, kDraws = 200000;
  using Rows = std::vector<std::vector<double>>;

  explicit TreeDraws(uint32_t seed) : random_(seed) {
    std::normal_distribution<float> normal(0, 1.2f);
    for (auto& row : logits_) {
      row.resize(kTokens);
      for (float& x : row) x = normal(random_);
    }
  }

  // How often each token came after each, in a text of kDraws tokens. Trees are of any shape; half of the
  // guesses know what will be drawn, so that a draw that depended on what was guessed would show.
  Rows Count(const SamplingOptions& options) {
    Rows counts(kTokens, std::vector<double>(kTokens, 0));
    DraftTree tree;
    Accepted accepted;
    int32_t root = 0;
    int64_t position = 1, path_tokens = 0;  // position: of the token after the root
    for (int64_t drawn = 0; drawn < kDraws;) {
      const auto target = [&](int32_t node) {
        return sampler_.Draw(logits_[tree.nodes[node].token], options, position + tree.nodes[node].depth);
      };
      tree.Reset(root);
      for (int nodes = Below(8); nodes > 0; --nodes) {
        const int32_t parent = Below(2) ? tree.drafted() : Below(tree.drafted() + 1);
        tree.Add(Below(2) ? target(parent) : Below(kTokens), parent, Source::kNoise);
      }
      Verify(tree, target, accepted);
      std::vector<int32_t> tokens;
      for (const int32_t node : accepted.path) tokens.push_back(tree.nodes[node].token);
      tokens.push_back(accepted.next);
      path_tokens += static_cast<int64_t>(accepted.path.size());
      for (size_t i = 0; i < tokens.size() && drawn < kDraws; ++i, ++drawn) {
        ++counts[root][tokens[i]];
        root = tokens[i];
      }
      position += static_cast<int64_t>(tokens.size());
    }
    EXPECT_GT(path_tokens, kDraws / 3) << "trees must matter";
    return counts;
  }

  // The probabilities as contracts define them, in double.
  Rows Exact(const SamplingOptions& options) const {
    Rows rows;
    for (const auto& logits : logits_) {
      std::set<int32_t> doubtful;
      const std::set<int32_t> kept = SlowKept(logits, options, doubtful);
      EXPECT_TRUE(doubtful.empty());
      std::vector<double> p(kTokens, 0);
      double total = 0;
      for (const int32_t id : kept) total += p[id] = std::exp(double{logits[id]} / options.temperature);
      for (double& x : p) x /= total;
      rows.push_back(p);
    }
    return rows;
  }

 private:
  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(n)); }

  std::mt19937 random_;
  std::vector<float> logits_[kTokens];
  Sampler sampler_;
};

// Chi-square of all rows as standard deviations of a normal variable (Wilson and Hilferty, 1931); infinity if
// something came that cannot.
double Deviations(const TreeDraws::Rows& counts, const TreeDraws::Rows& exact) {
  double chi_square = 0, freedom = 0;
  for (size_t row = 0; row < counts.size(); ++row) {
    const double total = std::accumulate(counts[row].begin(), counts[row].end(), 0.0);
    if (total == 0) continue;  // a token that nothing leads to
    freedom -= 1;
    for (size_t i = 0; i < counts[row].size(); ++i) {
      if (exact[row][i] == 0 && counts[row][i] > 0) return kInfinity;
      if (exact[row][i] == 0) continue;
      const double expected = total * exact[row][i];
      chi_square += (counts[row][i] - expected) * (counts[row][i] - expected) / expected;
      freedom += 1;
    }
  }
  const double spread = 2 / (9 * freedom);
  return (std::cbrt(chi_square / freedom) - (1 - spread)) / std::sqrt(spread);
}

TEST(Sampled, FollowsTheExactProbabilitiesThroughTrees) {
  const SamplingOptions cases[] = {
      {.temperature = 1, .seed = 1},
      {.temperature = 1, .top_k = 4, .seed = 2},
      {.temperature = 1, .top_p = 0.8f, .seed = 3},
      {.temperature = 1, .min_p = 0.15f, .seed = 4},
      {.temperature = 0.7f, .top_k = 9, .top_p = 0.95f, .min_p = 0.05f, .seed = 5}};
  for (const SamplingOptions& options : cases) {
    TreeDraws draws(static_cast<uint32_t>(options.seed));
    const TreeDraws::Rows counts = draws.Count(options);
    EXPECT_LT(Deviations(counts, draws.Exact(options)), 4) << "case " << options.seed;
    SamplingOptions warmer = options;
    warmer.temperature *= 1.05f;
    EXPECT_GT(Deviations(counts, draws.Exact(warmer)), 5)
        << "the test sees a twentieth, case " << options.seed;
  }
}

TEST(Sampled, SameDrawWhateverWasDrawnBefore) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 2);
  std::vector<std::vector<float>> rows(50, std::vector<float>(100));
  for (auto& row : rows) {
    for (float& x : row) x = normal(random);
  }
  const SamplingOptions options{.temperature = 1, .top_k = 30, .top_p = 0.9f, .seed = 5};
  std::vector<int32_t> fresh;
  for (size_t i = 0; i < rows.size(); ++i) fresh.push_back(Draw(rows[i], options, static_cast<int64_t>(i)));
  Sampler used;
  for (int i = 2000; i > 0; --i) {
    const size_t row = random() % rows.size();
    if (random() % 3 == 0) used.Draw(std::span(rows[row]).first(1 + random() % 99), {.temperature = 3}, 1);
    ASSERT_EQ(used.Draw(rows[row], options, static_cast<int64_t>(row)), fresh[row]);
  }
  EXPECT_GT(std::set<int32_t>(fresh.begin(), fresh.end()).size(), 10u);  // it does draw different tokens
}

TEST(SamplingOptions, ValidateNamesFieldAndValue) {
  using testing::HasSubstr;
  EXPECT_TRUE(SamplingOptions{}.Validate().ok());
  const auto message = [](const SamplingOptions& options) {
    return std::string(options.Validate().message());
  };
  EXPECT_THAT(message({.temperature = -1}), HasSubstr("temperature is -1"));
  EXPECT_THAT(message({.temperature = kNaN}), HasSubstr("temperature is nan"));
  EXPECT_THAT(message({.temperature = 101}), HasSubstr("temperature is 101"));
  EXPECT_THAT(message({.top_k = -2}), HasSubstr("top_k is -2"));
  EXPECT_THAT(message({.top_p = 0}), HasSubstr("top_p is 0"));
  EXPECT_THAT(message({.top_p = 1.5f}), HasSubstr("top_p is 1.5"));
  EXPECT_THAT(message({.top_p = kNaN}), HasSubstr("top_p is nan"));
  EXPECT_THAT(message({.min_p = -0.5f}), HasSubstr("min_p is -0.5"));
  EXPECT_THAT(message({.min_p = 2}), HasSubstr("min_p is 2"));
  EXPECT_THAT(message({.repetition_penalty = 0}),
              HasSubstr("repetition_penalty is 0, must be in [0.01, 100]"));
  EXPECT_THAT(message({.repetition_penalty = kNaN}), HasSubstr("repetition_penalty is nan"));
  EXPECT_THAT(message({.presence_penalty = 2.5f}), HasSubstr("presence_penalty is 2.5, must be in [-2, 2]"));
  EXPECT_THAT(message({.presence_penalty = kNaN}), HasSubstr("presence_penalty is nan"));
  EXPECT_THAT(message({.frequency_penalty = -3}), HasSubstr("frequency_penalty is -3, must be in [-2, 2]"));
  EXPECT_THAT(message({.logit_bias = {{7, 101}}}), HasSubstr("logit_bias[7] is 101, must be in [-100, 100]"));
  EXPECT_THAT(message({.logit_bias = {{7, kNaN}}}), HasSubstr("logit_bias[7] is nan"));
  EXPECT_THAT(message({.logit_bias = {{-7, 1}}}), HasSubstr("logit_bias[-7]"));
  EXPECT_THAT(message({.banned_token_ids = {4, -1}}), HasSubstr("banned_token_ids[1] is -1"));
  EXPECT_THAT(message({.banned_token_ids = std::vector<int32_t>(1025)}),
              testing::AllOf(HasSubstr("banned_token_ids holds 1025"), HasSubstr("1024")));
  SamplingOptions many;
  for (int32_t id = 1024; id >= 0; --id) many.logit_bias.push_back({id, 1});
  EXPECT_THAT(message(many), testing::AllOf(HasSubstr("logit_bias holds 1025"), HasSubstr("1024")));
  many.logit_bias.pop_back();
  EXPECT_TRUE(many.Validate().ok());
  EXPECT_THAT(std::string(many.Validate(1024).message()), HasSubstr("logit_bias[1024] is of no token"));
  const SamplingOptions banned{.banned_token_ids = {3, 640}};
  EXPECT_TRUE(banned.Validate(641).ok());
  EXPECT_THAT(std::string(banned.Validate(640).message()),
              HasSubstr("banned_token_ids[1] is 640, must be in [0, 640)"));
}

}  // namespace
}  // namespace clamor
