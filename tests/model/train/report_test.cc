#include "model/train/report.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/train/html_text.h"
#include "model/train/line_chart.h"
#include "model/train/report_charts.h"
#include "model/train/report_figures.h"

namespace clamor {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Lt;
using testing::Not;
using testing::SizeIs;

// A run of `steps` steps whose loss and norm are noisy, with `evaluations` evaluations.
TrainingLog SomeLog(int64_t steps, int64_t evaluations) {
  TrainingLog log;
  log.start = LoggedStart{.time = "2026-01-02T03:04:05",
                          .options = {{"noise", "ahead"}, {"noise-length", 5}, {"lr", 3e-4}},
                          .model = {{"name", "small"}, {"family", "qwen2"}, {"parameters", 5505024}},
                          .data = {{"files", {"a.jsonl", "b.jsonl"}}, {"samples", 7273}},
                          .machine = {{"threads", 2}, {"memory_bytes", 25769803776}}};
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 0.1);
  for (int64_t step = 1; step <= steps; ++step) {
    const double t = static_cast<double>(step) / static_cast<double>(steps);
    log.steps.push_back({.step = step,
                         .epoch = 3 * t,
                         .loss = 2.3 + 5 * std::exp(-8 * t) + noise(random),
                         .gradient_norm = 1 + std::abs(noise(random)),
                         .learning_rate = 3e-4 * std::min(10 * t, 0.5 + 0.5 * std::cos(3.14159 * t)),
                         .tokens = 4096 * step,
                         .tokens_per_second = 4000,
                         .seconds = static_cast<double>(step)});
  }
  for (int64_t i = 0; i < evaluations; ++i) {
    const double t = static_cast<double>(i) / static_cast<double>(std::max<int64_t>(evaluations - 1, 1));
    log.evaluations.push_back({.step = steps * i / std::max<int64_t>(evaluations - 1, 1),
                               .heldout_loss = 2.9 - 0.5 * t,
                               .speeds = {{"8", 2 + 0.1 * t}, {"published", 2.25 + 0.14 * t}},
                               .samples = {{"Q?", "answer " + std::to_string(i)}}});
  }
  log.end = LoggedEnd{steps, "done", 4096 * steps, static_cast<double>(steps), 900 << 20};
  return log;
}

std::vector<double> Numbers(const std::string& text) {
  std::vector<double> numbers;
  for (const char* at = text.c_str(); *at != '\0';) {
    char* end = nullptr;
    const double number = std::strtod(at, &end);
    if (end != at) numbers.push_back(number);
    at = end != at ? end : at + 1;
  }
  return numbers;
}

// What stands between `before` and the next quote after `from`.
std::string Attribute(const std::string& html, const std::string& before, size_t from = 0) {
  const size_t at = html.find(before, from);
  if (at == std::string::npos) return "";
  const size_t begin = at + before.size();
  return html.substr(begin, html.find('"', begin) - begin);
}

// The points of the first path of class `kind`, read back from the page and scaled by hand.
std::vector<Point> PointsOf(const std::string& html, const std::string& kind) {
  const std::vector<double> x_ends = Numbers(Attribute(html, "data-x=\"")),
                            y_ends = Numbers(Attribute(html, "data-y=\""));
  const std::vector<double> d = Numbers(Attribute(html, " d=\"", html.find("<path class=\"" + kind)));
  std::vector<Point> points;
  for (size_t i = 0; i + 1 < d.size(); i += 2) {
    points.push_back({x_ends[0] + d[i] / 1000 * (x_ends[1] - x_ends[0]),
                      y_ends[1] - d[i + 1] / 1000 * (y_ends[1] - y_ends[0])});
  }
  return points;
}

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

