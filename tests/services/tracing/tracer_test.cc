// Spans and their way to a collector, which is one of the test's own.
#include "services/tracing/tracer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "grpcpp/server_builder.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.grpc.pb.h"
#include "prometheus/text_serializer.h"
#include "services/tracing/otlp_exporter.h"

namespace clamor {
namespace {

namespace otlp = opentelemetry::proto;
using ::testing::HasSubstr;
using ::testing::Not;

class Collector final : public otlp::collector::trace::v1::TraceService::Service {
 public:
  Collector() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~Collector() override { server_->Shutdown(std::chrono::system_clock::now()); }
  const std::string& address() const { return address_; }

  // What the next calls get, one each; then they are taken.
  void Refuse(std::vector<grpc::Status> answers) {
    absl::MutexLock lock(&mu_);
    refusals_ = std::move(answers);
  }
  void Reject(int64_t spans) {
    absl::MutexLock lock(&mu_);
    rejected_ = spans;
  }
  // Calls wait from now on, until they are cancelled.
  void Hang() { hangs_ = true; }
  int calls() const {
    absl::MutexLock lock(&mu_);
    return calls_;
  }
  // Of all calls that were taken, by name.
  std::map<std::string, otlp::trace::v1::Span> spans() const {
    absl::MutexLock lock(&mu_);
    std::map<std::string, otlp::trace::v1::Span> spans;
    for (const auto& request : taken_) {
      for (const auto& span : request.resource_spans(0).scope_spans(0).spans()) spans[span.name()] = span;
    }
    return spans;
  }
  std::vector<otlp::collector::trace::v1::ExportTraceServiceRequest> taken() const {
    absl::MutexLock lock(&mu_);
    return taken_;
  }

 private:
  grpc::Status Export(grpc::ServerContext* context,
                      const otlp::collector::trace::v1::ExportTraceServiceRequest* request,
                      otlp::collector::trace::v1::ExportTraceServiceResponse* response) override {
    while (hangs_ && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    absl::MutexLock lock(&mu_);
    ++calls_;
    if (!refusals_.empty()) {
      const grpc::Status status = refusals_.front();
      refusals_.erase(refusals_.begin());
      return status;
    }
    response->mutable_partial_success()->set_rejected_spans(rejected_);
    taken_.push_back(*request);
    return grpc::Status::OK;
  }

  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<bool> hangs_ = false;
  mutable absl::Mutex mu_;
  std::vector<grpc::Status> refusals_ ABSL_GUARDED_BY(mu_);
  int64_t rejected_ ABSL_GUARDED_BY(mu_) = 0;
  int calls_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<otlp::collector::trace::v1::ExportTraceServiceRequest> taken_ ABSL_GUARDED_BY(mu_);
};

std::string ValueOf(const otlp::trace::v1::Span& span, const std::string& key) {
  for (const auto& attribute : span.attributes()) {
    if (attribute.key() != key) continue;
    return attribute.value().has_string_value() ? attribute.value().string_value()
                                                : std::to_string(attribute.value().int_value());
  }
  return "none";
}

TraceContext Caller(bool sampled) {
  return *ParseTraceContext(
      absl::StrCat("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", sampled ? "1" : "0"), "v=1");
}

class TracerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Tracer> MakeTracer(double sample = 1) {
    return std::make_unique<Tracer>(TraceOptions{.endpoint = collector_.address(), .sample = sample}, "test",
                                    TlsOptions(), &registry_);
  }
  std::unique_ptr<OtlpExporter> MakeExporter(OtlpOptions options) {
    options.endpoint = collector_.address();
    options.process = "test";
    return std::make_unique<OtlpExporter>(options, grpc::InsecureChannelCredentials(), &registry_);
  }
  static OtlpExporter::Span Named(const std::string& name) {
    OtlpExporter::Span span;
    span.set_name(name);
    return span;
  }
  std::string Count(const std::string& outcome) const {
    const std::string text = prometheus::TextSerializer().Serialize(registry_.Collect());
    const std::string series = "clamor_trace_spans_total{outcome=\"" + outcome + "\"} ";
    const size_t at = text.find(series);
    return at == text.npos ? "none"
                           : text.substr(at + series.size(), text.find('\n', at) - at - series.size());
  }

