// The page of a load: headline, key figures, plots, tables.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/train/html_text.h"
#include "model/train/line_chart.h"
#include "model/train/report_parts.h"
#include "services/cli/bench_tables.h"
#include "services/cli/eval_bars.h"

namespace clamor::cli {
namespace {

constexpr size_t kMostFields = 50;  // rows

std::string RenderHeader(const BenchReport& report) {
  return absl::StrCat(
      "<header>\n<p class=\"kicker\"><b>Clamor</b> load", report.complete() ? "" : " · interrupted",
      "</p>\n<h1>", FormatNumber(report.best().goodput(), 3),
      " good answers a second</h1>\n<p class=\"deck\">", Bold(report.server), ", at its best with ",
      EscapeHtml(PhaseName(report.best())), ". ", EscapeHtml(BenchNotes(report)), "</p>\n</header>\n");
}

std::string RenderTiles(const BenchReport& report) {
  const PhaseFigures& best = report.best();
  std::string html;
  const auto tile = [&](const char* what, double value, const std::string& more) {
    absl::StrAppend(&html, "<div><dt>", what, "</dt><dd>", Bold(FormatNumber(value, 3)), EscapeHtml(more),
                    "</dd></div>\n");
  };
  tile("Tokens a second", best.tokens_per_second(), "");
  tile("First token", 1e3 * best.first_token.Quantile(0.5),
       absl::StrCat("ms; p99 ", FormatNumber(1e3 * best.first_token.Quantile(0.99), 3), " ms"));
  tile("Between tokens", 1e3 * best.inter_token.Quantile(0.5),
       absl::StrCat("ms; p99 ", FormatNumber(1e3 * best.inter_token.Quantile(0.99), 3), " ms"));
  tile("Whole answer", 1e3 * best.total.Quantile(0.5),
       absl::StrCat("ms; p99 ", FormatNumber(1e3 * best.total.Quantile(0.99), 3), " ms"));
  return absl::StrCat("<dl class=\"figures\">\n", html, "</dl>\n");
}

// Figures of each phase over its load, where there are several of one kind.
struct SweepCurve {
  const char* name;
  double (*value)(const PhaseFigures&);
};
std::string SweepChart(const BenchReport& report, LineChart chart, const std::vector<SweepCurve>& curves) {
  std::vector<const PhaseFigures*> phases;
  const auto load = [](const PhaseFigures& p) { return p.rate > 0 ? p.rate : p.concurrency; };
  for (const PhaseFigures& phase : report.phases) phases.push_back(&phase);
  std::stable_sort(phases.begin(), phases.end(),
                   [&](const PhaseFigures* a, const PhaseFigures* b) { return load(*a) < load(*b); });
  if (phases.size() < 2) return "";
  chart.x_name = phases.front()->rate > 0 ? "requests a second" : "at a time";
  for (const SweepCurve& wanted : curves) {
    Curve curve{
        .name = wanted.name, .color = static_cast<int>(chart.curves.size()), .stroke = Stroke::kMarked};
    for (const PhaseFigures* phase : phases) curve.points.push_back({load(*phase), wanted.value(*phase)});
    chart.curves.push_back(std::move(curve));
  }
  return RenderLineChart(chart);
}

// What became of the requests of each moment of a phase.
std::string TimeChart(const PhaseFigures& phase) {
  LineChart chart{.title = absl::StrCat("Over time, ", PhaseName(phase)),
                  .unit = "requests a second, by when they were due",
                  .reaches = 0.0,
                  .x_name = "second",
                  .wide = true};
  Curve sent{.name = "sent", .color = 0}, good{.name = "good", .color = 1},
      refused{.name = "refused", .color = 2};
  for (size_t i = 0; i < phase.slices.size(); ++i) {
    const Counts& counts = phase.slices[i].counts;
    const double x = static_cast<double>(i) * phase.slice_seconds;
    sent.points.push_back({x, static_cast<double>(counts.sent) / phase.slice_seconds});
    good.points.push_back({x, static_cast<double>(counts.good) / phase.slice_seconds});
    refused.points.push_back({x, static_cast<double>(counts.of(Outcome::kRefused)) / phase.slice_seconds});
  }
  chart.curves = {std::move(sent), std::move(good), std::move(refused)};
  return phase.slices.size() < 2 ? "" : RenderLineChart(chart);
}

// How many answers have their first token, and their end, within how long.
std::string ShareChart(const PhaseFigures& phase) {
  LineChart chart{.title = absl::StrCat("Answers by time, ", PhaseName(phase)),
                  .unit = "milliseconds that so many percent do not exceed",
                  .reaches = 0.0,
                  .digits = 3,
                  .x_name = "percent"};
  const auto add = [&](const char* name, const TimeHistogram& times) {
    if (times.count() == 0) return;
    Curve curve{.name = name, .color = static_cast<int>(chart.curves.size())};
    for (int percent = 1; percent < 100; ++percent) {
      curve.points.push_back({static_cast<double>(percent), 1e3 * times.Quantile(percent / 100.0)});
    }
    chart.curves.push_back(std::move(curve));
  };
  add("first token", phase.first_token);
  add("whole answer", phase.total);
  add("refusal", phase.refusal);
  return RenderLineChart(chart);
}

std::string OutcomeBars(const BenchReport& report) {
  BarChart chart{.title = "What became of the requests", .unit = "requests", .legend = true};
  for (const PhaseFigures& phase : report.phases) {
    Bar bar{PhaseName(phase), {}, FormatCount(phase.all.sent)};
    bar.parts.push_back({"good", 1, static_cast<double>(phase.all.good)});
    bar.parts.push_back(
        {"ok, not good", 0, static_cast<double>(phase.all.of(Outcome::kOk) - phase.all.good)});
    for (const Outcome outcome : {Outcome::kRefused, Outcome::kFailed, Outcome::kAborted, Outcome::kCut}) {
      const int color = static_cast<int>(outcome) + 1;
      bar.parts.push_back(
          {kOutcomeNames[static_cast<size_t>(outcome)], color, static_cast<double>(phase.all.of(outcome))});
    }
    chart.bars.push_back(std::move(bar));
  }
  return RenderBars(chart);
}

std::string RenderCharts(const BenchReport& report) {
  std::string html = absl::StrCat(
      SweepChart(report, {.title = "Goodput", .unit = "good answers a second", .reaches = 0.0},
                 {{"goodput", [](const PhaseFigures& p) { return p.goodput(); }},
                  {"refused",
                   [](const PhaseFigures& p) {
                     return p.seconds > 0 ? static_cast<double>(p.all.of(Outcome::kRefused)) / p.seconds : 0;
                   }}}),
      SweepChart(report, {.title = "First token", .unit = "milliseconds", .reaches = 0.0, .digits = 3},
                 {{"p50", [](const PhaseFigures& p) { return 1e3 * p.first_token.Quantile(0.5); }},
                  {"p99", [](const PhaseFigures& p) { return 1e3 * p.first_token.Quantile(0.99); }}}),
      SweepChart(report, {.title = "Between tokens", .unit = "milliseconds", .reaches = 0.0, .digits = 3},
                 {{"p50", [](const PhaseFigures& p) { return 1e3 * p.inter_token.Quantile(0.5); }},
                  {"p99", [](const PhaseFigures& p) { return 1e3 * p.inter_token.Quantile(0.99); }}}),
      OutcomeBars(report), ShareChart(report.best()));
  for (const PhaseFigures& phase : report.phases) html += TimeChart(phase);
  return absl::StrCat("<div class=\"charts\">\n", html, "</div>\n");
}

}  // namespace

std::string RenderBenchPage(const BenchReport& report) {
  std::string tables;
  for (const ReportTable& table : TablesOf(report)) tables += RenderTableHtml(table);
  return RenderPage(absl::StrCat("Load on ", report.server),
                    absl::StrCat(RenderHeader(report), RenderTiles(report),
                                 Section("How it went", RenderCharts(report)), Section("Figures", tables),
                                 Section("How it was run", RenderFields("Options", report.options,
                                                                        /*grouped=*/false, kMostFields)),
                                 "<footer>Made by clamor bench.</footer>\n"));
}

}  // namespace clamor::cli