TEST(HtmlTextTest, EscapesEverythingThatIsMarkup) {
  EXPECT_EQ(EscapeHtml("a<b>&\"'c"), "a&lt;b&gt;&amp;&quot;&#39;c");
  EXPECT_EQ(EscapeHtml("tab\tline\n€"), "tab\tline\n€");
  EXPECT_EQ(EscapeHtml(std::string("\0\x1b\r\x7f", 4)), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(EscapeHtml("\xff<\xe2\x82"), "\uFFFD&lt;\uFFFD");
  for (int c = 0; c < 256; ++c) {
    const std::string escaped = EscapeHtml(std::string(1, static_cast<char>(c)));
    EXPECT_EQ(escaped.find_first_of("<>\"'"), std::string::npos) << c;
  }
}

TEST(HtmlTextTest, Numbers) {
  EXPECT_EQ(FormatNumber(2.3378, 4), "2.338");
  EXPECT_EQ(FormatNumber(0.0412, 2), "0.041");
  EXPECT_EQ(FormatNumber(12.345, 3), "12.3");
  EXPECT_EQ(FormatNumber(1830.2, 3), "1,830");
  EXPECT_EQ(FormatNumber(3e-4, 2), "3e-4");
  EXPECT_EQ(FormatNumber(-1.25e-5, 3), "-1.25e-5");
  EXPECT_EQ(FormatNumber(1e300, 3), "1e300");
  EXPECT_EQ(FormatNumber(0, 3), "0.00");
  EXPECT_EQ(FormatNumber(NAN, 3), "–");
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(-1234567), "-1,234,567");
  EXPECT_EQ(FormatShortCount(7273), "7,273");
  EXPECT_EQ(FormatShortCount(5505024), "5.5 million");
  EXPECT_EQ(FormatShortCount(1500000000), "1.5 billion");
  EXPECT_EQ(FormatDuration(2.25), "2.2 s");
  EXPECT_EQ(FormatDuration(59.7), "1 min 0 s");
  EXPECT_EQ(FormatDuration(1100), "18 min 20 s");
  EXPECT_EQ(FormatDuration(7260), "2 h 1 min");
  EXPECT_EQ(FormatDuration(NAN), "–");
  EXPECT_EQ(FormatBytes(512), "512 bytes");
  EXPECT_EQ(FormatBytes(int64_t{1536} << 20), "1.5 GiB");
  EXPECT_EQ(FormatTick(0.3, 0.1, 0.5), "0.3");
  EXPECT_EQ(FormatTick(2, 0.5, 3), "2.0");
  EXPECT_EQ(FormatTick(20000, 5000, 20000), "20,000");
  EXPECT_EQ(FormatTick(1.5e-4, 5e-5, 3e-4), "1.5e-4");
  EXPECT_EQ(FormatTick(0, 5e-5, 3e-4), "0");
}

TEST(NiceAxisTest, TicksAreRoundAndCoverTheRange) {
  const Axis axis = NiceAxis(2.13, 3.9, 4, /*rounded=*/true);
  EXPECT_THAT(axis.ticks, ElementsAre(2, 2.5, 3, 3.5, 4));
  EXPECT_EQ(axis.low, 2);
  EXPECT_EQ(axis.high, 4);
  EXPECT_THAT(NiceAxis(1, 1200, 5, /*rounded=*/false).ticks, ElementsAre(200, 400, 600, 800, 1000, 1200));
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-12, 12), mantissa(-1, 1);
  for (int round = 0; round < 20000; ++round) {
    double low = mantissa(random) * std::pow(10, exponent(random)),
           high = mantissa(random) * std::pow(10, exponent(random));
    if (low > high) std::swap(low, high);
    for (const bool rounded : {false, true}) {
      const Axis a = NiceAxis(low, high, 4, rounded);
      ASSERT_LE(a.low, low);
      ASSERT_GE(a.high, high);
      ASSERT_LT(a.low, a.high);
      ASSERT_GE(a.ticks.size(), rounded ? 3u : 1u);
      ASSERT_LE(a.ticks.size(), 9u);
      for (const double tick : a.ticks) {
        ASSERT_GE(tick, a.low - 1e-5 * a.step);
        ASSERT_LE(tick, a.high + 1e-5 * a.step);
      }
    }
  }
}

TEST(NiceAxisTest, OneValueIsInTheMiddle) {
  for (const double value : {0.0, 7.0, -3e-9, 1e12, 5e-324}) {
    const Axis axis = NiceAxis(value, value, 4, /*rounded=*/false);
    EXPECT_LT(axis.low, value);
    EXPECT_GT(axis.high, value);
    EXPECT_LE(axis.ticks.size(), 9u);
  }
}

