#include "services/tracing/tracer.h"

#include <algorithm>
#include <random>
#include <utility>

#include "opentelemetry/proto/trace/v1/trace.pb.h"
#include "services/rpc_error.h"
#include "services/tracing/otlp_exporter.h"

namespace clamor {
namespace {

namespace otlp = opentelemetry::proto;

// Of ids: unlikely to repeat is all that they must be.
uint64_t Random64() {
  thread_local std::mt19937_64 generator([] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }());
  return generator();
}

template <size_t N>
void Fill(std::array<uint8_t, N>* id) {
  for (size_t i = 0; i < N; i += 8) {
    uint64_t bits = 0;
    while (bits == 0) bits = Random64();
    for (size_t j = 0; j < 8; ++j) (*id)[i + j] = static_cast<uint8_t>(bits >> (8 * j));
  }
}

template <size_t N>
std::string Bytes(const std::array<uint8_t, N>& id) {
  return {id.begin(), id.end()};
}

otlp::trace::v1::Span::SpanKind ToProto(Span::Kind kind) {
  switch (kind) {
    case Span::Kind::kInternal:
      return otlp::trace::v1::Span::SPAN_KIND_INTERNAL;
    case Span::Kind::kServer:
      return otlp::trace::v1::Span::SPAN_KIND_SERVER;
    case Span::Kind::kClient:
      return otlp::trace::v1::Span::SPAN_KIND_CLIENT;
  }
  return otlp::trace::v1::Span::SPAN_KIND_UNSPECIFIED;
}

uint64_t Nanoseconds(absl::Time time) { return static_cast<uint64_t>(absl::ToUnixNanos(time)); }

std::unique_ptr<OtlpExporter> MakeExporter(const TraceOptions& options, const std::string& process,
                                           const TlsOptions& tls, prometheus::Registry* registry) {
  if (options.endpoint.empty()) return nullptr;
  return std::make_unique<OtlpExporter>(OtlpOptions{.endpoint = options.endpoint, .process = process},
                                        ChannelCredentialsOf(options.tls ? tls : TlsOptions()), registry);
}

}  // namespace

Span::Span() = default;

Span::Span(Span&& other) noexcept
    : context_(std::move(other.context_)), exporter_(other.exporter_), span_(std::move(other.span_)) {}

Span& Span::operator=(Span&& other) noexcept {
  End();
  context_ = std::move(other.context_);
  exporter_ = other.exporter_;
  span_ = std::move(other.span_);
  return *this;
}

Span::~Span() { End(); }

void Span::Set(const char* key, absl::string_view value) {
  if (span_ == nullptr) return;
  auto* attribute = span_->add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_string_value(value.data(), value.size());
}

void Span::Set(const char* key, int64_t value) {
  if (span_ == nullptr) return;
  auto* attribute = span_->add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_int_value(value);
}

void Span::Fail(const absl::Status& status) {
  if (span_ == nullptr) return;
  // Reasons that other servers made up may be of any kind.
  const ErrorReason* const reason = FindErrorReason(ReasonOf(status));
  const std::string type =
      reason != nullptr ? std::string(reason->name) : absl::StatusCodeToString(status.code());
  Set("error.type", type);
  span_->mutable_status()->set_code(otlp::trace::v1::Status::STATUS_CODE_ERROR);
  span_->mutable_status()->set_message(type);
}

void Span::End(absl::Time at) {
  if (span_ == nullptr) return;
  span_->set_end_time_unix_nano(std::max(Nanoseconds(at), span_->start_time_unix_nano()));
  exporter_->Add(std::move(*span_));
  span_.reset();
}

Tracer::Tracer(const TraceOptions& options, const std::string& process, const TlsOptions& tls,
               prometheus::Registry* registry)
    : sample_(options.sample), exporter_(MakeExporter(options, process, tls, registry)) {}

Tracer::~Tracer() = default;

Span Tracer::Begin(const char* name, const TraceContext& caller) {
  if (caller.valid()) return Continue(name, Span::Kind::kServer, caller);
  TraceContext begun;
  Fill(&begun.trace_id);
  const double chance = static_cast<double>(Random64() >> 11) * 0x1p-53;
  begun.sampled = exporter_ != nullptr && chance < sample_;
  Span span = Continue(name, Span::Kind::kServer, begun);
  if (span.span_ == nullptr) Fill(&span.context_.span_id);  // nobody's, but there must be one
  return span;
}

Span Tracer::Continue(const char* name, Span::Kind kind, const TraceContext& parent, absl::Time start) {
  Span span;
  span.context_ = parent;
  if (exporter_ == nullptr || !parent.valid() || !parent.sampled) return span;
  Fill(&span.context_.span_id);
  span.exporter_ = exporter_.get();
  span.span_ = std::make_unique<OtlpExporter::Span>();
  span.span_->set_trace_id(Bytes(parent.trace_id));
  span.span_->set_span_id(Bytes(span.context_.span_id));
  if (parent.span_id != TraceContext().span_id) span.span_->set_parent_span_id(Bytes(parent.span_id));
  span.span_->set_trace_state(parent.state);
  span.span_->set_flags(1);
  span.span_->set_name(name);
  span.span_->set_kind(ToProto(kind));
  span.span_->set_start_time_unix_nano(Nanoseconds(start));
  return span;
}

}  // namespace clamor
