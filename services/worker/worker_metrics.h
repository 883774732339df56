// What a worker tells Prometheus. Names and labels are promises: dashboards and alerts hold on to them.
//
// Threads: OnStep and OnAccepted come from the engine's thread, the rest from any.
// Tested by tests/services/worker/worker_service_test.cc.
#pragma once

#include <array>
#include <string>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "services/worker/corpus_writer.h"
#include "services/worker/engine.h"
#include "services/worker/retrieval_drafter.h"

namespace clamor {

class WorkerMetrics final : public StepObserver {
 public:
  // All series carry the label `model`. `registry` must outlive this.
  WorkerMetrics(prometheus::Registry& registry, const std::string& model, const std::string& version);

  void OnStep(const StepReport& report) override;
  void OnAccepted(int32_t tokens) override;
  void OnFinished(const Finished& finished);
  void OnLookup(LookupOutcome outcome, double seconds);
  void OnHedge(Hedge hedge);
  void OnDocument(CorpusOutcome outcome);
  // Before a scrape.
  void SetLoad(const EngineLoad& load);

 private:
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& kv_pages_used_;
  prometheus::Gauge& kv_pages_total_;
  prometheus::Gauge& kv_use_;
  prometheus::Gauge& last_step_;
  prometheus::Gauge& node_budget_;
  prometheus::Gauge& speedup_;
  prometheus::Counter& prefix_queries_;
  prometheus::Counter& prefix_hits_;
  prometheus::Counter& preemptions_;
  prometheus::Counter& displacements_;
  prometheus::Counter& generated_tokens_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& forwards_;
  prometheus::Histogram& step_rows_;
  prometheus::Histogram& accept_length_;
  prometheus::Histogram& queue_seconds_;
  prometheus::Histogram& retrieval_seconds_;
  std::array<prometheus::Histogram*, StepReport::kPhases> phase_seconds_;
  std::array<prometheus::Counter*, kSources> drafted_;   // null for kNone
  std::array<prometheus::Counter*, kSources> accepted_;  // null for kNone
  std::array<prometheus::Counter*, kLookupOutcomes> lookups_;
  std::array<prometheus::Counter*, kHedges> hedges_;
  std::array<prometheus::Counter*, kCorpusOutcomes> documents_;
};

}  // namespace clamor
