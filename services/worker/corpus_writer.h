// Finished answers on their way to the shared store.
//
// Add never waits: documents queue up to a bound, a background thread appends them in batches and tries
// again, with backoff, while the service is down. What does not fit the queue is dropped and counted: the
// store only makes later answers faster.
//
// Threads: all methods may be called from any thread.
// Tested by tests/services/worker/corpus_writer_test.cc.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "grpcpp/channel.h"
#include "services/tracing/tracer.h"

namespace clamor {

// The name under which tokens are stored, a hash of them: storing the same text twice stores it once.
std::string DocumentId(std::span<const int32_t> tokens);

struct CorpusWriterOptions {
  std::string tokenizer_fingerprint;
  size_t max_queued_documents = 256;
  size_t max_queued_tokens = 1 << 20;
  int batch_documents = 32;
  absl::Duration timeout = absl::Seconds(5);  // of one Append
  absl::Duration min_backoff = absl::Milliseconds(250);
  absl::Duration max_backoff = absl::Seconds(4);
};

// What became of a document: label `outcome` of clamor_worker_corpus_documents_total.
enum class CorpusOutcome : uint8_t { kStored, kUnchanged, kRefused, kDropped };
inline constexpr size_t kCorpusOutcomes = 4;
std::string_view CorpusOutcomeName(CorpusOutcome outcome);  // "stored", "unchanged", "refused", "dropped"

class CorpusWriter {
 public:
  using Observer = std::function<void(CorpusOutcome outcome)>;  // once per document, from any thread

  CorpusWriter(const std::shared_ptr<grpc::ChannelInterface>& channel, const CorpusWriterOptions& options,
               Observer observer);
  // Drops what is still queued.
  ~CorpusWriter();

  // `trace` is of the request that the tokens come from: each document has a span of its way into the store.
  void Add(const std::string& tenant, std::vector<int32_t> tokens, const TracePlace& trace = {});

  // What a tenant has added until now is dropped, or, where it is on its way already, stored before `then` is
  // called: soon, on the writer's thread, or at once if nothing is on its way.
  void Forget(const std::string& tenant, std::function<void()> then);

  // Waits until all that was added is stored or given up, at most until `deadline`; false if something is
  // left.
  bool Flush(absl::Time deadline);

 private:
  struct Entry {
    std::string tenant;
    std::vector<int32_t> tokens;
    TracePlace trace;
  };

  void Loop();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !queue_.empty(); }
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return queue_.empty() && !busy_; }
  std::vector<Entry> TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Until it is settled or the writer stops.
  void Write(std::span<const Entry> batch);
  grpc::Status Append(std::span<const Entry> batch);
  void Observe(CorpusOutcome outcome) const;
  void EndBatch() ABSL_LOCKS_EXCLUDED(mu_);

  const CorpusWriterOptions options_;
  const Observer observer_;
  const std::unique_ptr<v1::RetrievalService::Stub> stub_;

  absl::Mutex mu_;
  std::deque<Entry> queue_ ABSL_GUARDED_BY(mu_);
  size_t queued_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::function<void()>> after_batch_ ABSL_GUARDED_BY(mu_);
  bool busy_ ABSL_GUARDED_BY(mu_) = false;  // a batch is out of the queue and not settled
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* under_way_ ABSL_GUARDED_BY(mu_) = nullptr;

  std::thread thread_;
};

}  // namespace clamor
