#include "model/train/sample_noise.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/random.h"
#include "tests/model/train/testing.h"

namespace clamor {
namespace {

using Ids = std::vector<int32_t>;

// The dull twin: walks every choice that the contract allows, with its probability, and adds up what comes
// out. It knows no lists of free places and no incremental state.
class EveryOutcome {
 public:
  EveryOutcome(const Sample& sample, const NoiseOptions& options, const NoiseVocabulary& vocabulary)
      : sample_(sample), options_(options), vocabulary_(vocabulary) {
    Place({}, 1);
  }

  std::map<Ids, double> chances;  // of each possible row of inputs

 private:
  bool Noised(const Ids& starts, int32_t at) const {
    return std::any_of(starts.begin(), starts.end(),
                       [&](int32_t start) { return at >= start && at < start + options_.length; });
  }

  bool Special(int32_t id) const {
    return std::find(vocabulary_.specials.begin(), vocabulary_.specials.end(), id) !=
           vocabulary_.specials.end();
  }

  void Place(const Ids& starts, double chance) {
    Ids possible;
    for (const Span& response : sample_.responses) {
      for (int32_t start = response.begin; start < response.end - options_.length; ++start) {
        bool free = true;
        for (int32_t i = 0; i < options_.length; ++i) free = free && !Noised(starts, start + i);
        if (free) possible.push_back(start);
      }
    }
    if (possible.empty() || static_cast<int32_t>(starts.size()) == options_.segments) {
      return Fill(starts, 0, sample_.ids, chance);
    }
    for (const int32_t start : possible) {
      Ids more = starts;
      more.push_back(start);
      Place(more, chance / possible.size());
    }
  }

  void Fill(const Ids& starts, int32_t at, Ids inputs, double chance) {
    if (at == static_cast<int32_t>(inputs.size())) {
      chances[inputs] += chance;
      return;
    }
    Ids draws;
    if (Noised(starts, at) && !Special(inputs[at])) {
      if (options_.kind == NoiseKind::kUniform) {
        for (int32_t id = 0; id < vocabulary_.size; ++id) draws.push_back(id);
      } else {
        draws.assign(inputs.begin(), inputs.begin() + at);
      }
      draws.erase(std::remove_if(draws.begin(), draws.end(), [&](int32_t id) { return Special(id); }),
                  draws.end());
    }
    if (draws.empty()) return Fill(starts, at + 1, std::move(inputs), chance);
    for (const int32_t id : draws) {
      inputs[at] = id;
      Fill(starts, at + 1, inputs, chance / draws.size());
    }
  }