TEST(CurveTest, SmoothedIsTheMeanOfNeighbours) {
  std::mt19937 random(2);
  for (const size_t size : {0u, 1u, 2u, 7u, 50u}) {
    for (const size_t reach : {0u, 1u, 3u, 60u}) {
      std::vector<Point> points;
      for (size_t i = 0; i < size; ++i) {
        points.push_back(
            {static_cast<double>(i), random() % 5 == 0 ? NAN : static_cast<double>(random() % 100)});
      }
      const std::vector<Point> smooth = Smoothed(points, reach);
      ASSERT_EQ(smooth.size(), size);
      for (size_t i = 0; i < size; ++i) {
        double sum = 0, count = 0;
        for (size_t j = 0; j < size; ++j) {
          if (j + reach < i || j > i + reach || std::isnan(points[j].y)) continue;
          sum += points[j].y;
          ++count;
        }
        if (std::isnan(points[i].y)) {
          EXPECT_TRUE(std::isnan(smooth[i].y)) << "a gap stays one";
        } else {
          EXPECT_NEAR(smooth[i].y, sum / count, 1e-9);
        }
      }
    }
  }
}

TEST(CurveTest, ThinnedKeepsTheMeanOfEachBucket) {
  std::vector<Point> points;
  for (int i = 0; i < 10; ++i) points.push_back({1.0 * i, 10.0 * i});
  EXPECT_EQ(Thinned(points, 10).size(), 10u) << "few enough: as they are";
  const std::vector<Point> thin = Thinned(points, 3);  // 0-2, 3-5, 6-9
  ASSERT_THAT(thin, SizeIs(3));
  EXPECT_EQ(thin[0].y, 10);
  EXPECT_EQ(thin[1].y, 40);
  EXPECT_EQ(thin[2].x, 7.5);
  EXPECT_EQ(thin[2].y, 75);
  points[3].y = points[4].y = points[5].y = NAN;
  points[0].y = INFINITY;
  EXPECT_EQ(Thinned(points, 3)[0].y, 15) << "what cannot be drawn does not count";
  EXPECT_TRUE(std::isnan(Thinned(points, 3)[1].y)) << "nothing to draw: a gap";
}

TEST(LineChartTest, CoordinatesAreTheData) {
  std::mt19937 random(3);
  for (const double scale : {1e-4, 1.0, 3e5}) {
    std::vector<Point> points;
    double x = 5;
    for (int i = 0; i < 200; ++i) {
      x += 1 + random() % 7;
      points.push_back({x, scale * (2 + std::sin(0.1 * i))});
    }
    const std::string html = RenderLineChart({.title = "t", .curves = {{"", 0, Stroke::kLine, points}}});
    const std::vector<Point> read = PointsOf(html, "line");
    ASSERT_EQ(read.size(), points.size());
    for (size_t i = 0; i < points.size(); ++i) {
      EXPECT_NEAR(read[i].x, points[i].x, (points.back().x - points[0].x) / 1000 * 0.051);
      EXPECT_NEAR(read[i].y, points[i].y, 3 * scale / 1000 * 0.051);
    }
  }
}

TEST(LineChartTest, TicksStandAtTheirValues) {
  const std::string html = RenderLineChart({.curves = {{"", 0, Stroke::kLine, {{0, 2}, {100, 4}}}}});
  EXPECT_THAT(html, HasSubstr("style=\"top:0.00%\">4.0<"));
  EXPECT_THAT(html, HasSubstr("style=\"top:50.00%\">3.0<"));
  EXPECT_THAT(html, HasSubstr("style=\"top:100.00%\">2.0<"));
  EXPECT_THAT(html, HasSubstr("style=\"left:20.00%\">20<"));
}

TEST(LineChartTest, NothingToDrawIsNoChart) {
  EXPECT_EQ(RenderLineChart({}), "");
  EXPECT_EQ(RenderLineChart({.curves = {{"", 0, Stroke::kLine, {}}}}), "");
  EXPECT_EQ(RenderLineChart({.curves = {{"", 0, Stroke::kMarked, {{1, NAN}, {2, INFINITY}, {3, 1e300}}}}}),
            "");
}

