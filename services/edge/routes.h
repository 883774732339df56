// Which path means what.
//
// Threads: any. Tested by tests/services/edge/edge_test.cc.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/time/time.h"
#include "services/edge/generation_core.h"
#include "services/edge/http_reply.h"

namespace clamor::edge {

struct RouteOptions {
  bool page;
  size_t max_pending_bytes, pad_bytes;
  absl::Time started;  // what models say of their creation
};

// `core` must outlive the handler and its calls.
HttpHandler Routes(GenerationCore* core, const RouteOptions& options);

}  // namespace clamor::edge
