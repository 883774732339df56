#include "services/worker/request_trace.h"

#include <algorithm>

#include "absl/strings/string_view.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr char kName[] = "StreamGenerate";

// Of one whose answer is complete: OK.
absl::Status StatusOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      break;
    case FinishReason::kDeadline:
      return Refusal("DEADLINE", "");
    case FinishReason::kSlowConsumer:
      return Refusal("SLOW_CONSUMER", "");
    case FinishReason::kTenantDeleted:
      return Refusal("TENANT_DELETED", "");
    case FinishReason::kCancelled:
      return absl::CancelledError();
  }
  return absl::OkStatus();
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

TracePlace RequestTrace::Ended(const Finished& finished) const {
  const absl::Time end = absl::Now();
  const GenerationStats& stats = finished.stats;
  spdlog::info(
      "event=request id={} outcome={} prompt_tokens={} cached_tokens={} tokens={} forwards={} "
      "seconds={:.3f} trace={}",
      Quoted(id), FinishReasonName(finished.reason), finished.usage.prompt_tokens,
      finished.usage.cached_tokens, finished.usage.completion_tokens, stats.forwards,
      absl::ToDoubleSeconds(end - arrival), caller.context.TraceIdText());

  Span request = caller.Start(kName, Span::Kind::kServer, arrival);
  request.Set("clamor.request_id", id);
  request.Set("gen_ai.usage.input_tokens", finished.usage.prompt_tokens);
  request.Set("gen_ai.usage.output_tokens", finished.usage.completion_tokens);
  request.Set("clamor.cached_tokens", finished.usage.cached_tokens);
  request.Set("clamor.forwards", stats.forwards);
  request.Set("clamor.draft_nodes", stats.draft_nodes);
  request.Set("clamor.finish_reason", View(FinishReasonName(finished.reason)));
  if (const absl::Status status = StatusOf(finished.reason); !status.ok()) request.Fail(status);

  const TracePlace place = {caller.tracer, request.context()};
  const bool admitted = stats.prefill_seconds > 0;  // else it waited until its end
  const absl::Time taken = admitted ? arrival + absl::Seconds(stats.queue_seconds) : end;
  place.Start("queue", Span::Kind::kInternal, arrival).End(taken);
  if (admitted) {
    const absl::Time read = std::min(taken + absl::Seconds(stats.prefill_seconds), end);
    place.Start("prefill", Span::Kind::kInternal, taken).End(read);
    if (stats.decode_seconds > 0) place.Start("decode", Span::Kind::kInternal, read).End(end);
  }
  request.End(end);
  return place;
}

void RequestTrace::Refused(const absl::Status& status) const {
  spdlog::info("event=request id={} outcome=refused code={} trace={}", Quoted(id),
               absl::StatusCodeToString(status.code()), caller.context.TraceIdText());
  Span request = caller.Start(kName, Span::Kind::kServer, arrival);
  request.Set("clamor.request_id", id);
  request.Fail(status);
}

}  // namespace clamor
