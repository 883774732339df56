// What is told of a request to this worker when it has ended: a line in the log and, if its caller records,
// spans. They are made from what the engine has measured anyway, so that its steps know nothing of them.
//
//     StreamGenerate   from the request's arrival to its end; within it
//       queue          until the engine took it
//       prefill        until its first step was done
//       decode         from then on
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/tracing/tracer.h"
#include "services/worker/request.h"

namespace clamor {

struct RequestTrace {
  TracePlace caller;
  std::string id;
  absl::Time arrival = absl::Now();

  // The place of the request, for what follows from it. On the engine's thread: nothing waits.
  TracePlace Ended(const Finished& finished) const;
  void Refused(const absl::Status& status) const;
};

}  // namespace clamor
