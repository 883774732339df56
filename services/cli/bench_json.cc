#include "services/cli/bench_report.h"

namespace clamor::cli {
namespace {

using nlohmann::ordered_json;

ordered_json TimesJson(const TimeHistogram& times) {
  return {{"count", times.count()},     {"mean", times.mean()},        {"p50", times.Quantile(0.5)},
          {"p90", times.Quantile(0.9)}, {"p99", times.Quantile(0.99)}, {"max", times.max()}};
}

void AddCounts(const Counts& counts, ordered_json& object) {
  object["sent"] = counts.sent;
  for (size_t i = 0; i < counts.outcomes.size(); ++i) object[kOutcomeNames[i]] = counts.outcomes[i];
  object["good"] = counts.good;
}

ordered_json PhaseJson(const PhaseFigures& phase) {
  ordered_json object = {{"rate", nullptr}, {"concurrency", nullptr}};
  if (phase.rate > 0) {
    object["rate"] = phase.rate;
  } else {
    object["concurrency"] = phase.concurrency;
  }
  object["seconds"] = phase.seconds;
  object["complete"] = phase.complete;
  AddCounts(phase.all, object);
  object["goodput"] = phase.goodput();
  object["tokens"] = phase.tokens;
  object["tokens_per_second"] = phase.tokens_per_second();
  object["skipped"] = phase.skipped;
  object["first_token"] = TimesJson(phase.first_token);
  object["inter_token"] = TimesJson(phase.inter_token);
  object["total"] = TimesJson(phase.total);
  object["refusal"] = TimesJson(phase.refusal);
  object["late"] = TimesJson(phase.late);
  object["client_cpu_seconds"] = phase.client_cpu_seconds;
  for (size_t i = 0; i < phase.by_priority.size(); ++i) {
    ordered_json& priority = object["by_priority"][PriorityName(i)];
    AddCounts(phase.by_priority[i], priority);
    priority["first_token"] = TimesJson(phase.first_token_by_priority[i]);
    priority["total"] = TimesJson(phase.total_by_priority[i]);
  }
  ordered_json& errors = object["errors"] = ordered_json::object();
  for (const auto& [reason, counts] : phase.errors) {
    errors[reason] = {{"requests", counts.requests}, {"told_when_to_retry", counts.told_when_to_retry}};
  }
  object["slice_seconds"] = phase.slice_seconds;
  ordered_json& slices = object["slices"] = ordered_json::array();
  for (const PhaseFigures::Slice& slice : phase.slices) {
    ordered_json& added = slices.emplace_back();
    added["second"] = static_cast<double>(slices.size() - 1) * phase.slice_seconds;
    AddCounts(slice.counts, added);
    added["first_token"] = TimesJson(slice.first_token);
  }
  return object;
}

}  // namespace

ordered_json BenchJson(const BenchReport& report) {
  ordered_json object = {
      {"server", report.server},
      {"options", report.options},
      {"notes", BenchNotes(report)},
      {"complete", report.complete()},
      {"session_turns", report.session_turns},
      {"peak", {{"phase", PhaseName(report.best())}, {"goodput", report.best().goodput()}}}};
  ordered_json& phases = object["phases"] = ordered_json::array();
  for (const PhaseFigures& phase : report.phases) phases.push_back(PhaseJson(phase));
  return object;
}

}  // namespace clamor::cli
