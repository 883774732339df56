// Figures of an evaluation against dull sums over random answers, and trees counted by hand.
#include "services/cli/eval_figures.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor::cli {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Counts that differ in every field.
StepCounts RandomCounts(std::mt19937& random) {
  const auto draw = [&] { return static_cast<int64_t>(random() % 50); };
  StepCounts counts;
  counts.steps = draw();
  counts.rows = draw();
  counts.forwards = draw();
  counts.undrafted = draw();
  for (double& seconds : counts.phase_seconds) seconds = 0.25 * static_cast<double>(draw());
  for (size_t i = 0; i < kSources; ++i) {
    counts.drafted[i] = draw();
    counts.accepted[i] = draw();
  }
  for (auto* histogram : {&counts.emitted, &counts.reached, &counts.matched}) {
    histogram->resize(draw() % 6);
    for (int64_t& count : *histogram) count = draw();
  }
  for (StepCounts::Bucket& bucket : counts.calibration) {
    bucket = {draw(), draw(), 0.5 * static_cast<double>(draw()), 0.125 * static_cast<double>(draw())};
  }
  return counts;
}

Answered RandomAnswered(std::mt19937& random, size_t modes) {
  Answered answered{{.id = "x", .category = std::string(1, static_cast<char>('a' + random() % 3)), .line = 1},
                    {}};
  answered.question.prompt_ids.resize(1 + random() % 9);
  std::vector<int32_t> ids(1 + random() % 6);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 100);
  for (size_t mode = 0; mode < modes; ++mode) {
    ModeAnswer answer{.ids = ids};
    if (random() % 4 == 0) answer.ids[random() % ids.size()] = 100;
    answer.first_tokens = static_cast<int64_t>(1 + random() % ids.size());
    answer.stats.forwards = static_cast<int64_t>(1 + random() % ids.size());
    answer.stats.draft_nodes = static_cast<int64_t>(random() % 99);
    answer.stats.prefill_seconds = 0.5 * static_cast<double>(random() % 9);
    answer.stats.decode_seconds = 0.5 * static_cast<double>(1 + random() % 9);
    answer.counts = RandomCounts(random);
    answered.answers.push_back(std::move(answer));
  }
  return answered;
}

// What FiguresOf says of one mode and category ("": all), the long way.
void ExpectFigures(const ModeFigures& figures, const std::vector<Answered>& all, const std::string& category,
                   size_t mode, size_t plain) {
  int64_t prompts = 0, prompt_tokens = 0, tokens = 0, forwards = 0, nodes = 0, identical = 0, first = 0;
  int64_t emitted_ones = 0, accepted_context = 0;
  double decode = 0, prefill = 0, plain_decode = 0, draft_seconds = 0;
  int64_t plain_tokens = 0;
  std::multiset<double> ratios;
  for (const Answered& answered : all) {
    if (!category.empty() && answered.question.category != category) continue;
    const ModeAnswer &answer = answered.answers[mode], &reference = answered.answers[plain];
    ++prompts;
    prompt_tokens += static_cast<int64_t>(answered.question.prompt_ids.size());
    tokens += static_cast<int64_t>(answer.ids.size());
    first += answer.first_tokens;
    forwards += answer.stats.forwards;
    nodes += answer.stats.draft_nodes;
    prefill += answer.stats.prefill_seconds;
    decode += answer.stats.decode_seconds;
    plain_decode += reference.stats.decode_seconds;
    plain_tokens += static_cast<int64_t>(reference.ids.size()) - reference.first_tokens;
    identical += answer.ids == reference.ids ? 1 : 0;
    if (answer.counts.emitted.size() > 1) emitted_ones += answer.counts.emitted[1];
    accepted_context += answer.counts.accepted[static_cast<size_t>(Source::kContext)];
    draft_seconds += answer.counts.phase_seconds[StepReport::kDraft];
    const double own = static_cast<double>(answer.ids.size()) - static_cast<double>(answer.first_tokens);
    const double theirs =
        static_cast<double>(reference.ids.size()) - static_cast<double>(reference.first_tokens);
    if (own > 0 && theirs > 0) {
      ratios.insert((own / answer.stats.decode_seconds) / (theirs / reference.stats.decode_seconds));
    }
  }
  EXPECT_EQ(figures.prompts, prompts);
  EXPECT_EQ(figures.prompt_tokens, prompt_tokens);
  EXPECT_EQ(figures.tokens, tokens);
  EXPECT_EQ(figures.forwards, forwards);
  EXPECT_EQ(figures.draft_nodes, nodes);
  EXPECT_EQ(figures.decode_tokens, tokens - first);
  EXPECT_EQ(figures.compared, prompts);
  EXPECT_EQ(figures.identical, identical);
  EXPECT_DOUBLE_EQ(figures.prefill_seconds, prefill);
  EXPECT_DOUBLE_EQ(figures.decode_seconds, decode);
  EXPECT_EQ(figures.counts.emitted.size() > 1 ? figures.counts.emitted[1] : 0, emitted_ones);
  EXPECT_EQ(figures.counts.accepted[static_cast<size_t>(Source::kContext)], accepted_context);
  EXPECT_DOUBLE_EQ(figures.counts.phase_seconds[StepReport::kDraft], draft_seconds);
  EXPECT_DOUBLE_EQ(figures.tokens_per_forward(), static_cast<double>(tokens) / static_cast<double>(forwards));
  EXPECT_DOUBLE_EQ(figures.nodes_per_forward(), static_cast<double>(nodes) / static_cast<double>(forwards));
  if (tokens > first && plain_tokens > 0) {
    EXPECT_DOUBLE_EQ(figures.ratio_total, static_cast<double>(tokens - first) / decode /
                                              (static_cast<double>(plain_tokens) / plain_decode));
  } else {
    EXPECT_TRUE(std::isnan(figures.ratio_total));
  }
  if (ratios.empty()) {
    EXPECT_TRUE(std::isnan(figures.ratio_median));
    return;
  }
  // The median: as many below as above, up to ties.
  const auto not_above =
      std::count_if(ratios.begin(), ratios.end(), [&](double r) { return r <= figures.ratio_median; });
  const auto not_below =
      std::count_if(ratios.begin(), ratios.end(), [&](double r) { return r >= figures.ratio_median; });
  EXPECT_GE(2 * not_above, static_cast<int64_t>(ratios.size()));
  EXPECT_GE(2 * not_below, static_cast<int64_t>(ratios.size()));
}

