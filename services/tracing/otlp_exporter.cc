#include "services/tracing/otlp_exporter.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "services/log.h"

namespace clamor {
namespace {

namespace otlp = opentelemetry::proto;

void AddAttribute(const char* key, const std::string& value, otlp::resource::v1::Resource* resource) {
  auto* attribute = resource->add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_string_value(value);
}

// Several processes of a name are told apart.
std::string InstanceId() {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(host, ":", getpid());
}

// As OTLP's specification lists them.
bool WorthRepeating(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DATA_LOSS:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return true;
    default:
      return false;
  }
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& endpoint,
                                          const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // as for workers: we ask again ourselves
  return grpc::CreateCustomChannel(endpoint, credentials, arguments);
}

}  // namespace

OtlpExporter::OtlpExporter(const OtlpOptions& options,
                           const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                           prometheus::Registry* registry)
    : OtlpExporter(options, Service::NewStub(NewChannel(options.endpoint, credentials)),
                   prometheus::BuildCounter()
                       .Name("clamor_trace_spans_total")
                       .Help("Spans of traces, by what became of them on their way to the collector")
                       .Register(*registry)) {}

OtlpExporter::OtlpExporter(const OtlpOptions& options, std::unique_ptr<Service::Stub> stub,
                           prometheus::Family<prometheus::Counter>& spans)
    : options_(options),
      stub_(std::move(stub)),
      exported_(spans.Add({{"outcome", "exported"}})),
      dropped_(spans.Add({{"outcome", "dropped"}})),
      failed_(spans.Add({{"outcome", "failed"}})),
      thread_([this] { Loop(); }) {}

OtlpExporter::~OtlpExporter() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    end_ = absl::Now() + options_.farewell;
    if (under_way_ != nullptr) under_way_->TryCancel();  // it is tried again, with the deadline that is left
  }
  thread_.join();
}

void OtlpExporter::Add(Span span) {
  {
    absl::MutexLock lock(&mu_);
    if (queue_.size() < options_.max_queued) {
      queue_.push_back(std::move(span));
      return;
    }
  }
  dropped_.Increment();
}

void OtlpExporter::Loop() {
  bool last = false;
  while (!last) {
    std::vector<Span> spans;
    {
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(this, &OtlpExporter::IsDue), options_.every);
      spans.swap(queue_);
      last = stopping_;
    }
    if (!spans.empty()) Send(std::move(spans));
  }
}

void OtlpExporter::Send(std::vector<Span> spans) {
  for (size_t begin = 0; begin < spans.size(); begin += options_.batch) {
    const size_t end = std::min(begin + options_.batch, spans.size());
    Request request;
    auto* of_process = request.add_resource_spans();
    AddAttribute("service.name", options_.process, of_process->mutable_resource());
    AddAttribute("service.version", CLAMOR_VERSION, of_process->mutable_resource());
    AddAttribute("service.instance.id", InstanceId(), of_process->mutable_resource());
    auto* of_scope = of_process->add_scope_spans();
    of_scope->mutable_scope()->set_name("clamor");
    of_scope->mutable_scope()->set_version(CLAMOR_VERSION);
    for (size_t i = begin; i < end; ++i) *of_scope->add_spans() = std::move(spans[i]);
    int64_t rejected = 0;
    const grpc::Status status = Export(request, &rejected);
    const auto all = static_cast<int64_t>(end - begin);
    rejected = status.ok() ? std::clamp<int64_t>(rejected, 0, all) : all;
    exported_.Increment(static_cast<double>(all - rejected));
    failed_.Increment(static_cast<double>(rejected));
    if (rejected == 0) continue;
    spdlog::warn("event=spans_not_taken endpoint={} spans={} code={} error={}", Quoted(options_.endpoint),
                 rejected, static_cast<int>(status.error_code()), Quoted(status.error_message()));
  }
}

grpc::Status OtlpExporter::Export(const Request& request, int64_t* rejected) {
  absl::Duration backoff = options_.backoff;
  for (int i = 1;; ++i, backoff *= 2) {
    grpc::ClientContext context;
    {
      absl::MutexLock lock(&mu_);
      context.set_deadline(absl::ToChronoTime(std::min(absl::Now() + options_.timeout, end_)));
      under_way_ = &context;
    }
    opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse response;
    const grpc::Status status = stub_->Export(&context, request, &response);
    *rejected = response.partial_success().rejected_spans();
    absl::MutexLock lock(&mu_);
    under_way_ = nullptr;
    if (status.ok() || !WorthRepeating(status) || i >= options_.tries) return status;
    mu_.AwaitWithTimeout(absl::Condition(&stopping_), backoff);
    if (absl::Now() >= end_) return status;
  }
}

}  // namespace clamor
