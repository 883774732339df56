#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/train/html_text.h"
#include "services/cli/eval_report.h"

namespace clamor::cli {
namespace {

constexpr size_t kMostLengths = 8;  // columns of histograms; what is beyond goes into the last

template <typename Counts>
double Sum(const Counts& counts) {
  return static_cast<double>(std::accumulate(counts.begin(), counts.end(), typename Counts::value_type{}));
}

int64_t At(const std::vector<int64_t>& counts, size_t i) { return i < counts.size() ? counts[i] : 0; }

void AddSpeedRows(const EvalReport& report, const CategoryFigures& category, ReportTable& table) {
  for (size_t i = 0; i < report.modes.size(); ++i) {
    const ModeFigures& figures = category.modes[i];
    table.rows.push_back(
        {i == 0 ? category.category : "", report.modes[i], FormatCount(figures.prompts),
         FormatCount(figures.tokens), Number(figures.tokens_per_forward(), 2),
         Number(figures.tokens_per_second(), 1), Number(figures.ratio_median, 2),
         Number(figures.ratio_total, 2),
         figures.compared > 0 ? absl::StrCat(figures.identical, " of ", figures.compared) : "-",
         Number(figures.nodes_per_forward(), 1)});
  }
}

ReportTable SpeedTable(const EvalReport& report) {
  ReportTable table{
      .title = "By category",
      .note = "x plain: tokens/s beside plain decoding of the same prompts; median of prompts, and total",
      .header = {"category", "mode", "prompts", "tokens", "tokens/forward", "tokens/s", "x plain median",
                 "x plain total", "identical", "nodes/forward"},
      .names = 2};
  for (const CategoryFigures& category : report.figures.categories) AddSpeedRows(report, category, table);
  if (report.figures.categories.size() > 1) AddSpeedRows(report, report.figures.overall, table);
  return table;
}

// A row for each mode that drafts, made by `cells` of its counts.
template <typename Cells>
void AddModeRows(const EvalReport& report, ReportTable& table, Cells cells) {
  for (size_t i = 0; i < report.modes.size(); ++i) {
    if (i == report.plain) continue;
    std::vector<std::string> row = {report.modes[i]};
    for (std::string& cell : cells(report.figures.overall.modes[i].counts)) row.push_back(std::move(cell));
    table.rows.push_back(std::move(row));
  }
}

ReportTable SourceTable(const EvalReport& report) {
  ReportTable table{
      .title = "Accepted tokens by source",
      .note = "share of the accepted draft tokens, and how many of the source's nodes were accepted",
      .header = {"mode", "accepted"}};
  for (size_t s = 1; s < kSources; ++s)
    table.header.push_back(std::string(SourceName(static_cast<Source>(s))));
  AddModeRows(report, table, [](const StepCounts& counts) {
    const double accepted = Sum(counts.accepted);
    std::vector<std::string> cells = {FormatCount(static_cast<int64_t>(accepted))};
    for (size_t s = 1; s < kSources; ++s) {
      const auto of_source = static_cast<double>(counts.accepted[s]),
                 drafted = static_cast<double>(counts.drafted[s]);
      cells.push_back(drafted > 0 ? absl::StrCat(Share(of_source, std::max(accepted, 1.0)), " (",
                                                 Share(of_source, drafted), ")")
                                  : "-");
    }
    return cells;
  });
  return table;
}

ReportTable LengthTable(const EvalReport& report) {
  ReportTable table{.title = "Tokens of a forward",
                    .note = "share of forwards that emitted so many tokens",
                    .header = {"mode"}};
  for (size_t n = 1; n <= kMostLengths; ++n) {
    table.header.push_back(absl::StrCat(n, n == kMostLengths ? "+" : ""));
  }
  table.header.push_back("no draft");
  AddModeRows(report, table, [](const StepCounts& counts) {
    std::vector<std::string> cells;
    const double all = Sum(counts.emitted);
    for (size_t n = 1; n <= kMostLengths; ++n) {
      int64_t forwards = At(counts.emitted, n);
      for (size_t more = n + 1; n == kMostLengths && more < counts.emitted.size(); ++more) {
        forwards += counts.emitted[more];
      }
      cells.push_back(Share(static_cast<double>(forwards), all));
    }
    cells.push_back(Share(static_cast<double>(counts.undrafted), static_cast<double>(counts.forwards)));
    return cells;
  });
  return table;
}

ReportTable DepthTable(const EvalReport& report) {
  ReportTable table{.title = "Accepted by depth",
                    .note = "share of the trees of at least that depth whose node there was right",
                    .header = {"mode"}};
  for (size_t d = 1; d <= kMostLengths; ++d) table.header.push_back(absl::StrCat(d));
  AddModeRows(report, table, [](const StepCounts& counts) {
    std::vector<std::string> cells;
    for (size_t d = 1; d <= kMostLengths; ++d) {
      cells.push_back(
          Share(static_cast<double>(At(counts.matched, d)), static_cast<double>(At(counts.reached, d))));
    }
    return cells;
  });
  return table;
}

ReportTable PhaseTable(const EvalReport& report) {
  ReportTable table{.title = "Where a step's time goes",
                    .note = "steps that read no prompt tokens",
                    .header = {"mode", "steps", "ms/step", "rows/step"}};
  for (const char* phase : kPhaseNames) table.header.push_back(phase);
  for (size_t i = 0; i < report.modes.size(); ++i) {
    const StepCounts& counts = report.figures.overall.modes[i].counts;
    const auto steps = static_cast<double>(counts.steps);
    const double seconds = Sum(counts.phase_seconds);
    table.rows.push_back({report.modes[i], FormatCount(counts.steps), Number(1e3 * seconds / steps, 2),
                          Number(static_cast<double>(counts.rows) / steps, 1)});
    for (const double phase : counts.phase_seconds) table.rows.back().push_back(Share(phase, seconds));
  }
  return table;
}

ReportTable CalibrationTable(const std::string& mode, const StepCounts& counts) {
  ReportTable table{
      .title = absl::StrCat("Calibration, ", mode),
      .note = absl::StrCat("survival of nodes as estimated, and how often they were right; Brier score ",
                           Number(counts.Brier(), 4)),
      .header = {"estimate", "nodes", "predicted", "observed"}};
  for (size_t i = 0; i < counts.calibration.size(); ++i) {
    const StepCounts::Bucket& bucket = counts.calibration[i];
    if (bucket.nodes == 0) continue;
    const bool last = i + 1 == StepCounts::kSurvivalBounds.size();
    const auto nodes = static_cast<double>(bucket.nodes);
    table.rows.push_back({absl::StrFormat("%.2f to %.2f", StepCounts::kSurvivalBounds[i],
                                          last ? 1.0 : StepCounts::kSurvivalBounds[i + 1]),
                          FormatCount(bucket.nodes), Number(bucket.predicted / nodes, 3),
                          Number(static_cast<double>(bucket.accepted) / nodes, 3)});
  }
  return table;
}

std::string IdText(int32_t id) { return id < 0 ? "the end" : absl::StrCat(id); }

}  // namespace

std::string DescribeDifference(const EvalReport& report, const Difference& difference) {
  const EvalQuestion& question = report.answered[difference.prompt].question;
  return absl::StrCat("prompt ", question.id, " (", report.data, ":", question.line,
                      "): ", report.modes[difference.mode], " differs from plain at token ", difference.token,
                      ": ", IdText(difference.other), " instead of ", IdText(difference.plain));
}

absl::Status VerdictOf(const EvalReport& report) {
  if (!report.differences.empty()) {
    const size_t more = report.differences.size() - 1;
    return absl::InternalError(absl::StrCat(
        DescribeDifference(report, report.differences.front()),
        more > 0 ? absl::StrCat(", and ", more, more > 1 ? " more answers differ" : " more answer differs")
                 : ""));
  }
  if (!report.complete()) {
    return absl::CancelledError(
        absl::StrCat("interrupted after prompt ", report.answered.size(), " of ", report.planned));
  }
  return absl::OkStatus();
}

std::string EvalNotes(const EvalReport& report) {
  return absl::StrCat(
      "One request at a time; a prompt is answered by all modes before the next, each time beginning with "
      "another. "
      "Each mode has an engine of its own, which has answered a warm-up: weights, threads and step costs are "
      "warm. ",
      report.fresh ? "What drafting learns is forgotten after each prompt. "
                   : "What drafting learns begins empty and is kept from prompt to prompt. ",
      "tokens/forward counts every forward that emits, the first included; tokens/s is of decoding, without "
      "the prompt "
      "and the first forward.");
}

std::string EvalScope(const EvalReport& report) {
  std::string text = absl::StrCat(report.answered.size(), " of ", report.planned, " prompts");
  const char* separator = ", left out as too long: ";
  for (const auto& [category, prompts] : report.too_long) {
    absl::StrAppend(&text, separator, prompts, " of ", category);
    separator = ", ";
  }
  return text;
}

std::vector<ReportTable> TablesOf(const EvalReport& report) {
  std::vector<ReportTable> tables = {SpeedTable(report)};
  for (ReportTable& table :
       std::vector<ReportTable>{SourceTable(report), LengthTable(report), DepthTable(report)}) {
    if (!table.rows.empty()) tables.push_back(std::move(table));
  }
  tables.push_back(PhaseTable(report));
  for (size_t i = 0; i < report.modes.size(); ++i) {
    ReportTable table = CalibrationTable(report.modes[i], report.figures.overall.modes[i].counts);
    if (!table.rows.empty()) tables.push_back(std::move(table));
  }
  return tables;
}

std::string RenderEvalText(const EvalReport& report) {
  std::string text =
      absl::StrCat(report.model, " on ", report.suite, " (", report.data, "): ", EvalScope(report), "\n");
  for (const auto* fields : {&report.options, &report.machine}) {
    const char* separator = "";
    for (const auto& [name, value] : fields->items()) {
      absl::StrAppend(&text, separator, name, " ",
                      value.is_string() ? value.get<std::string>() : value.dump());
      separator = ", ";
    }
    absl::StrAppend(&text, "\n");
  }
  absl::StrAppend(&text, EvalNotes(report), "\n");
  for (const ReportTable& table : TablesOf(report)) {
    absl::StrAppend(&text, "\n", RenderTableText(table));
  }
  return text;
}

}  // namespace clamor::cli