TEST(EvalFigures, AreTheSumsOfTheirAnswers) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const size_t modes = 1 + random() % 3, plain = random() % modes;
    std::vector<Answered> all;
    for (size_t n = random() % 12; n > 0; --n) all.push_back(RandomAnswered(random, modes));
    const EvalFigures figures = FiguresOf(all, modes, plain);
    std::vector<std::string> names;
    for (const Answered& answered : all) {
      if (std::find(names.begin(), names.end(), answered.question.category) == names.end()) {
        names.push_back(answered.question.category);
      }
    }
    ASSERT_EQ(figures.categories.size(), names.size());
    for (size_t mode = 0; mode < modes; ++mode) {
      for (size_t i = 0; i < names.size(); ++i) {
        EXPECT_EQ(figures.categories[i].category, names[i]);
        ExpectFigures(figures.categories[i].modes[mode], all, names[i], mode, plain);
      }
      if (!all.empty()) ExpectFigures(figures.overall.modes[mode], all, "", mode, plain);
    }
    for (size_t i = 0; i < names.size(); ++i) {
      EXPECT_TRUE(figures.categories[i].modes[plain].ratio_total == 1 ||
                  std::isnan(figures.categories[i].modes[plain].ratio_total));
    }
  }
}

TEST(EvalFigures, WithoutPlainDecodingNothingIsCompared) {
  std::mt19937 random(7);
  const std::vector<Answered> all = {RandomAnswered(random, 2), RandomAnswered(random, 2)};
  const EvalFigures figures = FiguresOf(all, 2, std::nullopt);
  EXPECT_EQ(figures.overall.modes[1].compared, 0);
  EXPECT_TRUE(std::isnan(figures.overall.modes[1].ratio_median));
  EXPECT_TRUE(std::isnan(figures.overall.modes[1].ratio_total));
  EXPECT_THAT(DifferencesOf(all, std::nullopt), IsEmpty());
  const EvalFigures nothing = FiguresOf({}, 2, 0);
  EXPECT_THAT(nothing.categories, IsEmpty());
  EXPECT_EQ(nothing.overall.modes.size(), 2u);
  EXPECT_TRUE(std::isnan(nothing.overall.modes[0].tokens_per_forward()));
}

