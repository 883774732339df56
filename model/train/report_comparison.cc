// RenderComparison of report.h.
#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "model/train/html_text.h"
#include "model/train/report.h"
#include "model/train/report_charts.h"
#include "model/train/report_figures.h"
#include "model/train/report_parts.h"

namespace clamor {
namespace {

using nlohmann::json;

constexpr size_t kMostPrompts = 4;
constexpr size_t kMostSampleRuns = 4;
constexpr size_t kMostDifferences = 40;
constexpr size_t kMostOfCell = 60;  // bytes
constexpr int kColors = 6;          // report_style.cc

struct Contender {
  std::string name;
  const TrainingLog* log;
  Figures figures;
};

Course SpeedOf(const Contender& contender, const std::string& draft) {
  for (const DraftCourse& speed : contender.figures.speeds) {
    if (speed.draft == draft) return speed.course;
  }
  return {};
}

std::string Swatch(size_t run) {
  return absl::StrCat("<span class=\"swatch c", run % kColors, run >= kColors ? " dashed" : "", "\"></span>");
}

std::string RenderLegend(absl::Span<const Contender> contenders) {
  std::string html = "<ul class=\"legend\">";
  for (size_t i = 0; i < contenders.size(); ++i) {
    absl::StrAppend(&html, "<li>", Swatch(i), EscapeHtml(contenders[i].name), "</li>");
  }
  return absl::StrCat(html, "</ul>\n");
}

// One column of the table of final figures.
struct Measure {
  enum class Better { kLow, kHigh, kNeither };
  std::string name;
  Better better;
  std::vector<double> values;  // of each run
  std::vector<std::string> texts;
};

template <typename Value, typename Text>
Measure MakeMeasure(std::string name, Measure::Better better, absl::Span<const Contender> contenders,
                    Value value, Text text) {
  Measure measure{std::move(name), better};
  for (const Contender& contender : contenders) {
    measure.values.push_back(static_cast<double>(value(contender)));
    measure.texts.push_back(text(measure.values.back()));
  }
  return measure;
}

// Held-out loss, lowest held-out loss, then one for each draft, then the others.
constexpr size_t kFirstDraftMeasure = 2;

std::vector<Measure> MeasuresOf(absl::Span<const Contender> contenders,
                                absl::Span<const std::string> drafts) {
  using Better = Measure::Better;
  const auto loss = [](double value) { return FormatNumber(value, 4); };
  const auto count = [](double value) { return FormatNumber(std::round(value), 1); };
  std::vector<Measure> measures;
  const auto add = [&](std::string name, Better better, auto value, auto text) {
    measures.push_back(MakeMeasure(std::move(name), better, contenders, value, text));
  };
  add(
      "Held-out loss", Better::kLow, [](const Contender& c) { return c.figures.heldout_loss.last; }, loss);
  add(
      "Best held-out loss", Better::kLow, [](const Contender& c) { return c.figures.heldout_loss.lowest; },
      loss);
  for (const std::string& draft : drafts) {
    add(
        absl::StrCat("Tokens per forward, ", DraftName(draft)), Better::kHigh,
        [&](const Contender& c) { return SpeedOf(c, draft).last; },
        [](double v) { return FormatNumber(v, 3); });
  }
  add(
      "Training loss", Better::kNeither, [](const Contender& c) { return c.figures.training_loss.last; },
      loss);
  add(
      "Steps", Better::kNeither, [](const Contender& c) { return c.figures.steps; }, count);
  add(
      "Tokens per second", Better::kNeither, [](const Contender& c) { return c.figures.tokens_per_second; },
      count);
  add(
      "Wall time", Better::kNeither, [](const Contender& c) { return c.figures.seconds; }, FormatDuration);
  return measures;
}

// The best value of `measure`, if there are several different ones; else NaN.
double BestOf(const Measure& measure) {
  double low = NAN, high = NAN;
  for (const double value : measure.values) {
    low = std::fmin(low, value);
    high = std::fmax(high, value);
  }
  if (low == high || measure.better == Measure::Better::kNeither) return NAN;
  return measure.better == Measure::Better::kLow ? low : high;
}

std::string RenderFigures(absl::Span<const Contender> contenders, absl::Span<const Measure> measures) {
  std::string html = "<div class=\"scroll\"><table class=\"numbers\"><thead><tr><th>Run</th>";
  for (const Measure& measure : measures) absl::StrAppend(&html, "<th>", EscapeHtml(measure.name), "</th>");
  html += "</tr></thead><tbody>\n";
  for (size_t i = 0; i < contenders.size(); ++i) {
    absl::StrAppend(&html, "<tr><th scope=\"row\">", Swatch(i), EscapeHtml(contenders[i].name), "</th>");
    for (const Measure& measure : measures) {
      const bool best = measure.values[i] == BestOf(measure);
      absl::StrAppend(&html, best ? "<td class=\"best\">" : "<td>", measure.texts[i], "</td>");
    }
    html += "</tr>\n";
  }
  return absl::StrCat(html, "</tbody></table></div>\n");
}

std::string OptionText(const TrainingLog& log, const std::string& name) {
  if (!log.start || !log.start->options.is_object() || !log.start->options.contains(name)) return "–";
  return FieldText(name, log.start->options[name], /*grouped=*/false);
}

// The options in which the runs are not alike, and the model.
std::string RenderDifferences(absl::Span<const Contender> contenders) {
  std::set<std::string> names;
  for (const Contender& contender : contenders) {
    if (!contender.log->start) continue;
    for (const auto& [name, value] : contender.log->start->options.items()) names.insert(name);
  }
  std::string rows;
  size_t count = 0;
  for (const std::string& name : names) {
    std::set<std::string> different;
    std::string cells;
    for (const Contender& contender : contenders) {
      const std::string text = OptionText(*contender.log, name);
      different.insert(text);
      absl::StrAppend(&cells, "<td>", EscapeHtml(CutUtf8(text, kMostOfCell)), "</td>");
    }
    if (different.size() < 2) continue;
    absl::StrAppend(&rows, "<tr><th scope=\"row\"><code>", EscapeHtml(CutUtf8(name, kMostOfCell)),
                    "</code></th>", cells, "</tr>\n");
    if (++count == kMostDifferences) break;
  }
  if (rows.empty()) return "";
  std::string head;
  for (const Contender& contender : contenders)
    absl::StrAppend(&head, "<th>", EscapeHtml(contender.name), "</th>");
  return absl::StrCat("<div class=\"scroll\"><table><thead><tr><th>Option</th>", head,
                      "</tr></thead><tbody>\n", rows, "</tbody></table></div>\n");
}

// The run with the best value, where the runs differ.
const Contender* WinnerOf(absl::Span<const Contender> contenders, const Measure& measure) {
  const double best = BestOf(measure);
  for (size_t i = 0; i < contenders.size(); ++i) {
    if (measure.values[i] == best) return &contenders[i];
  }
  return nullptr;
}

// "Lowest held-out loss: sft. Most tokens per forward: msn with 8 nodes, sft with 16 nodes."
std::string Verdict(absl::Span<const Contender> contenders, absl::Span<const Measure> measures,
                    absl::Span<const std::string> drafts) {
  std::string text;
  if (const Contender* winner = WinnerOf(contenders, measures[0]); winner != nullptr) {
    text = absl::StrCat("Lowest held-out loss: ", Bold(winner->name), ". ");
  }
  std::set<const Contender*> winners;
  std::vector<std::string> parts;
  for (size_t i = 0; i < drafts.size(); ++i) {
    const Contender* winner = WinnerOf(contenders, measures[kFirstDraftMeasure + i]);
    winners.insert(winner);
    if (winner == nullptr) continue;
    parts.push_back(absl::StrCat(Bold(winner->name), " with ", EscapeHtml(DraftName(drafts[i]))));
  }
  if (parts.empty()) return text;
  if (winners.size() == 1) parts = {Bold((*winners.begin())->name)};
  return absl::StrCat(text, "Most tokens per forward: ", absl::StrJoin(parts, ", "), ".");
}

std::string RenderHeader(absl::Span<const Contender> contenders, const std::string& verdict) {
  std::vector<std::string> names;
  for (const Contender& contender : contenders) names.push_back(EscapeHtml(contender.name));
  const std::string headline = names.size() > 3 || names.size() < 2
                                   ? absl::StrCat(names.size(), names.size() == 1 ? " run" : " runs compared")
                                   : absl::StrJoin(names, " against ");
  return absl::StrCat("<header>\n<p class=\"kicker\"><b>Clamor</b> training, runs compared</p>\n<h1>",
                      headline, "</h1>\n<p class=\"deck\">", verdict, "</p>\n</header>\n");
}

// What the first runs write in the end.
std::vector<SampleColumn> LastTexts(absl::Span<const Contender> contenders) {
  std::vector<SampleColumn> columns;
  for (const Contender& contender : contenders) {
    if (columns.size() == kMostSampleRuns) break;
    const auto& evaluations = contender.log->evaluations;
    const auto last =
        std::find_if(evaluations.rbegin(), evaluations.rend(),
                     [](const LoggedEvaluation& evaluation) { return !evaluation.samples.empty(); });
    if (last == evaluations.rend()) continue;
    columns.push_back({absl::StrCat(contender.name, ", step ", FormatCount(last->step)), &*last});
  }
  return columns;
}

}  // namespace

std::string RenderComparison(const std::vector<NamedLog>& runs) {
  std::vector<Contender> contenders;
  std::vector<Run> curves;
  for (const NamedLog& run : runs) {
    if (contenders.size() == kMaxComparedRuns) break;
    contenders.push_back({std::string(CutUtf8(run.name, kMostOfCell)), &run.log, FiguresOf(run.log)});
    curves.push_back({contenders.back().name, &run.log});
  }
  const std::vector<std::string> drafts = DraftsOf(curves);
  const std::vector<Measure> measures = MeasuresOf(contenders, drafts);
  const std::string charts = RenderCharts(curves);
  return RenderPage(
      "Training runs compared",
      absl::StrCat(
          RenderHeader(contenders, Verdict(contenders, measures, drafts)),
          Section("Where they ended", RenderFigures(contenders, measures)),
          Section("How they went", charts.empty() ? "" : absl::StrCat(RenderLegend(contenders), charts)),
          Section("What they write", RenderSamples(LastTexts(contenders), kMostPrompts)),
          Section("What was different", RenderDifferences(contenders))));
}

}  // namespace clamor
