// A loaded worker: its parts in the order in which they need each other, and the engine's thread.
//
// Threads: all methods may be called from any thread.
// Tested by tests/services/worker/worker_service_test.cc.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "clamor/v1/model.pb.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "services/security/tls.h"
#include "services/tracing/tracer.h"
#include "services/worker/corpus_writer.h"
#include "services/worker/engine.h"
#include "services/worker/knowledge_files.h"
#include "services/worker/loaded_model.h"
#include "services/worker/retrieval_shards.h"
#include "services/worker/worker_metrics.h"

namespace clamor {

struct WorkerOptions {
  ModelOptions model;
  std::string name;                       // that clients know the model by; empty: ModelName of the directory
  std::vector<RetrievalShard> retrieval;  // servers of the shared store, none: there is no store
  TlsOptions tls;                         // of the way there
  absl::Duration lookup_timeout = absl::Milliseconds(20);
  bool store = true;         // append finished answers to the store
  Tracer* tracer = nullptr;  // outlives the worker; null: it records nothing
  std::string state;         // folder for what should survive a restart, empty: nothing does
  // kv_tokens 0: room for one whole context, at least 32768; on a GPU as much as fits and can be used.
  // Threads and kv_format are the model's.
  EngineOptions engine{.kv_tokens = 0, .default_nodes = SpeculationOptions::kAuto};
};

class Worker {
 public:
  // Loads the model, logging how far it is, measures the machine and starts the engine. `metrics` must
  // outlive the worker.
  static absl::StatusOr<std::unique_ptr<Worker>> Load(const WorkerOptions& options, WorkerMetrics* metrics);
  // Ends what still runs as cancelled, gives what was learned five seconds to reach the state folder and the
  // corpus writer two to empty its queue.
  ~Worker();

  const LoadedModel& model() const { return model_; }
  const v1::ModelInfo& info() const { return info_; }
  Engine& engine() { return *engine_; }
  // Of the server that keeps the tenant's documents; null where nothing is stored.
  CorpusWriter* corpus(std::string_view tenant);
  // Of each server of the shared store.
  std::span<const std::unique_ptr<v1::RetrievalService::Stub>> stores() { return stores_; }
  WorkerMetrics& metrics() { return *metrics_; }
  Tracer* tracer() { return tracer_; }  // may be null

 private:
  Worker(LoadedModel model, v1::ModelInfo info, WorkerMetrics* metrics, Tracer* tracer);
  void ConnectStore(const WorkerOptions& options);

  const LoadedModel model_;
  const v1::ModelInfo info_;
  WorkerMetrics* const metrics_;
  Tracer* const tracer_;
  std::unique_ptr<ContinuationSource> drafter_;  // null without a store
  std::vector<std::unique_ptr<v1::RetrievalService::Stub>> stores_;
  std::vector<std::unique_ptr<CorpusWriter>> corpora_;  // as stores_, or none
  std::unique_ptr<KnowledgeFiles> knowledge_;           // null without a state folder
  std::unique_ptr<Engine> engine_;
  std::atomic<bool> stop_ = false;
  std::thread engine_thread_;
};

}  // namespace clamor
