// The engine's state, for engine.cc (the step) and engine_queue.cc (who gets in, who leaves). Nothing else
// includes it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/call_once.h"
#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "model/grammar/token_trie.h"
#include "model/spec/sampler.h"
#include "services/worker/engine.h"
#include "services/worker/knowledge_pool.h"
#include "services/worker/scheduler.h"
#include "services/worker/sequence.h"
#include "services/worker/speculation_guard.h"
#include "services/worker/step_cost.h"

namespace clamor {

using SteadyTime = std::chrono::steady_clock::time_point;

struct Engine::Rep {
  Rep(const Model* model, const Tokenizer* tokenizer, ContinuationSource* source, StepObserver* observer,
      const EngineOptions& options)
      : model(model),
        tokenizer(tokenizer),
        source(source),
        observer(observer),
        options(options),
        pool(options.threads),
        cache(model->config(), KvCache::PagesFor(options.kv_tokens), options.kv_format),
        knowledge(options.knowledge) {}

  // Constant after construction.
  const Model* const model;
  const Tokenizer* const tokenizer;
  ContinuationSource* const source;
  StepObserver* const observer;
  const EngineOptions options;

  // The engine thread's own.
  kernels::ThreadPool pool;
  KvCache cache;
  std::unique_ptr<ForwardPass> pass;
  KnowledgePool knowledge;
  StepCost cost;
  SpeculationGuard guard;
  int32_t budgeted = 0;        // sequences of the step whose nodes the budget chose
  bool asked = false;          // the store, since the last draft
  int64_t waits = 0;           // steps that had asked
  int32_t waits_in_vain = 0;   // in a row
  double forward_seconds = 0;  // of the last step
  int32_t decoded_rows = 0;    // of the last step: roots and guesses
  int32_t plain_steps = 0;     // since automatic trees last had a node
  int32_t hurried = 0;         // steps since others than prompts of high priority were last seen to
  Sampler sampler;
  std::vector<std::unique_ptr<Sequence>> running;  // by priority, then oldest first
  std::vector<int64_t> unread;
  std::vector<StepShare> plan;
  std::vector<float> survivals;
  Batch batch;
  TopLogits top;               // of the last pass, [rows, Drafter::kTopK]
  std::vector<int32_t> moved;  // slots of one sequence's accepted guesses
  std::vector<int32_t> path;   // guesses down to the node that is verified
  std::vector<float> edited;   // its logits, where they are not used as they are
  Delta delta;                 // what one sequence emits

  // Made when a grammar first needs it.
  absl::once_flag trie_made;
  std::shared_ptr<const TokenTrie> trie;

  // Shared with the threads that submit and cancel.
  absl::Mutex mu;
  std::deque<std::unique_ptr<Sequence>> waiting ABSL_GUARDED_BY(mu);
  absl::flat_hash_map<uint64_t, FinishReason> cancelled ABSL_GUARDED_BY(mu);
  struct Forgetting {
    std::string tenant;
    std::function<void()> done;
  };
  std::vector<Forgetting> forgetting ABSL_GUARDED_BY(mu);
  uint64_t next_handle ABSL_GUARDED_BY(mu) = 1;
  bool draining ABSL_GUARDED_BY(mu) = false;
  bool woken ABSL_GUARDED_BY(mu) = false;
  EngineLoad load ABSL_GUARDED_BY(mu);
  // Since when the step that should end next has been due: since the last one ended, or since there was
  // something to do again.
  std::optional<SteadyTime> due ABSL_GUARDED_BY(mu);
  // For how long the engine's thread had waited for a CPU when somebody first asked for the load after so
  // many steps.
  int64_t watched_steps ABSL_GUARDED_BY(mu) = -1;
  double watched_wait ABSL_GUARDED_BY(mu) = 0;
  std::atomic<pid_t> thread = 0;  // that Run belongs to

  // A step, in order.
  bool Step();
  void Retire();
  void ForgetTenants();
  void Admit(StepReport& report);
  void Plan();
  void Draft(StepReport& report);
  void Reserve(StepReport& report);
  void Forward();
  void VerifyTrees();
  void Commit(StepReport& report);

  absl::Status Constrain(Sequence& s);
  bool Start(Sequence& s);
  void PreemptLast();
  void Enqueue(std::unique_ptr<Sequence> s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  std::unique_ptr<Drafter> MakeDrafter(Sequence& s);
  std::optional<FinishReason> Append(Sequence& s, int32_t id, std::string& text);
  static FinishReason CloseText(Sequence& s, FinishReason end, std::string& text);
  void Budget();
  void JudgeSpeculation(StepReport& report);
  NodeLogits LogitsOf(int64_t first_row) const;
  int64_t RowOf(const Sequence& s, int64_t first_row, size_t i) const;
  int32_t Target(Sequence& s, int32_t node, int64_t row);
  void ShowLogits(const Sequence& s, int64_t root, int64_t first_row, size_t tokens);
  void AddLogprobs(const Sequence& s, int64_t first_row);
  void CommitSequence(const StepShare& share, int64_t first_row, StepReport& report);
  void AskStore(Sequence& s);
  void TakeAnswer(Sequence& s);
  void AwaitStore();
  void Finish(Sequence& s, FinishReason reason);
  void PublishLoad(bool stepped);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return waiting.empty() && cancelled.empty() && forgetting.empty();
  }
};

}  // namespace clamor