  bool Becomes(const std::string& outcome, const std::string& count) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (Count(outcome) != count && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    return Count(outcome) == count;
  }

  prometheus::Registry registry_;
  Collector collector_;
};

TEST_F(TracerTest, SpansKnowTheirParents) {
  auto tracer = MakeTracer();
  const absl::Time before = absl::Now();
  {
    Span request = tracer->Begin("request", {});
    request.Set("words", "three small words");
    request.Set("number", 12);
    EXPECT_TRUE(request.context().sampled);
    const TracePlace place = {tracer.get(), request.context()};
    Span child = place.Start("child", Span::Kind::kClient);
    EXPECT_EQ(child.context().trace_id, request.context().trace_id);
    EXPECT_NE(child.context().span_id, request.context().span_id);
    child.Fail(absl::InvalidArgumentError("[INVALID_FIELD] stop[0]: a text of the client's"));
    place.Start("past", Span::Kind::kInternal, before - absl::Seconds(3)).End(before - absl::Seconds(1));
    place.Start("backwards", Span::Kind::kInternal, before).End(before - absl::Seconds(1));
  }
  tracer.reset();  // sends what is there
  const auto spans = collector_.spans();
  ASSERT_EQ(spans.size(), 4u);
  const auto &request = spans.at("request"), &child = spans.at("child"), &past = spans.at("past");
  EXPECT_EQ(request.trace_id().size(), 16u);
  EXPECT_EQ(request.span_id().size(), 8u);
  EXPECT_EQ(request.parent_span_id(), "");
  EXPECT_EQ(request.kind(), otlp::trace::v1::Span::SPAN_KIND_SERVER);
  EXPECT_EQ(request.status().code(), otlp::trace::v1::Status::STATUS_CODE_UNSET);
  EXPECT_GE(request.end_time_unix_nano(), request.start_time_unix_nano());
  EXPECT_GE(request.start_time_unix_nano(), static_cast<uint64_t>(absl::ToUnixNanos(before)));
  EXPECT_EQ(ValueOf(request, "words"), "three small words");
  EXPECT_EQ(ValueOf(request, "number"), "12");
  EXPECT_EQ(child.trace_id(), request.trace_id());
  EXPECT_EQ(child.parent_span_id(), request.span_id());
  EXPECT_EQ(child.kind(), otlp::trace::v1::Span::SPAN_KIND_CLIENT);
  EXPECT_EQ(child.status().code(), otlp::trace::v1::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(ValueOf(child, "error.type"), "INVALID_FIELD");
  EXPECT_THAT(child.SerializeAsString(), Not(HasSubstr("client's")));
  EXPECT_EQ(past.end_time_unix_nano() - past.start_time_unix_nano(), 2'000'000'000u);
  EXPECT_EQ(spans.at("backwards").end_time_unix_nano(), spans.at("backwards").start_time_unix_nano());
  EXPECT_EQ(Count("exported"), "4");

  const auto taken = collector_.taken();
  const auto& resource = taken.at(0).resource_spans(0).resource();
  EXPECT_EQ(resource.attributes(0).key(), "service.name");
  EXPECT_EQ(resource.attributes(0).value().string_value(), "test");
}

TEST_F(TracerTest, TheCallerDecides) {
  auto tracer = MakeTracer(/*sample=*/0);
  {
    Span recorded = tracer->Begin("recorded", Caller(true));
    EXPECT_NE(recorded.context().span_id, Caller(true).span_id);
    EXPECT_EQ(recorded.context().state, "v=1");
    Span passed = tracer->Begin("passed", Caller(false));
    EXPECT_EQ(passed.context().Traceparent(), Caller(false).Traceparent());
    Span begun = tracer->Begin("begun", {});  // nobody decided: here it is 0
    EXPECT_TRUE(begun.context().valid());
    EXPECT_FALSE(begun.context().sampled);
    EXPECT_TRUE(ParseTraceContext(begun.context().Traceparent(), "").has_value());
    Span nothing = tracer->Continue("nothing", Span::Kind::kServer, {});
    EXPECT_FALSE(nothing.context().valid());
  }
  tracer.reset();
  const auto spans = collector_.spans();
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans.at("recorded").trace_state(), "v=1");
  const TraceContext caller = Caller(true);
  EXPECT_EQ(spans.at("recorded").parent_span_id(), std::string(caller.span_id.begin(), caller.span_id.end()));
}

TEST_F(TracerTest, WithoutACollectorContextsArePassedOn) {
  Tracer tracer({}, "test", {}, &registry_);
  EXPECT_EQ(tracer.Begin("request", Caller(true)).context().Traceparent(), Caller(true).Traceparent());
  const Span begun = tracer.Begin("request", {});
  EXPECT_TRUE(begun.context().valid());
  EXPECT_FALSE(begun.context().sampled);
  const TracePlace nowhere;
  EXPECT_FALSE(nowhere.Start("child").context().valid());
  EXPECT_EQ(Count("exported"), "none");
}

TEST_F(TracerTest, AShareIsSampled) {
  auto tracer = MakeTracer(/*sample=*/0.25);
  int sampled = 0;
  for (int i = 0; i < 4000; ++i) sampled += tracer->Begin("request", {}).context().sampled ? 1 : 0;
  EXPECT_GT(sampled, 800);  // seven standard deviations from 1000
  EXPECT_LT(sampled, 1200);
}

TEST_F(TracerTest, WhatDoesNotFitIsDroppedAndCounted) {
  auto exporter = MakeExporter({.max_queued = 10, .batch = 4, .every = absl::InfiniteDuration()});
  collector_.Hang();  // the first batch is on its way for ever
  for (int i = 0; i < 4; ++i) exporter->Add(Named("first"));
  for (int i = 0; i < 100; ++i) exporter->Add(Named("more"));  // never waits
  // Of 104 up to ten are on their way, and ten wait.
  EXPECT_GE(std::stoi(Count("dropped")), 84);
  EXPECT_LE(std::stoi(Count("dropped")), 94);
}

TEST_F(TracerTest, BatchesAreBounded) {
  auto exporter = MakeExporter({.batch = 4, .every = absl::InfiniteDuration()});
  for (int i = 0; i < 10; ++i) exporter->Add(Named("span"));
  exporter.reset();
  size_t spans = 0;
  for (const auto& request : collector_.taken()) {
    const int size = request.resource_spans(0).scope_spans(0).spans_size();
    EXPECT_LE(size, 4);
    spans += static_cast<size_t>(size);
  }
  EXPECT_EQ(spans, 10u);
  EXPECT_EQ(Count("exported"), "10");
  EXPECT_EQ(Count("dropped"), "0");
}

TEST_F(TracerTest, WhatMayPassIsTriedAgain) {
  collector_.Refuse({grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting"),
                     grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "busy")});
  auto exporter = MakeExporter({.every = absl::Milliseconds(1), .backoff = absl::Milliseconds(1)});
  exporter->Add(Named("span"));
  ASSERT_TRUE(Becomes("exported", "1"));
  EXPECT_EQ(collector_.calls(), 3);
  collector_.Refuse({grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "never")});
  exporter->Add(Named("wrong"));
  ASSERT_TRUE(Becomes("failed", "1"));
  EXPECT_EQ(collector_.calls(), 4);
  collector_.Reject(1);
  exporter->Add(Named("rejected"));
  ASSERT_TRUE(Becomes("failed", "2"));
  EXPECT_EQ(Count("exported"), "1");
}

TEST_F(TracerTest, ACollectorThatHangsHoldsNobodyUp) {
  collector_.Hang();
  auto exporter = MakeExporter({.every = absl::Milliseconds(1), .farewell = absl::Milliseconds(50)});
  exporter->Add(Named("span"));
  exporter.reset();  // returns
  EXPECT_EQ(Count("failed"), "1");
}

}  // namespace
}  // namespace clamor