TEST(LineChartTest, OnePointIsADotInTheMiddle) {
  const std::string html = RenderLineChart({.curves = {{"", 0, Stroke::kLine, {{7, 3}}}}});
  const std::vector<double> d = Numbers(Attribute(html, " d=\"", html.find("<path class=\"line")));
  ASSERT_THAT(d, SizeIs(4));
  EXPECT_NEAR(d[0], 500, 0.1);
  EXPECT_THAT(d, ElementsAre(d[0], d[1], d[0], d[1]));
}

TEST(LineChartTest, GapsBreakTheLine) {
  const std::string html = RenderLineChart(
      {.curves = {{"", 0, Stroke::kLine, {{0, 0}, {1, 1}, {2, NAN}, {3, 1}, {4, NAN}, {5, 0}, {6, 1}}}}});
  const std::string d = Attribute(html, " d=\"", html.find("<path class=\"line"));
  EXPECT_EQ(CountOf(d, "M"), 3u) << d;
  EXPECT_EQ(CountOf(d, "L"), 3u) << "a lone point is a dot: " << d;
}

TEST(LineChartTest, SpikesOfAFaintCurveDoNotFlattenTheRest) {
  std::vector<Point> points;
  for (int i = 0; i < 1000; ++i) points.push_back({1.0 * i, i == 500 ? 1e6 : 2.0 + i % 3});
  const std::string html = RenderLineChart({.curves = {{"", 0, Stroke::kFaint, points}}});
  EXPECT_EQ(Numbers(Attribute(html, "data-y=\"")), (std::vector<double>{2, 4}));
}

TEST(LineChartTest, EndLabelsDoNotCover) {
  LineChart chart;
  for (int i = 0; i < 8; ++i) chart.curves.push_back({"run", i, Stroke::kLine, {{0, 1}, {1, 2 + 0.001 * i}}});
  const std::string html = RenderLineChart(chart);
  std::vector<double> tops;
  for (size_t at = html.find("class=\"end"); at != std::string::npos; at = html.find("class=\"end", at + 1)) {
    tops.push_back(Numbers(Attribute(html, "top:", at))[0]);
  }
  ASSERT_THAT(tops, SizeIs(8));
  for (size_t i = 1; i < tops.size(); ++i) EXPECT_GE(tops[i] - tops[i - 1], 100 * 17.0 / 240 - 0.02);
  EXPECT_LE(tops.back(), 100);
}

TEST(FiguresTest, KnownRun) {
  TrainingLog log;
  for (int64_t step = 1; step <= 10; ++step) {
    log.steps.push_back(
        {.step = step, .loss = 11.0 - static_cast<double>(step), .tokens_per_second = 100.0 * step});
  }
  log.steps[4].loss = NAN;
  log.evaluations = {{.step = 0, .heldout_loss = 3, .speeds = {{"8", 1.5}}},
                     {.step = 5, .heldout_loss = 2, .speeds = {{"8", 1.75}}},
                     {.step = 10, .heldout_loss = 2.5}};
  const Figures figures = FiguresOf(log);
  EXPECT_EQ(figures.training_loss.first, 10);
  EXPECT_EQ(figures.training_loss.last, 1);
  EXPECT_EQ(figures.heldout_loss.first, 3);
  EXPECT_EQ(figures.heldout_loss.last, 2.5);
  EXPECT_EQ(figures.heldout_loss.lowest, 2);
  EXPECT_EQ(figures.heldout_loss.lowest_step, 5);
  ASSERT_THAT(figures.speeds, SizeIs(1));
  EXPECT_EQ(figures.speeds[0].course.last, 1.75);
  EXPECT_EQ(figures.tokens_per_second, 600);
  EXPECT_EQ(figures.bad_losses, 1);
  EXPECT_EQ(figures.first_bad_step, 5);
}

