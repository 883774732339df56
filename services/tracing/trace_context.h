// Where a piece of work stands in a trace, as it crosses the network: W3C Trace Context, levels 1 and 2
// (https://www.w3.org/TR/trace-context), as `traceparent` and `tracestate` in headers of HTTP and metadata of
// gRPC.
//
// Tested by tests/services/tracing/trace_context_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"

namespace clamor {

struct TraceContext {
  std::array<uint8_t, 16> trace_id = {};  // zeros: there is no trace
  std::array<uint8_t, 8> span_id = {};    // of the caller
  bool sampled = false;                   // whether the caller records what it does
  std::string state = {};                 // of other systems, passed on as it came; at most 512 bytes

  bool valid() const { return trace_id != std::array<uint8_t, 16>{}; }
  std::string TraceIdText() const;  // 32 hexadecimal digits; "-" if there is none, for logs
  std::string Traceparent() const;  // of a valid one
};

// None if `traceparent` is not as the standard says; a `tracestate` that is too long, or has other
// characters than printable ASCII, is dropped.
std::optional<TraceContext> ParseTraceContext(absl::string_view traceparent, absl::string_view tracestate);

// What a call brings; not valid if it brings none, or several.
TraceContext TraceContextOf(const grpc::ServerContextBase& call);

// Sends it with a call that has not begun; nothing if it is not valid.
void AddTraceContext(const TraceContext& trace, grpc::ClientContext* call);

}  // namespace clamor
