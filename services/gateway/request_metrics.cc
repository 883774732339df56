#include "services/gateway/request_metrics.h"

#include <set>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

prometheus::Histogram& AddHistogram(prometheus::Registry* registry, const char* name, const char* help,
                                    const prometheus::Histogram::BucketBoundaries& buckets) {
  return BuildHistogram().Name(name).Help(help).Register(*registry).Add({}, buckets);
}

const prometheus::Histogram::BucketBoundaries kRequestSeconds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2,
                                                                 5,    10,    20,   30,  60,   120, 300, 600};
const prometheus::Histogram::BucketBoundaries kTokenSeconds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05,
                                                               0.075, 0.1,   0.2,   0.5,  1,    2,    5};

// Labels are bounded: reasons that other servers made up are one.
std::string ReasonLabel(absl::string_view reason) {
  if (reason.empty()) return "NONE";
  return FindErrorReason(reason) != nullptr ? std::string(reason) : "OTHER";
}

// Every series that a rule may ask for is there from the start, at 0: the first failure is then an increase,
// where a series that is born at 1 would hide it from rate().
void AddZeros(GatewayMetrics& metrics) {
  for (const char* method :
       {"Generate", "StreamGenerate", "Chat", "StreamChat", "ChatCompletions", "Completions"}) {
    metrics.requests.Add({{"method", method}, {"outcome", "ok"}, {"reason", "NONE"}});
    metrics.requests.Add({{"method", method}, {"outcome", "cancelled"}, {"reason", "NONE"}});
    for (const ErrorReason& reason : ErrorReasons()) {
      for (const char* outcome : {"failed", "refused"}) {
        metrics.requests.Add(
            {{"method", method}, {"outcome", outcome}, {"reason", std::string(reason.name)}});
      }
    }
  }
  for (const ErrorReason& reason : ErrorReasons()) {
    metrics.rejections.Add({{"reason", std::string(reason.name)}});
  }
  for (Loss loss : {Loss::kDied, Loss::kHung, Loss::kDrained, Loss::kDamaged}) {
    for (const char* outcome : {"moved", "no_worker", "poison_request", "given_up"}) {
      metrics.failovers.Add({{"reason", LossName(loss)}, {"outcome", outcome}});
    }
  }
}

}  // namespace

GatewayMetrics::GatewayMetrics(prometheus::Registry* registry)
    : requests(BuildCounter()
                   .Name("clamor_gateway_requests_total")
                   .Help("Requests that ended")
                   .Register(*registry)),
      rejections(BuildCounter()
                     .Name("clamor_gateway_rejections_total")
                     .Help("Requests that were refused before a worker began")
                     .Register(*registry)),
      worker_up(
          BuildGauge().Name("clamor_gateway_worker_up").Help("1 if the worker is ready").Register(*registry)),
      breaker_open(BuildGauge()
                       .Name("clamor_gateway_breaker_open")
                       .Help("1 if the worker has failed too often of late to get requests")
                       .Register(*registry)),
      queue_depth(BuildGauge()
                      .Name("clamor_gateway_queue_depth")
                      .Help("Requests that wait at the gate")
                      .Register(*registry)),
      time_to_first_token(AddHistogram(registry, "clamor_gateway_time_to_first_token_seconds",
                                       "From a request's arrival to its first tokens", kRequestSeconds)),
      inter_token(AddHistogram(registry, "clamor_gateway_inter_token_seconds",
                               "Between two arrivals of tokens, for each token of the later one",
                               kTokenSeconds)),
      request_seconds(AddHistogram(registry, "clamor_gateway_request_seconds",
                                   "From a generation's arrival to its end", kRequestSeconds)),
      failovers(BuildCounter()
                    .Name("clamor_gateway_failovers_total")
                    .Help("Answers whose worker was lost, by how it was and what became of them")
                    .Register(*registry)),
      failover_pause(AddHistogram(registry, "clamor_gateway_failover_pause_seconds",
                                  "From the last tokens of a worker that was lost to the next ones",
                                  kRequestSeconds)),
      streams_open(BuildGauge()
                       .Name("clamor_gateway_streams_open")
                       .Help("Generations under way")
                       .Register(*registry)
                       .Add({})),
      sessions(BuildGauge()
                   .Name("clamor_gateway_sessions")
                   .Help("Sessions in the store, of all tenants")
                   .Register(*registry)
                   .Add({})) {
  AddZeros(*this);
}

