// What happened to a request, as spans of a trace: begun here or by a caller, passed on from process to
// process (trace_context.h), recorded where a collector is given, and sent to it in the background
// (otlp_exporter.h).
//
// Whether a trace is recorded is decided once, where it begins: by the caller, else in Begin. What is not
// recorded costs nothing, and the caller's context goes on as it came. A span has what this program made up,
// numbers and names; never a text of a prompt, of an answer, or of an error, which may repeat them.
// Tested by tests/services/tracing/tracer_test.cc and tests/integration/trace_test.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "prometheus/registry.h"
#include "services/security/tls.h"
#include "services/tracing/trace_context.h"

namespace opentelemetry::proto::trace::v1 {
class Span;
}

namespace clamor {

class OtlpExporter;

struct TraceOptions {
  std::string endpoint;  // HOST:PORT of a collector; empty: nothing is recorded
  bool tls = false;      // on the way there, by the authority and certificate of the other ways
  double sample = 1;     // share of the traces begun here that is recorded
};

// One piece of work. One thread at a time; ends with the object at the latest, before its tracer goes.
class Span {
 public:
  enum class Kind { kInternal, kServer, kClient };

  Span();  // of no trace
  Span(Span&& other) noexcept;
  Span& operator=(Span&& other) noexcept;  // ends what was there
  ~Span();

  // What those who are called get, and where children begin: the span, or, if it is not recorded, its parent.
  const TraceContext& context() const { return context_; }

  // `key` is a literal. Nothing happens if the span has ended or is not recorded.
  void Set(const char* key, absl::string_view value);
  void Set(const char* key, int64_t value);
  // Of an error its reason or else its code; never its message.
  void Fail(const absl::Status& status);
  void End(absl::Time at = absl::Now());

 private:
  friend class Tracer;
  TraceContext context_;
  OtlpExporter* exporter_ = nullptr;
  std::unique_ptr<opentelemetry::proto::trace::v1::Span> span_;  // null: not recorded, or ended
};

// Threads: any.
class Tracer {
 public:
  // Of checked options. `process` names the binary; `registry` must outlive this.
  Tracer(const TraceOptions& options, const std::string& process, const TlsOptions& tls,
         prometheus::Registry* registry);
  ~Tracer();

  // A request from outside. One that comes without a trace begins one.
  Span Begin(const char* name, const TraceContext& caller);
  // What a request leads to; without a trace nothing. `name` is a literal.
  Span Continue(const char* name, Span::Kind kind, const TraceContext& parent,
                absl::Time start = absl::Now());

 private:
  const double sample_;
  const std::unique_ptr<OtlpExporter> exporter_;  // null: nothing is recorded
};

// Where in a trace something goes on. Cheap to copy; the tracer outlives it.
struct TracePlace {
  Tracer* tracer = nullptr;  // null: nothing is recorded
  TraceContext context = {};

  Span Start(const char* name, Span::Kind kind = Span::Kind::kInternal, absl::Time at = absl::Now()) const {
    return tracer == nullptr ? Span() : tracer->Continue(name, kind, context, at);
  }
};

}  // namespace clamor
