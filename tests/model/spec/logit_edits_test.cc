// Against a plain loop over the vocabulary that counts in the whole text.
#include "model/spec/logit_edits.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool Holds(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

std::vector<float> SlowEdits(const SamplingOptions& options, const AnswerEnds& ends,
                             const std::vector<int32_t>& prompt, const std::vector<int32_t>& answer,
                             const std::vector<float>& logits) {
  std::vector<float> edited;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    float x = logits[id];
    const auto times = static_cast<float>(std::count(answer.begin(), answer.end(), id));
    if (options.repetition_penalty != 1 && (Holds(prompt, id) || times > 0)) {
      x = x > 0 ? x / options.repetition_penalty : x * options.repetition_penalty;
    }
    if (times > 0) x -= options.presence_penalty + options.frequency_penalty * times;
    for (const auto& [token, bias] : options.logit_bias) {
      if (token == id) x += bias;
    }
    if (Holds(options.banned_token_ids, id)) x = -kInfinity;
    if (static_cast<int64_t>(answer.size()) < ends.min_tokens && Holds(ends.token_ids, id)) x = -kInfinity;
    edited.push_back(x);
  }
  return edited;
}

class RandomEdits {
 public:
  explicit RandomEdits(uint32_t seed) : random_(seed) {}

  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(n)); }
  std::vector<int32_t> Ids(int32_t size) {
    std::vector<int32_t> ids(size);
    for (int32_t& id : ids) id = Below(kVocab);
    return ids;
  }
  std::vector<float> Logits() {
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> logits(kVocab);
    for (float& x : logits) x = Below(10) ? normal(random_) : static_cast<float>(Below(3) - 1) * 0.0f;
    return logits;
  }
  SamplingOptions Options() {
    SamplingOptions options;
    if (Below(2)) options.repetition_penalty = 0.5f + static_cast<float>(Below(20)) / 10;
    if (Below(2)) options.presence_penalty = static_cast<float>(Below(41) - 20) / 10;
    if (Below(2)) options.frequency_penalty = static_cast<float>(Below(41) - 20) / 10;
    for (int n = Below(2) * Below(8); n > 0; --n)
      options.logit_bias.push_back({Below(kVocab), static_cast<float>(Below(201) - 100)});
    options.banned_token_ids = Ids(Below(2) * Below(8));
    return options;
  }

  static constexpr int32_t kVocab = 24;  // small: tokens come again and again

 private:
  std::mt19937 random_;
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(LogitEdits, AreThoseOfAPlainLoop) {
  RandomEdits random(1);
  std::vector<float> edited;
  int changed = 0, emptied = 0;
  for (int round = 0; round < 2000; ++round) {
    const SamplingOptions options = random.Options();
    ASSERT_TRUE(options.Validate(RandomEdits::kVocab).ok());
    const AnswerEnds ends{random.Ids(random.Below(2) * random.Below(4)), random.Below(2) * random.Below(8)};
    const std::vector<int32_t> prompt = random.Ids(1 + random.Below(20));
    LogitEdits edits(options, ends, prompt, 10);
    std::vector<int32_t> answer;
    for (int token = 0; token < 10; ++token) {
      const std::vector<int32_t> path = random.Ids(random.Below(6));
      std::vector<int32_t> with_path = answer;
      with_path.insert(with_path.end(), path.begin(), path.end());
      const std::vector<float> logits = random.Logits();
      const std::vector<float> expected = SlowEdits(options, ends, prompt, with_path, logits);
      edits.Apply(path, logits, edited);
      ASSERT_TRUE(SameBits(edited, expected)) << "round " << round << ", token " << token;
      ASSERT_TRUE(!edits.empty() || SameBits(logits, expected)) << "round " << round;
      changed += !SameBits(logits, expected);
      emptied += edits.empty();
      answer.push_back(random.Below(RandomEdits::kVocab));
      edits.Add(answer.back());
    }
  }
  EXPECT_GT(changed, 10000);
  EXPECT_GT(emptied, 500);
}

TEST(LogitEdits, NothingAskedForIsNothingToDo) {
  EXPECT_TRUE(LogitEdits().empty());
  const std::vector<int32_t> prompt = {1, 2, 3};
  EXPECT_TRUE(LogitEdits({.temperature = 1, .top_k = 5, .seed = 3}, {.token_ids = {2}}, prompt, 9).empty());
  EXPECT_TRUE(LogitEdits({}, {.min_tokens = 5}, prompt, 9).empty()) << "no token could end it anyway";
  EXPECT_FALSE(LogitEdits({.presence_penalty = -0.1f}, {}, prompt, 9).empty());
  EXPECT_FALSE(LogitEdits({.logit_bias = {{1, 0.5f}}}, {}, prompt, 9).empty());
  LogitEdits edits({}, {.token_ids = {2}, .min_tokens = 2}, prompt, 9);
  EXPECT_FALSE(edits.empty());
  edits.Add(7);
  EXPECT_FALSE(edits.empty());
  edits.Add(7);
  EXPECT_TRUE(edits.empty()) << "from here on it may end";
}

TEST(LogitEdits, ByHand) {
  // Token 0 in the prompt, 1 twice in the answer and once guessed, 2 guessed, 3 nowhere.
  LogitEdits edits(
      {.repetition_penalty = 2, .presence_penalty = 1, .frequency_penalty = 0.5f, .logit_bias = {{3, 7}}}, {},
      std::vector<int32_t>{0, 0}, 8);
  edits.Add(1);
  edits.Add(1);
  std::vector<float> edited;
  edits.Apply(std::vector<int32_t>{2, 1}, std::vector<float>{4, 4, -4, -4}, edited);
  EXPECT_EQ(edited, (std::vector<float>{2, 2 - 1 - 1.5f, -8 - 1 - 0.5f, 3}));
  edits.Apply({}, std::vector<float>{4, 4, -4, -4}, edited);
  EXPECT_EQ(edited, (std::vector<float>{2, 2 - 1 - 1, -4, 3})) << "a guess leaves nothing behind";
}

TEST(LogitEdits, WhatIsNotANumberStaysSo) {
  LogitEdits edits({.repetition_penalty = 2, .presence_penalty = 1, .logit_bias = {{0, 1}}}, {},
                   std::vector<int32_t>{0, 1, 2}, 8);
  std::vector<float> edited;
  edits.Apply({}, std::vector<float>{std::nanf(""), -kInfinity, kInfinity}, edited);
  EXPECT_TRUE(std::isnan(edited[0]));
  EXPECT_EQ(edited[1], -kInfinity);
  EXPECT_EQ(edited[2], kInfinity);
}

}  // namespace
}  // namespace clamor
