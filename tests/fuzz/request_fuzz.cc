// A message of any bytes to a worker is refused, or becomes a request that keeps to the engine's limits.
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "absl/status/status.h"
#include "services/gateway/request_limits.h"
#include "services/worker/worker_service.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace clamor;  // NOLINT
  constexpr int32_t kVocab = 1000;
  v1::WorkerServiceStreamGenerateRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;

  const absl::Status options = CheckOptions(message.options());
  if (!options.ok() && !absl::IsInvalidArgument(options)) std::abort();
  const auto request = ParseRequest(message, kVocab);
  if (!request.ok()) {
    if (!absl::IsInvalidArgument(request.status())) std::abort();
    return 0;
  }
  if (!request->ValidateOptions(kVocab).ok()) std::abort();
  if (request->max_tokens < 0 || request->min_tokens < 0) std::abort();
  for (const auto& ids : {request->prompt_ids, request->emitted_ids, request->stop_token_ids})
    for (const int32_t id : ids)
      if (id < 0) std::abort();
  const SamplingOptions& sampling = request->sampling;
  for (const float value : {sampling.temperature, sampling.top_p, sampling.min_p})
    if (!std::isfinite(value)) std::abort();
  const absl::Status valid = request->Validate(kVocab, 512);
  if (valid.ok()) {
    for (const auto& ids : {request->prompt_ids, request->emitted_ids})
      for (const int32_t id : ids)
        if (id >= kVocab) std::abort();
  }
  return 0;
}
