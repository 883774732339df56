#include "services/worker/engine.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "kernels/top_k.h"
#include "model/spec/published_drafter.h"
#include "model/spec/sampler.h"
#include "services/worker/knowledge_pool.h"
#include "services/worker/scheduler.h"
#include "services/worker/sequence.h"
#include "services/worker/step_batch.h"
#include "services/worker/step_cost.h"
#include "services/worker/step_cost_probe.h"

namespace clamor {
namespace {

constexpr int64_t kAskedContext = 32;  // tokens of a sequence's end that a question to the store carries

// Adds the time since the last call to one phase of the report.
class PhaseTimer {
 public:
  explicit PhaseTimer(StepReport& report) : report_(report), last_(absl::Now()) {}
  void Done(StepReport::Phase phase) {
    const absl::Time now = absl::Now();
    report_.seconds[phase] += absl::ToDoubleSeconds(now - last_);
    last_ = now;
  }

 private:
  StepReport& report_;
  absl::Time last_;
};

absl::Status CheckRange(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", must be in [", least, ", ", most, "]"));
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  CLAMOR_RETURN_IF_ERROR(CheckRange("threads", threads, 1, 1024));
  CLAMOR_RETURN_IF_ERROR(CheckRange("kv_tokens", kv_tokens, 2 * SpeculationOptions::kMaxNodes, int64_t{1} << 30));
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_sequences", max_sequences, 1, 1024));
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_waiting", max_waiting, 0, 1 << 20));
  CLAMOR_RETURN_IF_ERROR(CheckRange("prefill_chunk", prefill_chunk, 1, 1 << 16));
  return CheckRange("default_nodes", default_nodes, SpeculationOptions::kAuto, SpeculationOptions::kMaxNodes);
}

struct Engine::Rep {
  Rep(const Transformer* model, const Tokenizer* tokenizer, ContinuationSource* source, StepObserver* observer,
      const EngineOptions& options)
      : model(model),
        tokenizer(tokenizer),
        source(source),
        observer(observer),
        options(options),
        pool(options.threads),
        cache(model->config(), KvCache::PagesFor(options.kv_tokens)) {}

  // Constant after construction.
  const Transformer* const model;
  const Tokenizer* const tokenizer;
  ContinuationSource* const source;
  StepObserver* const observer;
  const EngineOptions options;

  // The engine thread's own.
  kernels::ThreadPool pool;
  KvCache cache;
  KnowledgePool knowledge;
  StepCost cost;
  Sampler sampler;
  std::vector<std::unique_ptr<Sequence>> running;  // oldest first
  std::vector<int64_t> unread;
  std::vector<StepShare> plan;
  std::vector<float> survivals;
  Batch batch;
  Activations activations;
  std::vector<int32_t> top_ids;
  std::vector<float> top_values, log_sum_exp;

  // Shared with the threads that submit and cancel.
  absl::Mutex mu;
  std::deque<std::unique_ptr<Sequence>> waiting ABSL_GUARDED_BY(mu);
  absl::flat_hash_map<uint64_t, FinishReason> cancelled ABSL_GUARDED_BY(mu);
  uint64_t next_handle ABSL_GUARDED_BY(mu) = 1;
  bool draining ABSL_GUARDED_BY(mu) = false;
  bool woken ABSL_GUARDED_BY(mu) = false;
  EngineLoad load ABSL_GUARDED_BY(mu);

  // A step, in order.
  bool Step();
  void Retire();
  void Admit();
  void Plan();
  void Draft(StepReport& report);
  void Forward();
  void VerifyTrees();
  void Commit(StepReport& report);

  bool Start(Sequence& s);
  std::unique_ptr<Drafter> MakeDrafter(Sequence& s);
  std::optional<FinishReason> Append(Sequence& s, int32_t id, std::string& text);
  void Budget();
  NodeLogits LogitsOf(int64_t first_row) const;
  void ShowLogits(const Sequence& s, int64_t root, int64_t first_row, size_t tokens) const;
  void CommitSequence(const StepShare& share, int64_t first_row, StepReport& report);
  void AskStore(Sequence& s);
  void Finish(Sequence& s, FinishReason reason);
  void PublishLoad(bool stepped);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return waiting.empty() && cancelled.empty(); }
  int64_t TokensNeeded(const Sequence& s) const {
    return s.prompt_tokens() + s.max_tokens + SpeculationOptions::kMaxNodes;
  }
};