  const Sample& sample_;
  const NoiseOptions& options_;
  const NoiseVocabulary& vocabulary_;
};

void ExpectSameDistribution(const Sample& sample, const NoiseOptions& options,
                            const NoiseVocabulary& vocabulary) {
  const auto chances = EveryOutcome(sample, options, vocabulary).chances;
  const int draws = 40000;
  std::map<Ids, int> counts;
  std::vector<Span> noised;
  for (int i = 0; i < draws; ++i) {
    ++counts[NoisyInputs(sample, options, vocabulary, MixSeed(11, 0, i), &noised)];
  }
  for (const auto& [inputs, count] : counts) ASSERT_TRUE(chances.contains(inputs)) << count;
  double distance = 0;  // chi squared
  for (const auto& [inputs, chance] : chances) {
    const double expected = chance * draws;
    const auto found = counts.find(inputs);
    const double count = found == counts.end() ? 0 : found->second;
    distance += (count - expected) * (count - expected) / expected;
  }
  const double freedom = chances.size() - 1.0;
  EXPECT_NEAR(distance, freedom, 5 * std::sqrt(2 * freedom) + 1e-9)
      << NoiseKindName(options.kind) << " " << options.length << " " << options.segments;
}

const NoiseVocabulary kNoSpecials{.size = 12, .specials = {}};
const NoiseVocabulary kSpecials{.size = 12, .specials = {0, 1, 5, 11}};

TEST(SampleNoiseTest, PublishedRule) {
  // start = randrange(len(prompt), len(ids) - L); ids[i] = choice(ids[:i])
  const Sample sample{{2, 3, 4, 6, 7, 8}, {{2, 6}}, ""};
  const auto chances = EveryOutcome(sample, {.length = 2}, kNoSpecials).chances;
  // By hand: two starts; from start 2 the draws are one of {2, 3} and one of {2, 3, that}.
  EXPECT_NEAR(chances.at({2, 3, 2, 2, 7, 8}), 1 / 2. * 1 / 2. * 2 / 3., 1e-12);
  EXPECT_NEAR(chances.at({2, 3, 4, 4, 4, 8}), 1 / 2. * 1 / 3. * 2 / 4., 1e-12);
  ExpectSameDistribution(sample, {.length = 2}, kNoSpecials);
  ExpectSameDistribution(sample, {.length = 1}, kNoSpecials);
}

TEST(SampleNoiseTest, EveryKindAsItsTwin) {
  const std::vector<Sample> samples = {
      {{0, 3, 4, 6, 7, 8, 1}, {{2, 7}}, ""},                  // specials before and at the end
      {{0, 1, 4, 6, 5, 8, 9}, {{2, 7}}, ""},                  // a special inside; nothing to draw at 2
      {{2, 3, 4, 1, 6, 7, 8, 9, 10}, {{1, 4}, {5, 9}}, ""},   // two responses
      {{2, 2, 3, 2, 4, 4}, {{1, 6}}, ""},                     // tokens that repeat
      {{0, 1, 5, 11, 0, 1, 5}, {{1, 7}}, ""},                 // nothing but specials
      {{4, 3, 2, 1, 0, 2, 3}, {{1, 2}, {3, 4}, {5, 7}}, ""},  // little room
  };
  for (const Sample& sample : samples) {
    for (const NoiseKind kind : {NoiseKind::kAhead, NoiseKind::kUniform, NoiseKind::kJacobi}) {
      for (int32_t length = 1; length <= (kind == NoiseKind::kUniform ? 2 : 3); ++length) {
        for (int32_t segments = 1; segments <= (kind == NoiseKind::kUniform ? 1 : 2); ++segments) {
          ExpectSameDistribution(sample, {kind, length, segments}, kSpecials);
        }
      }
    }
  }
}

// All tokens differ, so that every replaced input shows.
TEST(SampleNoiseTest, ReportsWhatItReplaced) {
  uint64_t random = 5;
  for (int round = 0; round < 3000; ++round) {
    Sample sample;
    const int32_t size = 2 + RandomBelow(random, 60);
    for (int32_t i = 0; i < size; ++i) sample.ids.push_back(100 + i);
    NoiseVocabulary vocabulary{.size = 1000, .specials = {}};
    for (int32_t begin = 1 + RandomBelow(random, 10); begin < size;) {
      const int32_t end = std::min<int32_t>(size, begin + 1 + RandomBelow(random, 20));
      sample.responses.push_back({begin, end});
      vocabulary.specials.push_back(sample.ids[end - 1]);
      if (RandomBelow(random, 2)) vocabulary.specials.push_back(sample.ids[begin + (end - begin) / 2]);
      begin = end + 1 + RandomBelow(random, 5);
    }
    std::sort(vocabulary.specials.begin(), vocabulary.specials.end());
    const NoiseOptions options{NoiseKind::kAhead, static_cast<int32_t>(1 + RandomBelow(random, 8)),
                               static_cast<int32_t>(1 + RandomBelow(random, 4))};
    std::vector<Span> noised;
    const Ids inputs = NoisyInputs(sample, options, vocabulary, random, &noised);
    ASSERT_EQ(inputs.size(), sample.ids.size());
    std::vector<bool> replaced(size);
    int32_t last = -1, total = 0;
    for (const Span& run : noised) {
      ASSERT_GT(run.begin, last) << "runs that touch are one";
      ASSERT_GT(run.size(), 0);
      EXPECT_TRUE(std::any_of(sample.responses.begin(), sample.responses.end(), [&](const Span& response) {
        return response.begin <= run.begin && run.end < response.end;
      }));
      for (int32_t i = run.begin; i < run.end; ++i) replaced[i] = true;
      last = run.end;
      total += run.size();
    }
    EXPECT_LE(total, options.length * options.segments);
    for (int32_t i = 0; i < size; ++i) {
      EXPECT_EQ(inputs[i] != sample.ids[i], replaced[i]) << i;
      if (!replaced[i]) continue;
      EXPECT_FALSE(vocabulary.IsSpecial(inputs[i]) || vocabulary.IsSpecial(sample.ids[i]));
      EXPECT_LT(inputs[i], sample.ids[i]) << "drawn from before";
    }
    EXPECT_EQ(NoisyInputs(sample, options, vocabulary, random, &noised), inputs);
  }
}

TEST(SampleNoiseTest, NoRoomNoNoise) {
  std::vector<Span> noised = {{1, 2}};
  const Sample sample{{2, 3, 4, 6, 7}, {{2, 5}}, ""};
  for (const NoiseKind kind : {NoiseKind::kNone, NoiseKind::kAhead, NoiseKind::kUniform}) {
    const NoiseOptions options{kind, 3, 2};
    EXPECT_EQ(NoisyInputs(sample, options, kNoSpecials, 1, &noised), sample.ids);
    EXPECT_TRUE(noised.empty());
    EXPECT_EQ(ResponseTokensForNoise(options), kind == NoiseKind::kNone ? 0 : 4);
  }
  NoisyInputs(sample, {NoiseKind::kAhead, 2, 3}, kNoSpecials, 1, &noised);  // room for one of three
  EXPECT_EQ(noised, (std::vector<Span>{{2, 4}}));
}

TEST(SampleNoiseTest, IsDrawnAnewEachEpochAndRepeats) {
  const Sample sample{Ids(Sequence(40)), {{10, 40}}, ""};
  const NoiseVocabulary vocabulary{.size = 40, .specials = {}};
  std::map<Ids, int> rows;
  std::vector<Span> noised;
  for (uint64_t epoch = 0; epoch < 50; ++epoch) {
    for (uint64_t index = 0; index < 4; ++index) {
      const Ids row = NoisyInputs(sample, {}, vocabulary, MixSeed(9, epoch, index), &noised);
      EXPECT_EQ(NoisyInputs(sample, {}, vocabulary, MixSeed(9, epoch, index), &noised), row);
      ++rows[row];
    }
  }
  EXPECT_EQ(rows.size(), 200u);
}

TEST(SampleNoiseTest, VocabularyOfAModel) {
  const TestModel demo(CLAMOR_DEMO_MODEL);
  const auto vocabulary = NoiseVocabulary::Of(*demo.tokenizer);
  EXPECT_EQ(vocabulary.size, 4096);
  EXPECT_EQ(vocabulary.specials, (Ids{0, 1, 2}));
  EXPECT_TRUE(vocabulary.IsSpecial(2));
  EXPECT_FALSE(vocabulary.IsSpecial(3));
}

TEST(SampleNoiseTest, Options) {
  for (const std::string name : {"none", "ahead", "uniform", "jacobi"}) {
    const auto kind = ParseNoiseKind(name);
    ASSERT_TRUE(kind.ok());
    EXPECT_EQ(NoiseKindName(*kind), name);
  }
  EXPECT_EQ(ParseNoiseKind("behind\n").status().message(),
            "noise is 'behind\\n', must be none, ahead, uniform or jacobi");
  EXPECT_TRUE(NoiseOptions{}.Validate().ok());
  EXPECT_EQ(NoiseOptions{.length = 0}.Validate().message(), "noise length is 0, must be from 1 to 1024");
  EXPECT_EQ(NoiseOptions{.segments = 65}.Validate().message(), "noise segments is 65, must be from 1 to 64");
}

}  // namespace
}  // namespace clamor
