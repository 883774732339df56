#include "services/cli/bench_tables.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/train/html_text.h"

namespace clamor::cli {
namespace {

constexpr double kLate = 0.01;  // seconds: a generator that is later has itself too much to do

std::string Milliseconds(double seconds) {
  return std::isfinite(seconds) ? FormatNumber(1e3 * seconds, 3) : "-";
}

ReportTable RequestTable(const BenchReport& report) {
  ReportTable table{
      .title = "Requests",
      .note = "a second: goodput and tokens; in time: of those that were admitted and not given up",
      .header = {"phase", "seconds", "sent", "ok", "good", "refused", "failed", "aborted", "cut", "goodput",
                 "tokens", "in time"}};
  for (const PhaseFigures& phase : report.phases) {
    const Counts& all = phase.all;
    table.rows.push_back(
        {PhaseName(phase), Number(phase.seconds, 1), FormatCount(all.sent), FormatCount(all.of(Outcome::kOk)),
         FormatCount(all.good), FormatCount(all.of(Outcome::kRefused)), FormatCount(all.of(Outcome::kFailed)),
         FormatCount(all.of(Outcome::kAborted)), FormatCount(all.of(Outcome::kCut)),
         Number(phase.goodput(), 2), Number(phase.tokens_per_second(), 1),
         Share(static_cast<double>(all.of(Outcome::kOk)), static_cast<double>(all.admitted()))});
  }
  return table;
}

ReportTable TimeTable(const BenchReport& report) {
  ReportTable table{.title = "Times",
                    .note = "milliseconds; of answers that ended well, and of refusals",
                    .header = {"phase", "what", "count", "mean", "p50", "p90", "p99", "max"},
                    .names = 2};
  for (const PhaseFigures& phase : report.phases) {
    const auto add = [&](const std::string& what, const TimeHistogram& times) {
      if (times.count() == 0) return;
      table.rows.push_back({PhaseName(phase), what, FormatCount(times.count()), Milliseconds(times.mean()),
                            Milliseconds(times.Quantile(0.5)), Milliseconds(times.Quantile(0.9)),
                            Milliseconds(times.Quantile(0.99)), Milliseconds(times.max())});
    };
    add("first token", phase.first_token);
    for (size_t i = 0; i < phase.by_priority.size(); ++i) {
      if (phase.by_priority[i].sent == phase.all.sent) continue;
      add(absl::StrCat("first token, ", PriorityName(i)), phase.first_token_by_priority[i]);
    }
    add("between tokens", phase.inter_token);
    add("whole answer", phase.total);
    add("refusal", phase.refusal);
  }
  return table;
}

ReportTable ErrorTable(const BenchReport& report) {
  ReportTable table{.title = "Refusals and failures",
                    .note = "by reason",
                    .header = {"phase", "reason", "requests", "told when to retry"},
                    .names = 2};
  for (const PhaseFigures& phase : report.phases) {
    for (const auto& [reason, counts] : phase.errors) {
      table.rows.push_back(
          {PhaseName(phase), reason, FormatCount(counts.requests), FormatCount(counts.told_when_to_retry)});
    }
  }
  return table;
}

}  // namespace

const PhaseFigures& BenchReport::best() const {
  return *std::max_element(phases.begin(), phases.end(), [](const PhaseFigures& a, const PhaseFigures& b) {
    return a.goodput() < b.goodput();
  });
}

std::string PhaseName(const PhaseFigures& phase) {
  if (phase.rate > 0) return absl::StrFormat("rate %g/s", phase.rate);
  return absl::StrCat(phase.concurrency, " at a time");
}

std::string BenchNotes(const BenchReport& report) {
  std::string notes =
      "Times count from when a request was due, by chance at the rate, whatever became of those before.";
  const auto limit = [&](const char* what, double seconds) {
    if (std::isfinite(seconds)) absl::StrAppendFormat(&notes, " Good has %s within %g s.", what, seconds);
  };
  limit("its first token", report.objectives.first_token);
  limit("a token on average", report.objectives.inter_token);
  limit("the whole answer", report.objectives.total);
  for (const PhaseFigures& phase : report.phases) {
    if (phase.late.Quantile(0.99) > kLate) {
      absl::StrAppend(&notes, " This program itself was late at ", PhaseName(phase), ", p99 by ",
                      Milliseconds(phase.late.Quantile(0.99)), " ms: its times say more than the server's.");
    }
    if (phase.skipped > 0) {
      absl::StrAppend(&notes, " At ", PhaseName(phase), " ", phase.skipped,
                      " requests were not sent: too many were open (--most-open).");
    }
  }
  return notes;
}

std::vector<ReportTable> TablesOf(const BenchReport& report) {
  std::vector<ReportTable> tables = {RequestTable(report), TimeTable(report)};
  ReportTable errors = ErrorTable(report);
  if (!errors.rows.empty()) tables.push_back(std::move(errors));
  return tables;
}

std::string RenderBenchText(const BenchReport& report) {
  std::string text = absl::StrCat(report.server, ": ", report.complete() ? "" : "interrupted; ",
                                  "best goodput ", Number(report.best().goodput(), 2), " a second, ",
                                  PhaseName(report.best()), "\n", BenchNotes(report), "\n");
  for (const ReportTable& table : TablesOf(report)) absl::StrAppend(&text, "\n", RenderTableText(table));
  return text;
}

}  // namespace clamor::cli