// The whole loop. Everything it does to a sequence it does in Commit.
bool Engine::Rep::Step() {
  StepReport report;
  PhaseTimer timer(report);
  Retire();
  Admit();
  Plan();
  timer.Done(StepReport::kPlan);
  if (plan.empty()) {
    PublishLoad(false);
    return false;
  }
  Draft(report);
  BuildBatch(plan, running, batch);
  timer.Done(StepReport::kDraft);
  Forward();
  timer.Done(StepReport::kForward);
  VerifyTrees();
  timer.Done(StepReport::kVerify);
  Commit(report);
  timer.Done(StepReport::kCommit);
  report.rows = static_cast<int32_t>(batch.rows());
  if (report.prompt_tokens == 0) cost.Refresh(report.rows, report.seconds[StepReport::kForward]);
  PublishLoad(true);
  if (observer != nullptr) observer->OnStep(report);
  return true;
}

// Ends what was cancelled or is out of time.
void Engine::Rep::Retire() {
  absl::flat_hash_map<uint64_t, FinishReason> reasons;
  std::vector<std::unique_ptr<Sequence>> gone;  // from the queue
  const absl::Time now = absl::Now();
  const auto reason_of = [&](const Sequence& s) -> const FinishReason* {
    static constexpr FinishReason kLate = FinishReason::kDeadline;
    const auto it = reasons.find(s.handle);
    return it != reasons.end() ? &it->second : now > s.request.deadline ? &kLate : nullptr;
  };
  {
    absl::MutexLock lock(&mu);
    reasons.swap(cancelled);
    for (auto& s : waiting) {
      if (reason_of(*s) != nullptr) gone.push_back(std::move(s));
    }
    std::erase(waiting, nullptr);
  }
  for (auto& s : gone) Finish(*s, *reason_of(*s));
  for (auto& s : running) {
    const FinishReason* reason = reason_of(*s);
    if (reason == nullptr) continue;
    Finish(*s, *reason);
    s.reset();
  }
  std::erase(running, nullptr);
}

// First come, first served, while there is a place and room for the whole answer.
void Engine::Rep::Admit() {
  while (static_cast<int32_t>(running.size()) < options.max_sequences) {
    std::unique_ptr<Sequence> s;
    {
      absl::MutexLock lock(&mu);
      if (waiting.empty()) return;
      std::optional<KvLease> pages = cache.Lease(TokensNeeded(*waiting.front()));
      if (!pages) return;
      s = std::move(waiting.front());
      waiting.pop_front();
      s->pages = *std::move(pages);
    }
    if (Start(*s)) running.push_back(std::move(s));
  }
}

// False if what was emitted elsewhere was the whole answer: the one who sent it died before saying so.
bool Engine::Rep::Start(Sequence& s) {
  s.admitted = absl::Now();
  s.stats.queue_seconds = absl::ToDoubleSeconds(s.admitted - s.queued);
  s.tokens = s.request.prompt_ids;
  s.tokens.reserve(s.prompt_tokens() + s.max_tokens);
  s.sink->OnStarted();
  std::string already_sent;
  std::optional<FinishReason> end;
  for (const int32_t id : s.request.emitted_ids) {
    if (!end) end = Append(s, id, already_sent);
  }
  if (end) {
    Finish(s, *end);
    return false;
  }
  if (s.request.speculation.nodes != 0) {
    s.drafter = MakeDrafter(s);
    s.drafter->Extend(s.tokens);
  }
  AskStore(s);
  return true;
}

