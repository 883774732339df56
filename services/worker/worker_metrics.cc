#include "services/worker/worker_metrics.h"

#include <cmath>
#include <initializer_list>
#include <string_view>

#include "absl/time/time.h"
#include "services/faults/faults.h"

namespace clamor {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kStepSeconds = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                              0.025,  0.05,    0.1,    0.25,  0.5,    1,     2.5};
const Buckets kQueueSeconds = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60};
const Buckets kLookupSeconds = {0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05};
const Buckets kRows = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
const Buckets kLengths = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32};

// Makes series that all carry the model's name.
class Series {
 public:
  Series(prometheus::Registry& registry, const std::string& model)
      : registry_(registry), model_{{"model", model}} {}

  prometheus::Gauge& Gauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Labels(model_).Register(registry_).Add({});
  }
  prometheus::Counter& Counter(const char* name, const char* help, prometheus::Labels labels = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(model_).Register(registry_).Add(labels);
  }
  prometheus::Histogram& Histogram(const char* name, const char* help, const Buckets& buckets,
                                   prometheus::Labels labels = {}) {
    return prometheus::BuildHistogram().Name(name).Help(help).Labels(model_).Register(registry_).Add(labels,
                                                                                                     buckets);
  }

 private:
  prometheus::Registry& registry_;
  const prometheus::Labels model_;
};

}  // namespace

WorkerMetrics::WorkerMetrics(prometheus::Registry& registry, const std::string& model,
                             const std::string& version)
    : running_(Series(registry, model).Gauge("clamor_requests_running", "Sequences being decoded")),
      waiting_(Series(registry, model).Gauge("clamor_requests_waiting", "Requests in the queue")),
      kv_pages_used_(
          Series(registry, model).Gauge("clamor_kv_pages_used", "Pages of the key/value cache in use")),
      kv_pages_total_(Series(registry, model).Gauge("clamor_kv_pages_total", "Pages of the key/value cache")),
      kv_use_(
          Series(registry, model)
              .Gauge("clamor_kv_use_ratio", "Pages of the key/value cache in use, of all; for autoscalers")),
      last_step_(Series(registry, model)
                     .Gauge("clamor_last_step_timestamp_seconds", "When the engine last stepped")),
      node_budget_(
          Series(registry, model).Gauge("clamor_node_budget", "Draft nodes per sequence in the last step")),
      speedup_(Series(registry, model)
                   .Gauge("clamor_speculation_speedup_ratio",
                          "Time per token of steps without drafts over that of steps with; NaN until both "
                          "were seen")),
      prefix_queries_(Series(registry, model)
                          .Counter("clamor_prefix_cache_queries_tokens_total",
                                   "Prompt tokens looked up in the prefix cache")),
      prefix_hits_(
          Series(registry, model)
              .Counter("clamor_prefix_cache_hits_tokens_total", "Prompt tokens found in the prefix cache")),
      preemptions_(
          Series(registry, model)
              .Counter("clamor_preemptions_total", "Sequences that lost their pages and waited again")),
      displacements_(
          Series(registry, model)
              .Counter("clamor_displacements_total",
                       "Sequences that lost their place to one of high priority and waited again")),
      generated_tokens_(Series(registry, model).Counter("clamor_generated_tokens_total", "Tokens emitted")),
      prompt_tokens_(Series(registry, model).Counter("clamor_prompt_tokens_total", "Prompt tokens computed")),
      forwards_(
          Series(registry, model)
              .Counter("clamor_forwards_total", "Forward passes that emitted a token, counted per sequence")),
      step_rows_(Series(registry, model).Histogram("clamor_step_rows", "Rows of one forward pass", kRows)),
      accept_length_(Series(registry, model)
                         .Histogram("clamor_accept_length", "Tokens that one sequence emitted in one forward",
                                    kLengths)),
      queue_seconds_(
          Series(registry, model).Histogram("clamor_queue_seconds", "Wait before admission", kQueueSeconds)),
      retrieval_seconds_(
          Series(registry, model)
              .Histogram("clamor_worker_retrieval_seconds", "Lookups in the shared store", kLookupSeconds)) {
  Series series(registry, model);
  constexpr const char* kPhaseNames[StepReport::kPhases] = {"plan", "draft", "forward", "verify", "commit"};
  for (size_t i = 0; i < phase_seconds_.size(); ++i) {
    phase_seconds_[i] = &series.Histogram("clamor_step_phase_seconds", "Time of each phase of a step",
                                          kStepSeconds, {{"phase", kPhaseNames[i]}});
  }
  drafted_.fill(nullptr);
  accepted_.fill(nullptr);
  for (size_t i = 1; i < kSources; ++i) {
    const prometheus::Labels label = {{"source", std::string(SourceName(static_cast<Source>(i)))}};
    drafted_[i] =
        &series.Counter("clamor_draft_nodes_total", "Draft nodes verified, by who proposed them", label);
    accepted_[i] =
        &series.Counter("clamor_accepted_tokens_total", "Draft tokens accepted, by who proposed them", label);
  }
  for (size_t i = 0; i < lookups_.size(); ++i) {
    lookups_[i] = &series.Counter(
        "clamor_worker_retrieval_requests_total", "Lookups and questions not sent, by outcome",
        {{"outcome", std::string(LookupOutcomeName(static_cast<LookupOutcome>(i)))}});
  }
  for (size_t i = 0; i < hedges_.size(); ++i) {
    hedges_[i] = &series.Counter("clamor_worker_retrieval_hedges_total",
                                 "Lookups asked of a follower too: why, and whether its answer counted",
                                 {{"outcome", std::string(HedgeName(static_cast<Hedge>(i)))}});
  }
  for (size_t i = 0; i < documents_.size(); ++i) {
    documents_[i] =
        &series.Counter("clamor_worker_corpus_documents_total", "Finished answers for the shared store",
                        {{"outcome", std::string(CorpusOutcomeName(static_cast<CorpusOutcome>(i)))}});
  }
  prometheus::BuildGauge()
      .Name("clamor_build_info")
      .Help("Always 1")
      .Register(registry)
      .Add({{"model", model}, {"version", version}})
      .Set(1);
  speedup_.Set(NAN);
}

