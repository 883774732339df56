// The decoding loop: many sequences, one ragged batch a step. Read Engine::Step in engine.cc first.
//
//     plan -> draft -> build tree -> forward -> verify -> commit -> stream
//
// Links neither gRPC, protobuf nor RocksDB: tests and the command line run it as it is.
// Threads: Submit, Cancel and Load may be called from any thread; Step and what it calls (sinks, the
// continuation source) belong to one thread at a time. Tested by tests/services/worker/engine*_test.cc and
// tests/equivalence/.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/model.h"
#include "model/spec/continuation_source.h"
#include "model/spec/drafter.h"
#include "model/tokenizer/tokenizer.h"
#include "services/worker/request.h"

namespace clamor {

class KnowledgeFiles;

struct EngineOptions {
  int32_t threads = 1;          // of the forward pass, the calling thread included
  int64_t kv_tokens = 32768;    // room of the key/value cache, shared by all sequences
  int32_t max_sequences = 16;   // running at once
  int32_t max_waiting = 256;    // queued; one more is refused
  int32_t prefill_chunk = 256;  // prompt tokens per step, over all sequences, at most
  // How the cache holds keys and values: it shows in the answers.
  kernels::KvFormat kv_format = kernels::KvFormat::kF32;
  // What SpeculationOptions::kAuto means for requests that leave it: kAuto weighs survival against measured
  // step cost.
  int32_t default_nodes = SpeculationOptions::kAuto;
  // Whose texts in the store are for all requests that want them; empty: nobody's.
  std::string shared_tenant;
  // Unless null, makes the drafter of a request whose nodes are not 0 in place of the built-in ones, for
  // experiments and tests. Its trees must pass DraftTree::CheckIntegrity, hold ids of the vocabulary and at
  // most SpeculationOptions::kMaxNodes guesses.
  std::function<std::unique_ptr<Drafter>(const Request&)> drafter_factory;
  // Where what drafting learns is kept, so that the next engine starts warm; outlives the engine. Null:
  // nowhere. Run alone keeps it.
  KnowledgeFiles* knowledge = nullptr;
  absl::Status Validate() const;  // INVALID_ARGUMENT names field and value
};

// What a step of such an engine may hold.
PassLimits PassLimitsOf(const Model& model, const EngineOptions& options);

// A snapshot for routing and metrics.
struct EngineLoad {
  int32_t running = 0, waiting = 0;
  int64_t kv_pages_used = 0, kv_pages_total = 0;
  int64_t steps = 0;
  absl::Time last_step = absl::InfinitePast();
  // For how long there has been something to do and no step has ended, while the machine let the engine work.
  double stalled_seconds = 0;
  // What the slowest steps of late took, or what one may be expected to take; 0: nobody knows.
  double slow_step_seconds = 0;
};

// What one step did; handed to the observer for metrics.
struct StepReport {
  enum Phase { kPlan, kDraft, kForward, kVerify, kCommit, kPhases };
  double seconds[kPhases] = {};
  int32_t rows = 0, prompt_tokens = 0, emitted_tokens = 0, forwards = 0;  // forwards: sequences that emitted
  int32_t preemptions = 0;    // sequences that gave their pages to others and wait again
  int32_t displacements = 0;  // and those that gave their place to one of high priority
  std::array<int32_t, kSources> drafted{}, accepted{};
  double speculation_ratio = NAN;  // see SpeculationGuard::ratio
};
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void OnStep(const StepReport& report) = 0;  // on the engine's thread; must not block
  virtual void OnAccepted(int32_t tokens) = 0;        // tokens emitted by one sequence in one forward
  // The row of logits that each emitted token was chosen from and the token's absolute position, if
  // WantsLogits says so.
  virtual bool WantsLogits() const { return false; }
  virtual void OnLogits(uint64_t, int64_t, std::span<const float>) {}  // handle, position, logits
  // The tree of one sequence and what of it was right, also beyond a token that ends the answer. Borrowed for
  // the call.
  virtual void OnVerified(const DraftTree&, const Accepted&) {}
};

class Engine {
 public:
  // `model` and, unless null, `tokenizer` (needed for text and stop strings), `source` and `observer` must
  // outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Model* model, const Tokenizer* tokenizer,
                                                        ContinuationSource* source, StepObserver* observer,
                                                        const EngineOptions& options);
  ~Engine();

  // Queues `request`. `sink` must live until its OnFinished; it is not called if this fails: INVALID_ARGUMENT
  // (a field;
  // "[CONTEXT_TOO_LONG]" when prompt and max_tokens exceed the context), RESOURCE_EXHAUSTED "[QUEUE_FULL]",
  // UNAVAILABLE
  // "[DRAINING]" after Drain. Returns a handle for Cancel.
  absl::StatusOr<uint64_t> Submit(Request request, TokenSink* sink);

  // The request ends with `reason` (kCancelled, kSlowConsumer or kDeadline) at the next step and its pages
  // are free then. A handle that has finished is ignored.
  void Cancel(uint64_t handle, FinishReason reason = FinishReason::kCancelled);

  // Ends the requests of a tenant (kTenantDeleted) and forgets what the cache holds of its texts and what
  // drafting learned from them, on disk too; then calls `done`, on the engine's thread. Later requests begin
  // anew.
  void ForgetTenant(std::string tenant, std::function<void()> done);

  // Runs one step. False if there was nothing to do.
  bool Step();

  // Runs Step until `stop` is set, parked while there is nothing to do. On return all requests have been
  // finished as cancelled and what was learned is on its way to `knowledge` (at most five seconds are spent
  // on waiting for its disk). WakeUp makes it look at `stop`.
  void Run(const std::atomic<bool>& stop);
  void WakeUp();

  // From now on Submit refuses; what runs goes on.
  void Drain();

  EngineLoad Load() const;
  // The most tokens that an answer to a prompt of so many may have here; not positive if there is no room.
  int64_t RoomForAnswer(int64_t prompt_tokens) const;
  const EngineOptions& options() const;

 private:
  struct Rep;
  explicit Engine(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace clamor
