// Sends finished spans to a collector by OTLP over gRPC, in the background and in batches.
//
// Add never waits. What the queue has no room for is dropped, and so is a batch that the collector does not
// take within a few tries; clamor_trace_spans_total{outcome} counts both. Threads: any.
// Tested by tests/services/tracing/tracer_test.cc.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/credentials.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.grpc.pb.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/registry.h"

namespace clamor {

struct OtlpOptions {
  std::string endpoint;                              // HOST:PORT
  std::string process;                               // name of the binary: service.name
  size_t max_queued = 8192;                          // spans, about half a kilobyte each
  size_t batch = 512;                                // spans of one call
  absl::Duration every = absl::Seconds(1);           // at the latest
  absl::Duration timeout = absl::Seconds(5);         // of one call
  int tries = 4;                                     // of one batch
  absl::Duration backoff = absl::Milliseconds(250);  // before the second try; then twice as long each time
  absl::Duration farewell = absl::Seconds(2);        // for what is queued when the exporter goes
};

class OtlpExporter {
 public:
  using Span = opentelemetry::proto::trace::v1::Span;

  OtlpExporter(const OtlpOptions& options, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
               prometheus::Registry* registry);  // which must outlive this
  // Sends what is queued, for at most `farewell`.
  ~OtlpExporter();

  void Add(Span span);

 private:
  using Request = opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
  using Service = opentelemetry::proto::collector::trace::v1::TraceService;

  OtlpExporter(const OtlpOptions& options, std::unique_ptr<Service::Stub> stub,
               prometheus::Family<prometheus::Counter>& spans);
  void Loop();
  bool IsDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stopping_ || queue_.size() >= options_.batch;
  }
  void Send(std::vector<Span> spans);
  grpc::Status Export(const Request& request, int64_t* rejected);

  const OtlpOptions options_;
  const std::unique_ptr<Service::Stub> stub_;
  prometheus::Counter &exported_, &dropped_, &failed_;

  absl::Mutex mu_;
  std::vector<Span> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time end_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();  // of all tries, once stopping
  grpc::ClientContext* under_way_ ABSL_GUARDED_BY(mu_) = nullptr;

  std::thread thread_;
};

}  // namespace clamor
