#include "services/cli/bench_figures.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/status/status.h"
#include "services/rpc_error.h"

namespace clamor::cli {
namespace {

size_t IndexOf(v1::Priority priority) {
  return priority == v1::PRIORITY_LOW ? 0 : priority == v1::PRIORITY_HIGH ? 2 : 1;
}

std::string ErrorName(const absl::Status& status) {
  const absl::string_view reason = ReasonOf(status);
  return reason.empty() ? absl::StatusCodeToString(status.code()) : std::string(reason);
}

void Count(Counts& counts, Outcome outcome, bool good) {
  ++counts.sent;
  ++counts.outcomes[static_cast<size_t>(outcome)];
  counts.good += good;
}

}  // namespace

const char* PriorityName(size_t priority) {
  constexpr const char* kNames[] = {"low", "normal", "high"};
  return kNames[priority];
}

Outcome OutcomeOf(const StreamResult& result, bool cut) {
  if (result.aborted) return Outcome::kAborted;
  if (result.status.ok()) return Outcome::kOk;
  if (cut) return Outcome::kCut;
  const bool late = absl::IsDeadlineExceeded(result.status) || absl::IsCancelled(result.status);
  return result.started || late ? Outcome::kFailed : Outcome::kRefused;
}

bool IsGood(const StreamResult& result, const Objectives& objectives) {
  if (!result.status.ok() || result.aborted) return false;
  double seconds = 0, tokens = 0;
  for (const auto& [gap, count] : result.gaps) {
    seconds += static_cast<double>(gap) * count;
    tokens += count;
  }
  return result.first_token.value_or(result.total) <= objectives.first_token &&
         seconds <= objectives.inter_token * std::max(tokens, 1.0) && result.total <= objectives.total;
}

PhaseFigures PhaseFigures::Over(double seconds, LoadClock::time_point begin) {
  PhaseFigures figures;
  figures.slice_seconds = std::max(1.0, std::ceil(seconds / static_cast<double>(kMaxSlices)));
  figures.begin = begin;
  return figures;
}

void PhaseFigures::Add(const StreamResult& result, Outcome outcome, const Objectives& objectives) {
  const bool good = outcome == Outcome::kOk && IsGood(result, objectives);
  const size_t priority = IndexOf(result.priority);
  Count(all, outcome, good);
  Count(by_priority[priority], outcome, good);
  tokens += result.tokens;
  if (result.sent > 0) late.Add(result.sent);

  const double at = std::chrono::duration<double>(result.due - begin).count() / slice_seconds;
  const auto slice = static_cast<size_t>(std::clamp(at, 0.0, static_cast<double>(kMaxSlices - 1)));
  if (slice >= slices.size()) slices.resize(slice + 1);
  Count(slices[slice].counts, outcome, good);

  if (outcome == Outcome::kOk) {
    if (result.first_token) {
      first_token.Add(*result.first_token);
      first_token_by_priority[priority].Add(*result.first_token);
      slices[slice].first_token.Add(*result.first_token);
    }
    total.Add(result.total);
    total_by_priority[priority].Add(result.total);
    for (const auto& [gap, count] : result.gaps) inter_token.Add(gap, count);
  }
  if (outcome == Outcome::kRefused) refusal.Add(result.total);
  if (outcome == Outcome::kRefused || outcome == Outcome::kFailed) {
    std::string name = ErrorName(result.status);
    if (errors.size() >= kMaxErrors && !errors.contains(name)) name = "OTHER";
    ErrorCounts& counts = errors[name];
    ++counts.requests;
    counts.told_when_to_retry += result.told_when_to_retry;
  }
}

}  // namespace clamor::cli