void GatewayMetrics::UpdateWorkers(std::span<const WorkerSnapshot> workers) {
  absl::MutexLock lock(&mu_);
  std::set<std::string> present;
  for (const WorkerSnapshot& worker : workers) {
    present.insert(worker.address);
    auto& [up, breaker] = workers_[worker.address];
    if (up == nullptr) {
      up = &worker_up.Add({{"worker", worker.address}});
      breaker = &breaker_open.Add({{"worker", worker.address}});
    }
    up->Set(worker.state == v1::WORKER_STATE_READY ? 1 : 0);
    breaker->Set(worker.breaker_open ? 1 : 0);
  }
  std::erase_if(workers_, [&](const auto& worker) {
    if (present.contains(worker.first)) return false;
    worker_up.Remove(worker.second.first);
    breaker_open.Remove(worker.second.second);
    return true;
  });
}

void GatewayMetrics::UpdateQueues(const Admission& admission) {
  for (const Rank rank : {Rank::kLow, Rank::kNormal, Rank::kHigh}) {
    queue_depth.Add({{"priority", RankName(rank)}}).Set(static_cast<double>(admission.waiting(rank)));
  }
}

RequestRecord::RequestRecord(GatewayMetrics* metrics, const char* method, const TraceContext& caller)
    : metrics_(metrics), method_(method), arrival_(absl::Now()) {
  if (metrics->tracer != nullptr) span_ = metrics->tracer->Begin(method, caller);
}

// The names are those of OpenTelemetry's conventions for generative AI, where they have one.
void RequestRecord::Prepared(const std::string& model, int64_t prompt_tokens) {
  span_.Set("gen_ai.request.model", model);
  span_.Set("gen_ai.usage.input_tokens", prompt_tokens);
}

void RequestRecord::Admitted() {
  admitted_ = true;
  metrics_->streams_open.Increment();
}

void RequestRecord::Tokens(size_t answer, int64_t tokens) {
  if (tokens == 0) return;
  const absl::Time now = absl::Now();
  if (tokens_ == 0) metrics_->time_to_first_token.Observe(absl::ToDoubleSeconds(now - arrival_));
  if (answer >= last_tokens_.size()) last_tokens_.resize(answer + 1, absl::InfiniteFuture());
  absl::Time& last = last_tokens_[answer];
  if (last <= now) {
    metrics_->inter_token.Observe(absl::ToDoubleSeconds(now - last) / static_cast<double>(tokens));
  }
  tokens_ += tokens;
  last = now;
}

void RequestRecord::End(const absl::Status& status, const std::string& id, const std::string& tenant) {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - arrival_);
  const std::string reason = ReasonLabel(ReasonOf(status));
  const char* outcome = status.ok()                 ? "ok"
                        : absl::IsCancelled(status) ? "cancelled"
                        : admitted_                 ? "failed"
                                                    : "refused";
  metrics_->requests.Add({{"method", method_}, {"outcome", outcome}, {"reason", reason}}).Increment();
  if (!status.ok() && !admitted_) metrics_->rejections.Add({{"reason", reason}}).Increment();
  if (admitted_) {
    metrics_->streams_open.Decrement();
    metrics_->request_seconds.Observe(seconds);
  }
  spdlog::info(
      "event=request method={} id={} tenant={} outcome={} reason={} tokens={} seconds={:.3f} trace={}",
      method_, id, tenant, outcome, reason, tokens_, seconds, span_.context().TraceIdText());
  if (id != "-") span_.Set("clamor.request_id", id);
  if (tokens_ > 0) span_.Set("gen_ai.usage.output_tokens", tokens_);
  if (!status.ok()) span_.Fail(status);
  span_.End();
}

}  // namespace clamor
