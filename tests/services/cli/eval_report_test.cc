// An evaluation's report: the same figures in text, JSON and page; names that hold markup; nothing at all.
#include "services/cli/eval_report.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/eval_bars.h"

namespace clamor::cli {
namespace {

using nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

ModeAnswer Answer(std::vector<int32_t> ids, int64_t forwards, double seconds) {
  ModeAnswer answer{.ids = std::move(ids), .finish_reason = "length", .first_tokens = 1};
  answer.stats.forwards = forwards;
  answer.stats.decode_seconds = seconds;
  answer.counts.forwards = forwards;
  answer.counts.steps = forwards;
  answer.counts.phase_seconds[StepReport::kForward] = seconds;
  return answer;
}

EvalReport Report(bool with_difference = false) {
  EvalReport report{
      .model = "<m>", .suite = "prompts", .data = "F&G", .modes = {"plain", "merged:auto"}, .plain = 0};
  report.options = {{"max_tokens", 5}};
  report.machine = {{"threads", 1}};
  report.planned = 3;
  report.too_long = {{"a&b", 4}, {"c", 1}};
  for (int i = 0; i < 2; ++i) {
    Answered answered{{.id = "<b>", .category = i == 0 ? "c<0>" : "c1", .line = i + 1, .prompt_ids = {7}},
                      {}};
    answered.answers = {Answer({1, 2, 3, 4, 5}, 5, 2), Answer({1, 2, 3, 4, 5}, 2, 1)};
    StepCounts& counts = answered.answers[1].counts;
    counts.emitted = {0, 1, 0, 0, 1};
    counts.reached = {0, 2, 2, 1};
    counts.matched = {0, 1, 1, 1};
    counts.accepted[static_cast<size_t>(Source::kContext)] = 3;
    counts.drafted[static_cast<size_t>(Source::kContext)] = 9;
    counts.calibration[5] = {10, 2, 2.5, 1.5};
    report.answered.push_back(std::move(answered));
  }
  if (with_difference) report.answered[1].answers[1].ids[3] = 9;
  report.figures = FiguresOf(report.answered, 2, 0);
  report.differences = DifferencesOf(report.answered, 0);
  return report;
}

TEST(EvalReport, JsonHoldsEverything) {
  const EvalReport report = Report();
  const ordered_json json = ordered_json::parse(EvalJson(report).dump());
  EXPECT_EQ(json["prompts"],
            (ordered_json{{"planned", 3}, {"answered", 2}, {"too_long", {{"a&b", 4}, {"c", 1}}}}));
  EXPECT_EQ(json["complete"], false);
  EXPECT_EQ(json["lossless"], true);
  EXPECT_EQ(VerdictOf(report), absl::CancelledError("interrupted after prompt 2 of 3"));
  const ordered_json& merged = json["overall"]["merged:auto"];
  EXPECT_EQ(merged["tokens"], 10);
  EXPECT_EQ(merged["tokens_per_forward"], 2.5);
  EXPECT_EQ(merged["ratio_median"], 2);
  EXPECT_EQ(merged["ratio_total"], 2);
  EXPECT_EQ(merged["emitted_per_forward"], (ordered_json{0, 2, 0, 0, 2}));
  EXPECT_EQ(merged["accepted_by_source"]["context"], 6);
  EXPECT_EQ(merged["calibration"][5]["observed"], 0.2);
  EXPECT_EQ(merged["calibration"][5]["predicted"], 0.25);
  EXPECT_TRUE(merged["calibration"][0]["observed"].is_null());
  EXPECT_EQ(merged["brier"], 0.15);
  EXPECT_EQ(json["categories"].size(), 2u);
  EXPECT_EQ(json["answers"][1]["token_ids"], (ordered_json{1, 2, 3, 4, 5}));
  EXPECT_EQ(json["answers"][1]["modes"]["merged:auto"]["identical"], true);
  EXPECT_TRUE(json["differences"].empty());
}

TEST(EvalReport, ALossIsSaidEverywhere) {
  const EvalReport report = Report(/*with_difference=*/true);
  const std::string said = "prompt <b> (F&G:2): merged:auto differs from plain at token 3: 9 instead of 4";
  EXPECT_EQ(DescribeDifference(report, report.differences[0]), said);
  EXPECT_EQ(VerdictOf(report), absl::InternalError(said));
  const ordered_json json = EvalJson(report);
  EXPECT_EQ(json["lossless"], false);
  EXPECT_EQ(json["differences"][0]["token_index"], 3);
  EXPECT_EQ(json["differences"][0]["other"], 9);
  EXPECT_EQ(json["answers"][1]["modes"]["merged:auto"]["identical"], false);
  EXPECT_THAT(RenderEvalPage(report), HasSubstr("differs from plain at token 3: 9 instead of 4</p>"));
  EXPECT_THAT(RenderEvalText(report), HasSubstr("1 of 2"));
}

TEST(EvalReport, TablesAreAligned) {
  const std::string text = RenderEvalText(Report());
  EXPECT_THAT(text, HasSubstr("2 of 3 prompts, left out as too long: 4 of a&b, 1 of c\n"));
  EXPECT_THAT(text, HasSubstr("\noverall   plain              2      10            1.00"));
  EXPECT_THAT(text, HasSubstr("Calibration, merged:auto: "));
  EXPECT_THAT(text, AllOf(HasSubstr("0.20 to 0.30     20"), Not(HasSubstr("Calibration, plain"))));
}

TEST(EvalReport, ThePageNeedsNothingElse) {
  const std::string page = RenderEvalPage(Report());
  EXPECT_THAT(page, AllOf(Not(HasSubstr("<b>, ")), Not(HasSubstr("<m>")), Not(HasSubstr("c<0>"))));
  EXPECT_THAT(page, AllOf(HasSubstr("&lt;m&gt;"), HasSubstr("c&lt;0&gt;"), HasSubstr("F&amp;G")));
  EXPECT_THAT(page, AllOf(Not(HasSubstr("http://")), Not(HasSubstr("https://")), Not(HasSubstr("src="))));
  EXPECT_THAT(page, AllOf(HasSubstr("<h3>Calibration</h3>"), HasSubstr("<h3>Accepted by depth</h3>"),
                          HasSubstr("data-x-name=\"depth\""),
                          HasSubstr("merged:auto: 2.00 times plain decoding, 2.50 tokens per forward")));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

TEST(EvalReport, NothingAnsweredIsShownToo) {
  EvalReport report = Report();
  report.answered.clear();
  report.figures = FiguresOf({}, 2, 0);
  EXPECT_THAT(RenderEvalText(report), HasSubstr("0 of 3 prompts"));
  EXPECT_THAT(RenderEvalText(report), Not(HasSubstr("nan")));
  EXPECT_THAT(RenderEvalPage(report), Not(HasSubstr("nan")));
  EXPECT_TRUE(EvalJson(report)["overall"]["plain"]["tokens_per_second"].dump() == "null");
}

TEST(EvalBars, LengthsAreShares) {
  EXPECT_EQ(RenderBars({.title = "t"}), "");
  const std::string html =
      RenderBars({.title = "t",
                  .bars = {{"a", {{"x", 0, 1}, {"y", -1, NAN}}, "1"}, {"b", {{"x", 0, 4}}, "4"}},
                  .legend = true});
  EXPECT_THAT(html, AllOf(HasSubstr("width:25.00%"), HasSubstr("width:100.00%"), Not(HasSubstr("nan"))));
}

}  // namespace
}  // namespace clamor::cli