TEST(ReportTest, SaysWhatHappened) {
  const std::string html = RenderReport(SomeLog(1200, 7));
  EXPECT_THAT(html, HasSubstr("<h1>Held-out loss fell from 2.90 to 2.40 in 1,200 steps</h1>"));
  EXPECT_THAT(html,
              HasSubstr("Fine-tuned: <b>small</b> (qwen2, 5.5 million parameters) on <b>a.jsonl, b.jsonl</b> "
                        "(7,273 samples)"));
  EXPECT_THAT(html, HasSubstr("<b>ahead noise</b>, segments of 5"));
  EXPECT_THAT(html, HasSubstr("<b>20 min 0 s</b>"));
  EXPECT_THAT(html, HasSubstr("<code>memory_bytes</code></th><td>24.0 GiB</td>"));
  EXPECT_THAT(html, HasSubstr("<code>lr</code></th><td>0.0003</td>"));
  EXPECT_EQ(CountOf(html, "<figure"), 5u);
  for (const char* step : {"Step 0", "Step 600", "Step 1,200"}) EXPECT_EQ(CountOf(html, step), 1u) << step;
  EXPECT_THAT(html, AllOf(HasSubstr("answer 0<"), HasSubstr("answer 3<"), HasSubstr("answer 6<"),
                          Not(HasSubstr("answer 1<"))));
}

TEST(ReportTest, StandsAlone) {
  const std::string html = RenderReport(SomeLog(100, 3));
  for (const char* outside : {"http:", "https:", "//cdn", " src=", "<link", "@import", "url("}) {
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  }
  EXPECT_THAT(html, AllOf(HasSubstr("prefers-color-scheme: dark"), HasSubstr("name=\"viewport\"")));
}

// Every `<name` of the page is one of ours, and opens as often as it closes.
void ExpectOnlyOurMarkup(const std::string& html) {
  std::map<std::string, int> open;
  static const std::vector<std::string> kOurs = {
      "html",       "head", "title",   "style",   "body",   "main",   "header", "p",  "b",
      "h1",         "h2",   "h3",      "h4",      "dl",     "div",    "dt",     "dd", "figure",
      "figcaption", "svg",  "span",    "i",       "table",  "thead",  "tbody",  "tr", "th",
      "td",         "code", "section", "article", "footer", "script", "ul",     "li"};
  static const std::vector<std::string> kVoid = {"!DOCTYPE", "meta", "path"};
  const std::string page = html.substr(0, html.find("<script>"));
  for (size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1)) {
    const bool closes = page[at + 1] == '/';
    const size_t begin = at + (closes ? 2 : 1);
    const std::string name = page.substr(begin, page.find_first_of(" >\n", begin) - begin);
    if (std::find(kVoid.begin(), kVoid.end(), name) != kVoid.end()) continue;
    EXPECT_THAT(kOurs, testing::Contains(name));
    open[name] += closes ? -1 : 1;
  }
  for (const auto& [name, count] : open) EXPECT_EQ(count, name == "html" || name == "body" ? 1 : 0) << name;
  EXPECT_EQ(CountOf(html, "<script"), 1u);
  EXPECT_EQ(CountOf(html, "</script"), 1u);
}

TEST(ReportTest, ModelOutputStaysText) {
  const std::string attack = "</script><img src=x onerror=alert(1)>\"'><svg onload=x>\xff\xc3&#x3c;";
  TrainingLog log = SomeLog(50, 3);
  log.start->time = attack;
  for (nlohmann::json* object :
       {&log.start->options, &log.start->model, &log.start->data, &log.start->machine}) {
    *object = {{attack, attack},
               {"name", attack},
               {"family", attack},
               {"files", {attack, attack}},
               {"noise", attack}};
  }
  for (LoggedEvaluation& evaluation : log.evaluations) {
    evaluation.samples = {{attack, attack}};
    evaluation.speeds = {{attack, 2.0}};
  }
  log.end->reason = attack;
  for (const std::string& html :
       {RenderReport(log), RenderComparison({{attack, log}, {"b", SomeLog(50, 2)}})}) {
    ExpectOnlyOurMarkup(html);
    EXPECT_THAT(html, Not(HasSubstr("<img")));
    EXPECT_THAT(html, HasSubstr("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&gt;"));
    EXPECT_THAT(html, HasSubstr("\uFFFD\uFFFD&amp;#x3c;"));
    EXPECT_THAT(html, Not(HasSubstr("\xff")));
  }
}