void WorkerMetrics::OnStep(const StepReport& report) {
  for (size_t i = 0; i < phase_seconds_.size(); ++i) phase_seconds_[i]->Observe(report.seconds[i]);
  step_rows_.Observe(report.rows);
  prompt_tokens_.Increment(report.prompt_tokens);
  preemptions_.Increment(report.preemptions);
  displacements_.Increment(report.displacements);
  generated_tokens_.Increment(report.emitted_tokens);
  forwards_.Increment(report.forwards);
  int32_t nodes = 0;
  for (size_t i = 1; i < kSources; ++i) {
    nodes += report.drafted[i];
    if (report.drafted[i] > 0) drafted_[i]->Increment(report.drafted[i]);
    if (report.accepted[i] > 0) accepted_[i]->Increment(report.accepted[i]);
  }
  if (report.forwards > 0) node_budget_.Set(static_cast<double>(nodes) / report.forwards);
  speedup_.Set(report.speculation_ratio);
  faults::Step();
}

void WorkerMetrics::OnAccepted(int32_t tokens) { accept_length_.Observe(tokens); }

void WorkerMetrics::OnFinished(const Finished& finished) {
  queue_seconds_.Observe(finished.stats.queue_seconds);
  prefix_queries_.Increment(finished.usage.prompt_tokens);
  prefix_hits_.Increment(finished.usage.cached_tokens);
}

void WorkerMetrics::OnLookup(LookupOutcome outcome, double seconds) {
  lookups_[static_cast<size_t>(outcome)]->Increment();
  if (outcome != LookupOutcome::kBreakerOpen && outcome != LookupOutcome::kDropped)
    retrieval_seconds_.Observe(seconds);
}

void WorkerMetrics::OnHedge(Hedge hedge) { hedges_[static_cast<size_t>(hedge)]->Increment(); }

void WorkerMetrics::OnDocument(CorpusOutcome outcome) {
  documents_[static_cast<size_t>(outcome)]->Increment();
}

void WorkerMetrics::SetLoad(const EngineLoad& load) {
  running_.Set(load.running);
  waiting_.Set(load.waiting);
  kv_pages_used_.Set(static_cast<double>(load.kv_pages_used));
  kv_pages_total_.Set(static_cast<double>(load.kv_pages_total));
  if (load.kv_pages_total > 0) {
    kv_use_.Set(static_cast<double>(load.kv_pages_used) / static_cast<double>(load.kv_pages_total));
  }
  if (load.last_step > absl::InfinitePast())
    last_step_.Set(absl::ToDoubleSeconds(load.last_step - absl::UnixEpoch()));
}

}  // namespace clamor