TEST(EvalFigures, DifferencesAreWhereAnswersPart) {
  const auto answers = [](std::vector<std::vector<int32_t>> ids) {
    Answered answered;
    for (auto& answer : ids) answered.answers.push_back({.ids = std::move(answer)});
    return answered;
  };
  const std::vector<Answered> all = {answers({{1, 2, 3}, {1, 2, 3}, {1, 2, 3}}),
                                     answers({{1, 2, 3}, {1, 9, 3}, {1, 2}}), answers({{1}, {1, 4}, {}})};
  const std::vector<Difference> found = DifferencesOf(all, 0);
  ASSERT_EQ(found.size(), 4u);
  const auto is = [&](size_t i, size_t prompt, size_t mode, size_t token, int32_t plain, int32_t other) {
    EXPECT_EQ(found[i].prompt, prompt) << i;
    EXPECT_EQ(found[i].mode, mode) << i;
    EXPECT_EQ(found[i].token, token) << i;
    EXPECT_EQ(found[i].plain, plain) << i;
    EXPECT_EQ(found[i].other, other) << i;
  };
  is(0, 1, 1, 1, 2, 9);
  is(1, 1, 2, 2, 3, -1);
  is(2, 2, 1, 1, -1, 4);
  is(3, 2, 2, 0, 1, -1);
}

// root - a (0.6) - b (0.42) - tail (no estimate)
//      \ c (0.3)
TEST(StepCounts, ATreeIsPutToTheTest) {
  DraftTree tree;
  tree.Reset(1);
  const int32_t a = tree.Add(10, 0, Source::kContext, 0.6f);
  tree.Add(11, 0, Source::kAdjacency, 0.3f);
  const int32_t b = tree.Add(12, a, Source::kContext, 0.42f);
  const int32_t tail = tree.Add(13, b, Source::kNoise, 0);

  StepCounts counts;
  counts.AddTree(tree, {.path = {a}, .next = 5});
  counts.AddTree(tree, {.path = {a, b, tail}, .next = 5});
  tree.Reset(1);
  counts.AddTree(tree, {.path = {}, .next = 5});
  for (const int32_t tokens : {2, 4, 1}) counts.AddEmitted(tokens);

  EXPECT_EQ(counts.forwards, 3);
  EXPECT_EQ(counts.undrafted, 1);
  EXPECT_THAT(counts.reached, ElementsAre(0, 2, 2, 2));
  EXPECT_THAT(counts.matched, ElementsAre(0, 2, 1, 1));
  EXPECT_THAT(counts.emitted, ElementsAre(0, 1, 1, 0, 1));
  std::map<double, std::pair<int64_t, int64_t>> buckets;
  for (size_t i = 0; i < counts.calibration.size(); ++i) {
    const StepCounts::Bucket& bucket = counts.calibration[i];
    if (bucket.nodes > 0) buckets[StepCounts::kSurvivalBounds[i]] = {bucket.nodes, bucket.accepted};
  }
  EXPECT_EQ(buckets,
            (std::map<double, std::pair<int64_t, int64_t>>{{0.6, {2, 2}}, {0.3, {2, 0}}, {0.4, {2, 1}}}));
  EXPECT_NEAR(counts.Brier(), (2 * 0.16 + 2 * 0.09 + 0.42 * 0.42 + 0.58 * 0.58) / 6, 1e-6);
}

TEST(StepCounts, SurvivalOfOneHasABucket) {
  DraftTree tree;
  tree.Reset(1);
  tree.Add(10, 0, Source::kContext, 1.0f);
  tree.Add(11, 0, Source::kContext, 1e-9f);
  StepCounts counts;
  counts.AddTree(tree, {.path = {1}, .next = 5});
  EXPECT_EQ(counts.calibration.back().accepted, 1);
  EXPECT_EQ(counts.calibration.front().nodes, 1);
}

TEST(StepCounts, StepsThatReadAPromptHaveNoTime) {
  StepReport report;
  report.rows = 5;
  report.seconds[StepReport::kForward] = 2;
  report.drafted[static_cast<size_t>(Source::kStore)] = 4;
  StepCounts counts;
  counts.AddStep(report);
  report.prompt_tokens = 3;
  counts.AddStep(report);
  EXPECT_EQ(counts.steps, 1);
  EXPECT_EQ(counts.rows, 5);
  EXPECT_EQ(counts.phase_seconds[StepReport::kForward], 2);
  EXPECT_EQ(counts.drafted[static_cast<size_t>(Source::kStore)], 8);
}

}  // namespace
}  // namespace clamor::cli