// One more token of the answer; the reason if it is the last.
std::optional<FinishReason> Engine::Rep::Append(Sequence& s, int32_t id, std::string& text) {
  s.tokens.push_back(id);
  if (s.text.Add(id, text)) return FinishReason::kStop;
  const auto& eos = model->generation().eos_ids;
  if (!s.request.ignore_eos && std::find(eos.begin(), eos.end(), id) != eos.end()) return FinishReason::kStop;
  if (s.answer_tokens() >= s.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

std::unique_ptr<Drafter> Engine::Rep::MakeDrafter(Sequence& s) {
  if (options.drafter_factory) return options.drafter_factory(s.request);
  if (s.request.speculation.shape == TreeShape::kPublished) {
    return std::make_unique<PublishedDrafter>(s.request.sampling.seed);
  }
  s.knowledge = knowledge.Get(s.request.tenant);
  return std::make_unique<MergedDrafter>(s.knowledge.get(), model->config().vocab_size, s.request.sampling.seed);
}

void Engine::Rep::Plan() {
  unread.clear();
  for (const auto& s : running) unread.push_back(s->unread());
  Schedule(unread, options.prefill_chunk, plan);
}

// A tree for each sequence that decodes, then as many of their nodes as pay.
void Engine::Rep::Draft(StepReport& report) {
  for (const StepShare& share : plan) {
    if (!share.decode) continue;
    Sequence& s = *running[share.sequence];
    if (s.drafter == nullptr) {
      s.tree.Reset(s.tokens.back());
      continue;
    }
    if (source != nullptr) {
      if (auto answer = source->Take(s.handle)) s.drafter->Offer(*std::move(answer));
    }
    const int32_t nodes = s.request.speculation.nodes != SpeculationOptions::kAuto ? s.request.speculation.nodes
                          : options.default_nodes != SpeculationOptions::kAuto     ? options.default_nodes
                                                                                   : StepCost::kRows.back() / 2;
    s.drafter->Draft(nodes, s.tree);
  }
  if (options.default_nodes == SpeculationOptions::kAuto) Budget();
  for (const StepShare& share : plan) {
    if (!share.decode) continue;
    for (const DraftNode& node : running[share.sequence]->tree.nodes) {
      if (node.depth > 0) ++report.drafted[static_cast<size_t>(node.source)];
    }
  }
}

// Trims automatic trees, together, to the nodes that make the step emit most tokens per second.
void Engine::Rep::Budget() {
  const auto automatic = [this](const StepShare& share) {
    const Sequence& s = *running[share.sequence];
    return share.decode && s.drafter != nullptr && s.request.speculation.nodes == SpeculationOptions::kAuto &&
           s.request.speculation.shape == TreeShape::kMerged;
  };
  survivals.clear();
  int32_t sequences = 0;
  for (const StepShare& share : plan) {
    if (!automatic(share)) continue;
    ++sequences;
    const auto& nodes = running[share.sequence]->tree.nodes;
    for (size_t i = 1; i < nodes.size(); ++i) survivals.push_back(nodes[i].survival);
  }
  if (sequences == 0) return;
  std::sort(survivals.begin(), survivals.end(), std::greater<>());
  const int32_t best = cost.BestNodes(sequences, survivals);
  const float least = best > 0 ? survivals[best - 1] : 2.0f;
  for (const StepShare& share : plan) {
    if (!automatic(share)) continue;
    Sequence& s = *running[share.sequence];
    const auto worth = std::count_if(s.tree.nodes.begin() + 1, s.tree.nodes.end(),
                                     [least](const DraftNode& node) { return node.survival >= least; });
    s.drafter->Trim(static_cast<int32_t>(worth), s.tree);
  }
}

void Engine::Rep::Forward() {
  model->Forward(batch, cache, activations, pool);
  const int64_t rows = static_cast<int64_t>(batch.logit_rows.size());
  top_ids.resize(rows * Drafter::kTopK);
  top_values.resize(rows * Drafter::kTopK);
  log_sum_exp.resize(rows);
  const int64_t vocab = model->config().vocab_size;
  kernels::TopK(activations.logits.data(), vocab, rows, vocab, Drafter::kTopK, top_ids.data(), top_values.data(),
                log_sum_exp.data(), pool);
}

NodeLogits Engine::Rep::LogitsOf(int64_t first_row) const {
  return {.k = Drafter::kTopK,
          .ids = top_ids.data() + first_row * Drafter::kTopK,
          .values = top_values.data() + first_row * Drafter::kTopK,
          .log_sum_exp = log_sum_exp.data() + first_row};
}

void Engine::Rep::VerifyTrees() {
  int64_t row = 0;
  const int64_t vocab = model->config().vocab_size;
  for (const StepShare& share : plan) {
    if (!share.decode) continue;
    Sequence& s = *running[share.sequence];
    const int64_t root = static_cast<int64_t>(s.tokens.size()) - 1;
    Verify(
        s.tree,
        [&](int32_t node) -> int32_t {
          const int64_t r = row + node;
          if (s.request.sampling.greedy()) return std::max(top_ids[r * Drafter::kTopK], 0);
          const std::span<const float> logits(activations.logits.data() + r * vocab, vocab);
          return sampler.Draw(logits, s.request.sampling, root + s.tree.nodes[node].depth + 1);
        },
        s.accepted);
    row += static_cast<int64_t>(s.tree.nodes.size());
  }
}

// The only place where sequences change.
void Engine::Rep::Commit(StepReport& report) {
  int64_t row = 0;
  for (const StepShare& share : plan) {
    Sequence& s = *running[share.sequence];
    s.committed += share.prefill;
    report.prompt_tokens += share.prefill;
    if (!share.decode) continue;
    const int64_t rows = static_cast<int64_t>(s.tree.nodes.size());
    CommitSequence(share, row, report);
    row += rows;
  }
  std::erase(running, nullptr);
}

void Engine::Rep::CommitSequence(const StepShare& share, int64_t first_row, StepReport& report) {
  Sequence& s = *running[share.sequence];
  const Accepted& accepted = s.accepted;
  const int64_t root = static_cast<int64_t>(s.tokens.size()) - 1;

  Delta delta{.first_token_index = s.answer_tokens()};
  for (const int32_t node : accepted.path) {
    delta.token_ids.push_back(s.tree.nodes[node].token);
    delta.sources.push_back(s.tree.nodes[node].source);
  }
  delta.token_ids.push_back(accepted.next);
  delta.sources.push_back(Source::kNone);

  // Ids, text, cache and counts all end at the token that ends the answer.
  std::optional<FinishReason> end;
  size_t kept = 0;
  while (!end && kept < delta.token_ids.size()) end = Append(s, delta.token_ids[kept++], delta.text);
  delta.token_ids.resize(kept);
  delta.sources.resize(kept);

  ++s.stats.forwards;
  s.stats.draft_nodes += s.tree.drafted();
  for (const Source source : delta.sources) {
    if (source == Source::kNone) continue;
    ++s.stats.accepted_by_source[static_cast<size_t>(source)];
    ++report.accepted[static_cast<size_t>(source)];
  }
  ++report.forwards;
  report.emitted_tokens += static_cast<int32_t>(kept);
  if (observer != nullptr) {
    observer->OnAccepted(static_cast<int32_t>(kept));
    if (observer->WantsLogits()) ShowLogits(s, root, first_row, kept);
  }
  if (s.first_step_done == absl::InfiniteFuture()) s.first_step_done = absl::Now();

  if (!end) {
    // Accepted rows move down to where their tokens stand: never past a row that is still to move.
    for (size_t i = 0; i < accepted.path.size(); ++i) {
      const int32_t from = s.pages.Slot(root + accepted.path[i]), to = s.pages.Slot(root + 1 + static_cast<int64_t>(i));
      if (from != to) cache.Move(from, to);
    }
    s.committed = static_cast<int64_t>(s.tokens.size()) - 1;
    if (s.drafter != nullptr) {
      s.drafter->Observe(s.tree, LogitsOf(first_row), accepted);
      s.drafter->Extend(delta.token_ids);
    }
    AskStore(s);
    s.sink->OnDelta(std::move(delta));
    return;
  }
  s.text.Finish(delta.text);
  if (!s.text.matched_stop().empty()) end = FinishReason::kStop;  // maybe only by what was held back
  s.sink->OnDelta(std::move(delta));
  Finish(s, *end);
  running[share.sequence].reset();
}

// Token i of the step was chosen after the node above it on the path.
void Engine::Rep::ShowLogits(const Sequence& s, int64_t root, int64_t first_row, size_t tokens) const {
  const int64_t vocab = model->config().vocab_size;
  for (size_t i = 0; i < tokens; ++i) {
    const int64_t row = first_row + (i == 0 ? 0 : s.accepted.path[i - 1]);
    observer->OnLogits(s.handle, root + 1 + static_cast<int64_t>(i),
                       std::span(activations.logits.data() + row * vocab, vocab));
  }
}

void Engine::Rep::AskStore(Sequence& s) {
  if (source == nullptr || s.drafter == nullptr || !s.drafter->WantsAnswer()) return;
  const std::span<const int32_t> text(s.tokens);
  source->Ask(s.handle, s.request.tenant, text.last(std::min<size_t>(text.size(), kAskedContext)),
              static_cast<int64_t>(text.size()));
}

// Tells the sink; the pages go with the sequence.
void Engine::Rep::Finish(Sequence& s, FinishReason reason) {
  if (source != nullptr && s.drafter != nullptr) source->Forget(s.handle);
  const absl::Time now = absl::Now();
  if (s.admitted != absl::Time()) {
    const absl::Time decoding = std::min(s.first_step_done, now);
    s.stats.prefill_seconds = absl::ToDoubleSeconds(decoding - s.admitted);
    s.stats.decode_seconds = absl::ToDoubleSeconds(now - decoding);
  }
  const int64_t before = s.prompt_tokens() + static_cast<int64_t>(s.request.emitted_ids.size());
  s.sink->OnFinished({.reason = reason,
                      .matched_stop = s.text.matched_stop(),
                      .usage = {.prompt_tokens = static_cast<int32_t>(s.prompt_tokens()),
                                .completion_tokens = static_cast<int32_t>(
                                    std::max<int64_t>(0, static_cast<int64_t>(s.tokens.size()) - before))},
                      .stats = s.stats});
}

void Engine::Rep::PublishLoad(bool stepped) {
  absl::MutexLock lock(&mu);
  load.running = static_cast<int32_t>(running.size());
  load.kv_pages_used = cache.pages_used();
  load.kv_pages_total = cache.pages_total();
  if (!stepped) return;
  ++load.steps;
  load.last_step = absl::Now();
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Transformer* model, const Tokenizer* tokenizer,
                                                       ContinuationSource* source, StepObserver* observer,
                                                       const EngineOptions& options) {
  CLAMOR_RETURN_IF_ERROR(options.Validate());
  auto rep = std::make_unique<Rep>(model, tokenizer, source, observer, options);
  if (options.default_nodes == SpeculationOptions::kAuto) {
    rep->cost.Set(ProbeStepCost(*model, rep->cache, rep->activations, rep->pool));
  }
  rep->PublishLoad(false);
  return std::unique_ptr<Engine>(new Engine(std::move(rep)));
}

Engine::Engine(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Engine::~Engine() = default;

absl::StatusOr<uint64_t> Engine::Submit(Request request, TokenSink* sink) {
  const int32_t context = rep_->model->max_positions();
  CLAMOR_RETURN_IF_ERROR(request.Validate(rep_->model->config().vocab_size, context));
  auto s = std::make_unique<Sequence>(0, std::move(request), sink, rep_->tokenizer);
  const int64_t capacity = rep_->cache.pages_total() * kernels::kPageSize;
  const int64_t room = std::min<int64_t>(context, capacity - SpeculationOptions::kMaxNodes) - s->prompt_tokens();
  const int64_t least = std::max<int64_t>(1, static_cast<int64_t>(s->request.emitted_ids.size()));
  s->max_tokens = static_cast<int32_t>(s->request.max_tokens > 0 ? s->request.max_tokens : std::max(room, least));
  if (s->max_tokens > room) {
    return absl::InvalidArgumentError(absl::StrCat("[CONTEXT_TOO_LONG] prompt of ", s->prompt_tokens(), " tokens and max_tokens ",
                                                   s->max_tokens, " exceed the ", room + s->prompt_tokens(),
                                                   " tokens that this worker's key/value cache holds for one request"));
  }
  s->queued = absl::Now();
  absl::MutexLock lock(&rep_->mu);
  if (rep_->draining) return absl::UnavailableError("[DRAINING] this worker takes no new requests");
  if (static_cast<int64_t>(rep_->waiting.size()) >= rep_->options.max_waiting) {
    return absl::ResourceExhaustedError(absl::StrCat("[QUEUE_FULL] ", rep_->waiting.size(), " requests wait, the limit is ",
                                                     rep_->options.max_waiting));
  }
  s->handle = rep_->next_handle++;
  const uint64_t handle = s->handle;
  rep_->waiting.push_back(std::move(s));
  return handle;
}

void Engine::Cancel(uint64_t handle, FinishReason reason) {
  absl::MutexLock lock(&rep_->mu);
  rep_->cancelled[handle] = reason;
}

bool Engine::Step() { return rep_->Step(); }

void Engine::Run(const std::atomic<bool>& stop) {
  while (!stop) {
    if (rep_->Step()) continue;
    absl::MutexLock lock(&rep_->mu);
    const auto wanted = [this, &stop]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(rep_->mu) {
      return stop || rep_->woken || !rep_->Idle();
    };
    rep_->mu.Await(absl::Condition(&wanted));
    rep_->woken = false;
  }
  // Whoever still waits for an answer is told.
  {
    absl::MutexLock lock(&rep_->mu);
    for (const auto& s : rep_->waiting) rep_->cancelled[s->handle] = FinishReason::kCancelled;
    for (const auto& s : rep_->running) rep_->cancelled[s->handle] = FinishReason::kCancelled;
  }
  rep_->Retire();
  rep_->PublishLoad(false);
}

void Engine::WakeUp() {
  absl::MutexLock lock(&rep_->mu);
  rep_->woken = true;
}

void Engine::Drain() {
  absl::MutexLock lock(&rep_->mu);
  rep_->draining = true;
}

EngineLoad Engine::Load() const {
  absl::MutexLock lock(&rep_->mu);
  EngineLoad load = rep_->load;
  load.waiting = static_cast<int32_t>(rep_->waiting.size());
  return load;
}

const EngineOptions& Engine::options() const { return rep_->options; }

}  // namespace clamor