TEST(ReportTest, EmptyAndBrokenRunsHaveAPage) {
  const std::string nothing = RenderReport({});
  ExpectOnlyOurMarkup(nothing);
  EXPECT_THAT(nothing, HasSubstr("No step has been logged yet"));
  EXPECT_EQ(CountOf(nothing, "<figure"), 0u);
  ExpectOnlyOurMarkup(RenderReport(SomeLog(1, 1)));

  TrainingLog log = SomeLog(30, 0);
  log.end.reset();
  for (LoggedStep& step : log.steps) step.gradient_norm = 1e308;
  log.steps[11].loss = NAN;
  log.steps[12].loss = INFINITY;
  const std::string html = RenderReport(log);
  EXPECT_THAT(html, HasSubstr("not a finite number in 2 logged steps, first at step 12"));
  EXPECT_THAT(html, HasSubstr("not finished, log ends at step 30"));
  EXPECT_THAT(html, Not(testing::ContainsRegex("[ \">]-?(nan|inf)[ \"<%]")));
  EXPECT_EQ(CountOf(html, "<figure"), 2u) << "loss and rate";
}

TEST(ReportTest, ALongRunMakesASmallFile) {
  const std::string html = RenderReport(SomeLog(200000, 3000));
  EXPECT_THAT(html.size(), Lt(300000u));
  EXPECT_THAT(PointsOf(html, "line"), SizeIs(1000));
}

TEST(ReportTest, TheWorstLogMakesASmallFile) {
  TrainingLog log = SomeLog(3000, 1501);
  const std::string quotes(5000, '"');
  for (nlohmann::json* object :
       {&log.start->options, &log.start->model, &log.start->data, &log.start->machine}) {
    *object = nlohmann::json::object();
    for (int i = 0; i < 500; ++i) (*object)[std::to_string(i) + quotes] = quotes;
  }
  for (LoggedEvaluation& evaluation : log.evaluations) {
    if (evaluation.step % 500 == 0) evaluation.samples.assign(kMaxTextSamples, {quotes, quotes});
    evaluation.speeds.clear();
    for (int i = 0; i < 16; ++i) {
      evaluation.speeds.push_back({std::to_string(i) + quotes.substr(0, 30), 1.0 + i % 7 * 0.123});
    }
  }
  EXPECT_THAT(RenderReport(log).size(), Lt(1000000u));
  EXPECT_THAT(RenderComparison(std::vector<NamedLog>(20, {quotes, log})).size(), Lt(1000000u));
}

TEST(ComparisonTest, PutsRunsSideBySide) {
  TrainingLog sft = SomeLog(1000, 5), msn = SomeLog(800, 5);
  sft.start->options["noise"] = "none";
  for (LoggedEvaluation& evaluation : sft.evaluations) {
    evaluation.heldout_loss -= 0.1;
    for (LoggedSpeed& speed : evaluation.speeds) speed.tokens_per_forward -= 0.3;
  }
  const std::string html = RenderComparison({{"sft", sft}, {"msn", msn}});
  ExpectOnlyOurMarkup(html);
  EXPECT_THAT(html, HasSubstr("<h1>sft against msn</h1>"));
  EXPECT_THAT(html, HasSubstr("Lowest held-out loss: <b>sft</b>. "));
  EXPECT_THAT(html, HasSubstr("Most tokens per forward: <b>msn</b>."));
  EXPECT_EQ(CountOf(html, "<td class=\"best\">"), 4u);
  EXPECT_THAT(html, HasSubstr("<code>noise</code></th><td>none</td><td>ahead</td>"));
  EXPECT_THAT(html, Not(HasSubstr("<code>lr</code>"))) << "alike";
  EXPECT_EQ(CountOf(html, "<figure"), 6u) << "a chart for each draft";
  EXPECT_THAT(html, AllOf(HasSubstr("sft, step 1,000"), HasSubstr("msn, step 800")));
  EXPECT_THAT(RenderComparison({}), HasSubstr("0 runs compared"));
  ExpectOnlyOurMarkup(RenderComparison({{"only", {}}}));
}

}  // namespace
}  // namespace clamor
