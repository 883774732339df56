#include "services/worker/request.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace clamor {
namespace {

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;

}  // namespace

absl::Status Request::Validate(int32_t vocab_size, int32_t max_positions) const {
  if (prompt_ids.empty())
    return absl::InvalidArgumentError("prompt_ids is empty, must hold at least one token");
  if (absl::Status s = CheckTokenIds("prompt_ids", prompt_ids, vocab_size); !s.ok()) return s;
  if (absl::Status s = CheckTokenIds("emitted_ids", emitted_ids, vocab_size); !s.ok()) return s;
  if (absl::Status s = ValidateOptions(vocab_size); !s.ok()) return s;
  const int64_t prompt = static_cast<int64_t>(prompt_ids.size()),
                emitted = static_cast<int64_t>(emitted_ids.size());
  if (max_tokens > 0 && emitted > max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("emitted_ids holds ", emitted, " tokens, must be at most max_tokens ", max_tokens));
  }
  if (prompt + std::max<int64_t>({max_tokens, emitted, 1}) > max_positions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "[CONTEXT_TOO_LONG] prompt of ", prompt, " tokens and max_tokens ",
        std::max<int64_t>(max_tokens, emitted), " exceed the context of ", max_positions, " tokens"));
  }
  return absl::OkStatus();
}

absl::Status Request::ValidateOptions(int32_t vocab_size) const {
  if (max_tokens < 0)
    return absl::InvalidArgumentError(absl::StrCat("max_tokens is ", max_tokens, ", must be at least 0"));
  const int32_t most = max_tokens > 0 ? max_tokens : std::numeric_limits<int32_t>::max();
  if (min_tokens < 0 || min_tokens > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_tokens is ", min_tokens, ", must be in [0, ", most, "]"));
  }
  if (absl::Status s = sampling.Validate(vocab_size); !s.ok())
    return absl::InvalidArgumentError(absl::StrCat("sampling.", s.message()));
  if (stop.size() > kMaxStops) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop holds ", stop.size(), " strings, must be at most ", kMaxStops));
  }
  for (size_t i = 0; i < stop.size(); ++i) {
    if (stop[i].empty() || stop[i].size() > kMaxStopBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop[", i, "] has ", stop[i].size(), " bytes, must have 1 to ", kMaxStopBytes));
    }
  }
  if (stop_token_ids.size() > kMaxStopTokenIds) {
    return absl::InvalidArgumentError(absl::StrCat("stop_token_ids holds ", stop_token_ids.size(),
                                                   " ids, must be at most ", kMaxStopTokenIds));
  }
  if (absl::Status s = CheckTokenIds("stop_token_ids", stop_token_ids, vocab_size); !s.ok()) return s;
  if (grammar != nullptr && ignore_eos) {
    return absl::InvalidArgumentError(
        "ignore_eos is true, must be false with a grammar: nothing else ends such an answer");
  }
  if (top_logprobs && (*top_logprobs < 0 || *top_logprobs > kMaxTopLogprobs)) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_logprobs is ", *top_logprobs, ", must be in [0, ", kMaxTopLogprobs, "]"));
  }
  if (speculation.nodes < SpeculationOptions::kAuto || speculation.nodes > SpeculationOptions::kMaxNodes) {
    return absl::InvalidArgumentError(absl::StrCat("speculation.nodes is ", speculation.nodes,
                                                   ", must be in [0, ", SpeculationOptions::kMaxNodes,
                                                   "], or ", SpeculationOptions::kAuto, " for auto"));
  }
  return absl::OkStatus();
}

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kSlowConsumer:
      return "slow_consumer";
    case FinishReason::kTenantDeleted:
      return "tenant_deleted";
  }
  return "";
}

}  // namespace clamor
