// What is counted of a load, and how it is told.
#include "services/cli/bench_figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <vector>

#include "services/cli/bench_histogram.h"
#include "services/cli/bench_report.h"
#include "services/rpc_error.h"

namespace clamor::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const LoadClock::time_point kBegin = LoadClock::time_point(std::chrono::hours(1));

StreamResult Ended(const absl::Status& status, double seconds = 1, double due = 0) {
  StreamResult result{
      .due = kBegin + std::chrono::duration_cast<LoadClock::duration>(std::chrono::duration<double>(due)),
      .total = seconds,
      .status = status};
  if (status.ok()) {
    result.started = true;
    result.first_token = seconds / 4;
    result.tokens = 4;
    result.gaps = {{static_cast<float>(seconds / 4), 1}, {static_cast<float>(seconds / 4), 2}};
  }
  return result;
}

TEST(TimeHistogramTest, QuantilesAreThoseOfTheSortedTimes) {
  std::mt19937_64 chance(3);
  for (const size_t count : {1, 2, 3, 10, 1000, 20000}) {
    TimeHistogram histogram;
    std::vector<double> times;
    double sum = 0;
    for (size_t i = 0; i < count; ++i) {
      times.push_back(std::exp(std::normal_distribution<double>(-4, 3)(chance)));
      times.back() = std::clamp(times.back(), 2e-6, 9e5);
      sum += times.back();
      histogram.Add(times.back());
    }
    std::sort(times.begin(), times.end());
    EXPECT_EQ(histogram.count(), static_cast<int64_t>(count));
    EXPECT_NEAR(histogram.mean(), sum / static_cast<double>(count), 1e-9 * sum);
    EXPECT_EQ(histogram.max(), times.back());
    for (const double q : {0.0, 0.01, 0.5, 0.9, 0.99, 1.0}) {
      const auto rank = static_cast<size_t>(std::max(1.0, std::ceil(q * static_cast<double>(count))));
      EXPECT_NEAR(histogram.Quantile(q) / times[rank - 1], 1, 0.006) << q << " of " << count;
    }
  }
}

TEST(TimeHistogramTest, WithoutTimesNothingIsKnown) {
  const TimeHistogram none;
  EXPECT_TRUE(std::isnan(none.mean()));
  EXPECT_TRUE(std::isnan(none.max()));
  EXPECT_TRUE(std::isnan(none.Quantile(0.5)));
}

TEST(TimeHistogramTest, ATimeMayCountSeveralTimes) {
  TimeHistogram histogram;
  histogram.Add(1, 99);
  histogram.Add(2);
  EXPECT_EQ(histogram.count(), 100);
  EXPECT_NEAR(histogram.mean(), 1.01, 1e-12);
  EXPECT_NEAR(histogram.Quantile(0.99), 1, 0.006);
  EXPECT_NEAR(histogram.Quantile(0.995), 2, 0.012);
}

TEST(BenchFiguresTest, HowAStreamEnded) {
  EXPECT_EQ(OutcomeOf(Ended(absl::OkStatus()), false), Outcome::kOk);
  EXPECT_EQ(OutcomeOf(Ended(Refusal("QUEUE_FULL", "full")), false), Outcome::kRefused);
  EXPECT_EQ(OutcomeOf(Ended(absl::UnavailableError("nobody")), false), Outcome::kRefused);
  // Too late, before or after it began, is no refusal.
  EXPECT_EQ(OutcomeOf(Ended(Refusal("DEADLINE", "late")), false), Outcome::kFailed);
  StreamResult result = Ended(absl::UnavailableError("gone"));
  result.started = true;
  EXPECT_EQ(OutcomeOf(result, false), Outcome::kFailed);
  EXPECT_EQ(OutcomeOf(result, true), Outcome::kCut);
  result.aborted = true;
  EXPECT_EQ(OutcomeOf(result, true), Outcome::kAborted);
}

TEST(BenchFiguresTest, GoodIsWithinTheObjectives) {
  const StreamResult answer = Ended(absl::OkStatus(), 2);  // first token 0.5 s, then 0.5 s a token
  EXPECT_TRUE(IsGood(answer, {}));
  EXPECT_TRUE(IsGood(answer, {.first_token = 0.5, .inter_token = 0.5, .total = 2}));
  EXPECT_FALSE(IsGood(answer, {.first_token = 0.49}));
  EXPECT_FALSE(IsGood(answer, {.inter_token = 0.49}));
  EXPECT_FALSE(IsGood(answer, {.total = 1.9}));
  EXPECT_FALSE(IsGood(Ended(absl::InternalError("x")), {}));
}

PhaseFigures SomePhase() {
  PhaseFigures figures = PhaseFigures::Over(10, kBegin);
  figures.rate = 4;
  figures.seconds = 10;
  figures.complete = true;
  for (int i = 0; i < 30; ++i) {
    StreamResult result = Ended(absl::OkStatus(), 1 + 0.1 * i, i / 3);
    result.priority = i % 3 == 0 ? v1::PRIORITY_HIGH : v1::PRIORITY_NORMAL;
    figures.Add(result, Outcome::kOk, {.total = 2.95});
  }
  for (int i = 0; i < 5; ++i) {
    StreamResult result = Ended(Refusal("QUEUE_FULL", "full"), 0.01, 9);
    result.told_when_to_retry = i < 4;
    figures.Add(result, Outcome::kRefused, {});
  }
  figures.Add(Ended(absl::InternalError("broken"), 3, 9), Outcome::kFailed, {});
  figures.Add(Ended(absl::CancelledError("gave up"), 3, 9), Outcome::kAborted, {});
  return figures;
}

