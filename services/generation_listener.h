// Who hears of a generation that is under way.
#pragma once

#include "absl/status/status.h"
#include "clamor/v1/generation.pb.h"

namespace clamor {

// Hears of a generation, one call at a time, on gRPC's threads.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  virtual void OnStarted(v1::Started started) = 0;
  virtual void OnDelta(v1::Delta delta) = 0;
  virtual void OnFinished(v1::Finished finished) = 0;
  // Exactly once and last; the call may be destroyed from here on. OK only after OnFinished.
  virtual void OnEnded(const absl::Status& status) = 0;
};

}  // namespace clamor
