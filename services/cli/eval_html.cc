// The page of an evaluation: headline, key figures, plots, tables.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/train/html_text.h"
#include "model/train/line_chart.h"
#include "model/train/report_parts.h"
#include "services/cli/eval_bars.h"
#include "services/cli/eval_report.h"

namespace clamor::cli {
namespace {

constexpr size_t kMostPrompts = 200;      // rows
constexpr size_t kMostDifferences = 20;   // lines
constexpr size_t kMostFields = 50;        // rows
constexpr size_t kMostBarCategories = 8;  // of a bar chart

std::string Times(double ratio) { return std::isfinite(ratio) ? absl::StrFormat("%.2fx", ratio) : "–"; }

// The mode that gains most, if any drafts.
const ModeFigures* Best(const EvalReport& report, std::string& name) {
  const ModeFigures* best = nullptr;
  for (size_t i = 0; i < report.modes.size(); ++i) {
    const ModeFigures& figures = report.figures.overall.modes[i];
    if (i == report.plain || figures.prompts == 0) continue;
    const auto gain = [](const ModeFigures& f) {
      return std::isfinite(f.ratio_total) ? f.ratio_total : f.tokens_per_forward();
    };
    if (best != nullptr && !(gain(figures) > gain(*best))) continue;
    best = &figures;
    name = report.modes[i];
  }
  return best;
}

std::string Headline(const EvalReport& report) {
  std::string name;
  const ModeFigures* best = Best(report, name);
  if (best == nullptr) return EscapeHtml(absl::StrCat(report.model, " on ", report.suite));
  const std::string tokens = absl::StrCat(FormatNumber(best->tokens_per_forward(), 3), " tokens per forward");
  if (!std::isfinite(best->ratio_total)) return EscapeHtml(absl::StrCat(name, ": ", tokens));
  return EscapeHtml(
      absl::StrCat(name, ": ", FormatNumber(best->ratio_total, 3), " times plain decoding, ", tokens));
}

std::string RenderHeader(const EvalReport& report) {
  const std::string status = report.complete() ? "" : " · interrupted";
  std::string html = absl::StrCat(
      "<header>\n<p class=\"kicker\"><b>Clamor</b> evaluation · ", EscapeHtml(report.suite), status,
      "</p>\n<h1>", Headline(report), "</h1>\n<p class=\"deck\">", Bold(report.model), " on ",
      Bold(report.data), ", ", EscapeHtml(EvalScope(report)), ". ", EscapeHtml(EvalNotes(report)), "</p>\n");
  for (size_t i = 0; i < std::min(report.differences.size(), kMostDifferences); ++i) {
    absl::StrAppend(&html, "<p class=\"alert\">",
                    EscapeHtml(DescribeDifference(report, report.differences[i])), "</p>\n");
  }
  return absl::StrCat(html, "</header>\n");
}

std::string RenderTiles(const EvalReport& report) {
  std::string html;
  for (size_t i = 0; i < report.modes.size(); ++i) {
    const ModeFigures& figures = report.figures.overall.modes[i];
    const std::string identical =
        figures.compared > 0 && i != report.plain
            ? absl::StrCat("; ", figures.identical, " of ", figures.compared, " identical")
            : "";
    absl::StrAppend(
        &html, "<div><dt>", EscapeHtml(report.modes[i]), "</dt><dd>",
        Bold(FormatNumber(figures.tokens_per_second(), 3)),
        EscapeHtml(absl::StrCat("tokens/s, ", Times(figures.ratio_total), " plain; ",
                                FormatNumber(figures.tokens_per_forward(), 3), " tokens/forward", identical)),
        "</dd></div>\n");
  }
  return absl::StrCat("<dl class=\"figures\">\n", html, "</dl>\n");
}

// A bar for each category and mode.
template <typename Value>
std::string CategoryBars(const EvalReport& report, const char* title, const char* unit, Value value) {
  BarChart chart{.title = title, .unit = unit, .reaches = 1};
  std::vector<const CategoryFigures*> groups = {&report.figures.overall};
  if (report.figures.categories.size() > 1) {
    for (const CategoryFigures& category : report.figures.categories) {
      if (groups.size() <= kMostBarCategories) groups.push_back(&category);
    }
  }
  for (const CategoryFigures* group : groups) {
    for (size_t i = 0; i < report.modes.size(); ++i) {
      if (i == report.plain) continue;
      const double v = value(group->modes[i]);
      if (!std::isfinite(v)) continue;
      chart.bars.push_back({absl::StrCat(group->category, ", ", report.modes[i]),
                            {{"", static_cast<int>(i), v}},
                            absl::StrFormat("%.2f", v)});
    }
  }
  return RenderBars(chart);
}

// Tokens per forward, by who drafted them.
std::string SourceBars(const EvalReport& report) {
  BarChart chart{.title = "Who drafted the tokens of a forward",
                 .unit = "accepted tokens per forward; grey: the model's own next token",
                 .legend = true};
  for (size_t i = 0; i < report.modes.size(); ++i) {
    const ModeFigures& figures = report.figures.overall.modes[i];
    if (i == report.plain || figures.forwards == 0) continue;
    const auto forwards = static_cast<double>(figures.forwards);
    double drafted = 0;
    Bar bar{report.modes[i], {}, absl::StrFormat("%.2f", figures.tokens_per_forward())};
    for (size_t s = 1; s < kSources; ++s) {
      const double share = static_cast<double>(figures.counts.accepted[s]) / forwards;
      drafted += share;
      bar.parts.push_back({std::string(SourceName(static_cast<Source>(s))), static_cast<int>(s) - 1, share});
    }
    bar.parts.insert(bar.parts.begin(), BarPart{"own", -1, figures.tokens_per_forward() - drafted});
    chart.bars.push_back(std::move(bar));
  }
  return RenderBars(chart);
}

std::string PhaseBars(const EvalReport& report) {
  BarChart chart{.title = "Where a step's time goes", .unit = "milliseconds per step", .legend = true};
  for (size_t i = 0; i < report.modes.size(); ++i) {
    const StepCounts& counts = report.figures.overall.modes[i].counts;
    if (counts.steps == 0) continue;
    Bar bar{report.modes[i], {}, ""};
    double all = 0;
    for (size_t phase = 0; phase < kPhaseNames.size(); ++phase) {
      const double ms = 1e3 * counts.phase_seconds[phase] / static_cast<double>(counts.steps);
      all += ms;
      bar.parts.push_back({kPhaseNames[phase], static_cast<int>(phase), ms});
    }
    bar.text = FormatNumber(all, 3);
    chart.bars.push_back(std::move(bar));
  }
  return RenderBars(chart);
}

// A curve for each mode that drafts, made by `points` of its counts; `guide` beside them.
template <typename Points>
std::string ModeCurves(const EvalReport& report, LineChart chart, Points points,
                       const std::optional<Curve>& guide = std::nullopt) {
  for (size_t i = 0; i < report.modes.size(); ++i) {
    if (i == report.plain) continue;
    std::vector<Point> curve = points(report.figures.overall.modes[i].counts);
    if (!curve.empty()) {
      chart.curves.push_back({report.modes[i], static_cast<int>(i), Stroke::kMarked, std::move(curve)});
    }
  }
  if (chart.curves.empty()) return "";
  if (guide) chart.curves.push_back(*guide);
  return RenderLineChart(chart);
}

std::string LengthCurves(const EvalReport& report) {
  return ModeCurves(report,
                    {.title = "Tokens of a forward",
                     .unit = "percent of forwards that emit at least so many",
                     .reaches = 0.0,
                     .digits = 3,
                     .x_name = "token"},
                    [](const StepCounts& counts) {
                      std::vector<Point> points;
                      double more = 0;
                      for (size_t n = counts.emitted.size(); n-- > 1;) {
                        more += static_cast<double>(counts.emitted[n]);
                        points.push_back({static_cast<double>(n), more});
                      }
                      std::reverse(points.begin(), points.end());
                      for (Point& point : points) point.y *= 100 / more;
                      return points;
                    });
}

std::string DepthCurves(const EvalReport& report) {
  return ModeCurves(
      report,
      {.title = "Accepted by depth",
       .unit = "percent of the trees of at least that depth",
       .reaches = 0.0,
       .digits = 3,
       .x_name = "depth"},
      [](const StepCounts& counts) {
        std::vector<Point> points;
        for (size_t d = 1; d < counts.reached.size(); ++d) {
          const double matched = d < counts.matched.size() ? static_cast<double>(counts.matched[d]) : 0;
          points.push_back({static_cast<double>(d), 100 * matched / static_cast<double>(counts.reached[d])});
        }
        return points;
      });
}

std::string CalibrationCurves(const EvalReport& report) {
  constexpr int kGrey = 5;
  return ModeCurves(
      report,
      {.title = "Calibration",
       .unit = "percent of nodes that were right, by their estimate in percent",
       .digits = 3,
       .x_name = "estimate"},
      [](const StepCounts& counts) {
        std::vector<Point> points;
        for (const StepCounts::Bucket& bucket : counts.calibration) {
          if (bucket.nodes == 0) continue;
          const auto nodes = static_cast<double>(bucket.nodes);
          points.push_back(
              {100 * bucket.predicted / nodes, 100 * static_cast<double>(bucket.accepted) / nodes});
        }
        return points;
      },
      Curve{.name = "ideal", .color = kGrey, .points = {{0, 0}, {100, 100}}});
}

ReportTable PromptTable(const EvalReport& report) {
  ReportTable table{.title = "By prompt",
                    .note = report.answered.size() > kMostPrompts
                                ? absl::StrCat("tokens/forward; the first ", kMostPrompts, " prompts")
                                : "tokens/forward",
                    .header = {"prompt", "category", "prompt tokens", "tokens"},
                    .names = 2};
  table.header.insert(table.header.end(), report.modes.begin(), report.modes.end());
  for (size_t i = 0; i < std::min(report.answered.size(), kMostPrompts); ++i) {
    const Answered& answered = report.answered[i];
    std::vector<std::string> row = {answered.question.id, answered.question.category,
                                    absl::StrCat(answered.question.prompt_ids.size()),
                                    absl::StrCat(answered.answers[0].tokens())};
    for (const ModeAnswer& answer : answered.answers) {
      row.push_back(FormatNumber(answer.stats.tokens_per_forward(answer.tokens()), 3));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string RenderFacts(const EvalReport& report) {
  return absl::StrCat("<div class=\"facts\">\n<div>",
                      RenderFields("Options", report.options, /*grouped=*/false, kMostFields),
                      "</div>\n<div>", RenderFields("Machine", report.machine, /*grouped=*/true, kMostFields),
                      "</div>\n</div>\n");
}

}  // namespace

std::string RenderEvalPage(const EvalReport& report) {
  const std::string charts =
      absl::StrCat(CategoryBars(report, "Speed", "tokens/s beside plain decoding, in all",
                                [](const ModeFigures& f) { return f.ratio_total; }),
                   CategoryBars(report, "Tokens per forward", "plain decoding: 1",
                                [](const ModeFigures& f) { return f.tokens_per_forward(); }),
                   SourceBars(report), PhaseBars(report), LengthCurves(report), DepthCurves(report),
                   CalibrationCurves(report));
  std::string tables;
  for (const ReportTable& table : TablesOf(report)) tables += RenderTableHtml(table);
  tables += RenderTableHtml(PromptTable(report));
  return RenderPage(
      absl::StrCat("Evaluation of ", report.model),
      absl::StrCat(
          RenderHeader(report), RenderTiles(report),
          Section("How it went",
                  charts.empty() ? "" : absl::StrCat("<div class=\"charts\">\n", charts, "</div>\n")),
          Section("Figures", tables), Section("How it was run", RenderFacts(report)),
          "<footer>Made by clamor eval.</footer>\n"));
}

}  // namespace clamor::cli