TEST(BenchFiguresTest, SumsAddUp) {
  const PhaseFigures figures = SomePhase();
  EXPECT_EQ(figures.all.sent, 37);
  EXPECT_EQ(figures.all.of(Outcome::kOk), 30);
  EXPECT_EQ(figures.all.good, 20);
  EXPECT_EQ(figures.all.admitted(), 31);
  EXPECT_EQ(figures.goodput(), 2);
  EXPECT_EQ(figures.tokens, 120);
  EXPECT_EQ(figures.by_priority[2].sent, 10);
  EXPECT_EQ(figures.by_priority[0].sent, 0);
  EXPECT_EQ(figures.first_token_by_priority[2].count(), 10);
  EXPECT_EQ(figures.inter_token.count(), 90);
  EXPECT_EQ(figures.refusal.count(), 5);
  EXPECT_EQ(figures.errors.at("QUEUE_FULL").requests, 5);
  EXPECT_EQ(figures.errors.at("QUEUE_FULL").told_when_to_retry, 4);
  EXPECT_EQ(figures.errors.at("INTERNAL").requests, 1);
  ASSERT_EQ(figures.slices.size(), 10u);
  int64_t sent = 0;
  for (const PhaseFigures::Slice& slice : figures.slices) sent += slice.counts.sent;
  EXPECT_EQ(sent, 37);
  EXPECT_EQ(figures.slices[0].counts.sent, 3);
  EXPECT_EQ(figures.slices[9].counts.sent, 10);
}

TEST(BenchFiguresTest, NothingGrowsWithoutEnd) {
  PhaseFigures figures = PhaseFigures::Over(1e5, kBegin);
  for (int i = 0; i < 200; ++i) {
    std::string reason = "[RAA] x";
    reason[2] = static_cast<char>('A' + i / 26);
    reason[3] = static_cast<char>('A' + i % 26);
    figures.Add(Ended(absl::InternalError(reason), 1, 500.0 * i), Outcome::kFailed, {});
  }
  EXPECT_EQ(figures.errors.size(), PhaseFigures::kMaxErrors + 1);
  EXPECT_EQ(figures.errors.at("OTHER").requests, 200 - static_cast<int64_t>(PhaseFigures::kMaxErrors));
  EXPECT_LE(figures.slices.size(), PhaseFigures::kMaxSlices);
  EXPECT_EQ(figures.slice_seconds, 334);
}

BenchReport SomeReport() {
  PhaseFigures more = SomePhase();
  more.rate = 8;
  more.seconds = 5;
  more.skipped = 3;
  return {.server = "host<1>:7700",
          .options = {{"deadline", 2.5}},
          .phases = {SomePhase(), std::move(more)},
          .planned = 2,
          .objectives = {.total = 2.95}};
}

TEST(BenchReportTest, Json) {
  const nlohmann::ordered_json json = BenchJson(SomeReport());
  EXPECT_EQ(json["complete"], true);
  EXPECT_EQ(json["peak"]["phase"], "rate 8/s");
  EXPECT_EQ(json["peak"]["goodput"], 4.0);
  const auto& phase = json["phases"][0];
  EXPECT_EQ(phase["rate"], 4.0);
  EXPECT_TRUE(phase["concurrency"].is_null());
  EXPECT_EQ(phase["sent"], 37);
  EXPECT_EQ(phase["refused"], 5);
  EXPECT_EQ(phase["by_priority"]["high"]["ok"], 10);
  EXPECT_EQ(phase["errors"]["QUEUE_FULL"]["told_when_to_retry"], 4);
  EXPECT_NEAR(phase["total"]["max"].get<double>(), 3.9, 1e-9);
  EXPECT_EQ(phase["slices"].size(), 10u);
  EXPECT_EQ(phase["slices"][9]["second"], 9.0);
  // What is not known is null, which JSON has, not NaN, which it has not.
  EXPECT_THAT(json.dump(), HasSubstr("\"late\":{\"count\":0,\"mean\":null"));
}

TEST(BenchReportTest, TextAndPageTellTheSame) {
  BenchReport report = SomeReport();
  const std::string text = RenderBenchText(report);
  EXPECT_THAT(text, HasSubstr("best goodput 4.00 a second, rate 8/s"));
  EXPECT_THAT(text, HasSubstr("QUEUE_FULL"));
  EXPECT_THAT(text, HasSubstr("3 requests were not sent"));
  EXPECT_THAT(text, Not(HasSubstr("interrupted")));
  EXPECT_THAT(text, Not(HasSubstr("nan")));
  const std::string page = RenderBenchPage(report);
  EXPECT_THAT(page, HasSubstr("host&lt;1&gt;:7700"));
  EXPECT_THAT(page, HasSubstr("<svg"));
  EXPECT_THAT(page, HasSubstr("QUEUE_FULL"));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
  report.planned = 3;
  EXPECT_THAT(RenderBenchText(report), HasSubstr("interrupted"));
  EXPECT_THAT(RenderBenchPage(report), HasSubstr("interrupted"));
}

TEST(BenchReportTest, APhaseInWhichNothingHappened) {
  BenchReport report{.server = "s", .phases = {PhaseFigures::Over(1, kBegin)}, .planned = 1};
  EXPECT_THAT(RenderBenchText(report), Not(HasSubstr("nan")));
  EXPECT_THAT(RenderBenchPage(report), Not(HasSubstr("nan")));
}

TEST(BenchReportTest, AGeneratorThatIsLateSaysSo) {
  BenchReport report = SomeReport();
  EXPECT_THAT(BenchNotes(report), Not(HasSubstr("late at")));
  StreamResult result = Ended(absl::OkStatus());
  result.sent = 0.5;
  report.phases[1].Add(result, Outcome::kOk, {});
  EXPECT_THAT(BenchNotes(report), HasSubstr("late at rate 8/s"));
}

}  // namespace
}  // namespace clamor::cli
