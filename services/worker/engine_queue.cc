// Who gets into the engine and who leaves it: everything that other threads may call, and the step's two
// ends.
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/worker/cpu_wait.h"
#include "services/worker/engine.h"
#include "services/worker/engine_rep.h"
#include "services/worker/step_cost_probe.h"

namespace clamor {
namespace {

constexpr double kForgetting = 0.95;                    // of a slow step, by each that is not
constexpr absl::Duration kLastSave = absl::Seconds(5);  // for what was learned, at the end

absl::Status CheckRange(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", must be in [", least, ", ", most, "]"));
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  CLAMOR_RETURN_IF_ERROR(CheckRange("threads", threads, 1, 1024));
  CLAMOR_RETURN_IF_ERROR(
      CheckRange("kv_tokens", kv_tokens, 2 * SpeculationOptions::kMaxNodes, int64_t{1} << 30));
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_sequences", max_sequences, 1, 1024));
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_waiting", max_waiting, 0, 1 << 20));
  CLAMOR_RETURN_IF_ERROR(CheckRange("prefill_chunk", prefill_chunk, 1, 1 << 16));
  return CheckRange("default_nodes", default_nodes, SpeculationOptions::kAuto, SpeculationOptions::kMaxNodes);
}

// Between two steps: nobody uses what goes.
void Engine::Rep::ForgetTenants() {
  std::vector<Forgetting> tenants;
  {
    absl::MutexLock lock(&mu);
    tenants.swap(forgetting);
    for (const Forgetting& gone : tenants) {
      const auto cancel = [&](const std::unique_ptr<Sequence>& s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
        if (s->request.tenant == gone.tenant) cancelled[s->handle] = FinishReason::kTenantDeleted;
      };
      for (const auto& s : waiting) cancel(s);
      for (const auto& s : running) cancel(s);
    }
  }
  if (tenants.empty()) return;
  Retire();
  for (const Forgetting& gone : tenants) {
    cache.Forget(gone.tenant);
    knowledge.Drop(gone.tenant);
    gone.done();
  }
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

// The first of the queue, while there is a place and room for what is known of its text; and, so that it need
// not leave at once, for a page more of every sequence. One of high priority takes the place of the last of a
// lower one, which waits again.
void Engine::Rep::Admit(StepReport& report) {
  while (true) {
    const bool full = static_cast<int32_t>(running.size()) >= options.max_sequences;
    std::unique_ptr<Sequence> s;
    {
      absl::MutexLock lock(&mu);
      if (waiting.empty()) return;
      Sequence& first = *waiting.front();
      if (full && (first.request.priority != Priority::kHigh ||
                   running.back()->request.priority == Priority::kHigh)) {
        return;
      }
      const std::span<const int32_t> text(first.tokens);
      KvLease pages = cache.Find(first.request.tenant, text.first(text.size() - 1));  // the newest is a root
      first.committed = pages.tokens();
      if (!cache.Grow(pages, static_cast<int64_t>(text.size())) ||
          cache.pages_free() < static_cast<int64_t>(running.size())) {
        return;
      }
      first.pages = std::move(pages);
      s = std::move(waiting.front());
      waiting.pop_front();
    }
    if (absl::Now() + absl::Seconds(cost.PrefillSeconds(s->unread())) > s->request.deadline) {
      Finish(*s, FinishReason::kDeadline);  // it would not even see its first token
      continue;
    }
    if (!s->was_admitted() && !Start(*s)) continue;
    if (full) {
      PreemptLast();
      running.pop_back();
      ++report.displacements;
    }
    const auto behind = std::find_if(running.begin(), running.end(), [&s](const auto& other) {
      return other->request.priority < s->request.priority;
    });
    running.insert(behind, std::move(s));
  }
}

// Behind those of its priority; before them if it was running already, here or elsewhere.
void Engine::Rep::Enqueue(std::unique_ptr<Sequence> s) {
  const auto place = std::find_if(waiting.begin(), waiting.end(), [&s](const auto& other) {
    return s->begun() ? other->request.priority <= s->request.priority
                      : other->request.priority < s->request.priority;
  });
  waiting.insert(place, std::move(s));
}

// Room for the rows of the step. Where pages are short, guesses go first, then the sequences that came last:
// they wait again, and what they had read is read again unless the cache still has it.
void Engine::Rep::Reserve(StepReport& report) {
  const auto text = [this](const StepShare& share) {
    return static_cast<int64_t>(running[share.sequence]->tokens.size());
  };
  const auto guesses = [this](const StepShare& share) -> int64_t {
    return share.decode ? running[share.sequence]->tree.drafted() : 0;
  };
  int64_t pages = 0;
  for (const StepShare& share : plan) {
    const int64_t held = static_cast<int64_t>(running[share.sequence]->pages.pages().size());
    pages += std::max<int64_t>(0, KvCache::PagesFor(text(share) + guesses(share)) - held);
  }
  if (pages > cache.pages_free()) {
    for (const auto& s : running) cache.Shrink(s->pages, static_cast<int64_t>(s->tokens.size()));
    for (const StepShare& share : plan) {
      while (running[share.sequence] != nullptr && !cache.Grow(running[share.sequence]->pages, text(share))) {
        PreemptLast();
        ++report.preemptions;
      }
    }
    std::erase_if(plan, [this](const StepShare& share) { return running[share.sequence] == nullptr; });
  }
  for (const StepShare& share : plan) {
    Sequence& s = *running[share.sequence];
    const int64_t room = s.pages.tokens() + cache.pages_free() * kernels::kPageSize - text(share);
    if (guesses(share) > room) s.drafter->Trim(static_cast<int32_t>(room), s.tree);
    cache.Grow(s.pages, text(share) + guesses(share));
  }
}

// Its place in `running` stays empty.
void Engine::Rep::PreemptLast() {
  const auto last =
      std::find_if(running.rbegin(), running.rend(), [](const auto& s) { return s != nullptr; });
  std::unique_ptr<Sequence> s = std::move(*last);
  s->pages = KvLease();
  s->committed = 0;
  absl::MutexLock lock(&mu);
  Enqueue(std::move(s));
}

// False if what was emitted elsewhere was the whole answer: the one who sent it died before saying so.
bool Engine::Rep::Start(Sequence& s) {
  s.admitted = absl::Now();
  s.stats.queue_seconds = absl::ToDoubleSeconds(s.admitted - s.queued);
  s.cached_tokens = static_cast<int32_t>(std::min(s.committed, s.prompt_tokens()));
  s.sink->OnStarted(s.cached_tokens);
  std::string already_sent;
  std::optional<FinishReason> end;
  s.tokens.resize(s.prompt_tokens());
  for (const int32_t id : s.request.emitted_ids) {
    if (!end) end = Append(s, id, already_sent);
  }
  if (end) {
    Finish(s, CloseText(s, *end, already_sent));
    return false;
  }
  s.text_bytes = static_cast<int64_t>(already_sent.size());
  if (s.request.speculation.nodes != 0) {
    s.drafter = MakeDrafter(s);
    s.drafter->Extend(s.tokens);
  }
  AskStore(s);
  return true;
}

// Makes the grammar of the request the sequence's, unless what was emitted elsewhere breaks it.
absl::Status Engine::Rep::Constrain(Sequence& s) {
  absl::call_once(trie_made, [this] {
    if (tokenizer != nullptr) trie = std::make_shared<const TokenTrie>(*tokenizer);
  });
  const std::vector<int32_t>& eos = model->generation().eos_ids;
  const auto known = [this](int32_t id) {
    return id < std::min(trie->vocab_size(), model->config().vocab_size);
  };
  if (trie == nullptr || !trie->SpellsAscii(model->config().vocab_size) ||
      std::none_of(eos.begin(), eos.end(), known)) {
    return absl::InvalidArgumentError(
        "options.json_schema is set, but this model's vocabulary cannot spell every JSON text and its end");
  }
  s.grammar = AnswerGrammar(s.request.grammar, trie, eos);
  GrammarState state = s.grammar.state();
  for (size_t i = 0; i < s.request.emitted_ids.size(); ++i) {
    if (s.grammar.Advance(&state, s.request.emitted_ids[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat("emitted_ids[", i, "] is ", s.request.emitted_ids[i],
                                                   ", which the grammar forbids there"));
  }
  return absl::OkStatus();
}

// Tells the sink; the pages go with the sequence.
void Engine::Rep::Finish(Sequence& s, FinishReason reason) {
  if (source != nullptr && s.drafter != nullptr) source->Forget(s.handle);
  const absl::Time now = absl::Now();
  if (s.was_admitted()) {
    const absl::Time decoding = std::min(s.first_step_done, now);
    s.stats.prefill_seconds = absl::ToDoubleSeconds(decoding - s.admitted);
    s.stats.decode_seconds = absl::ToDoubleSeconds(now - decoding);
  }
  const int64_t before = s.prompt_tokens() + static_cast<int64_t>(s.request.emitted_ids.size());
  s.sink->OnFinished({.reason = reason,
                      .matched_stop = s.text.matched_stop(),
                      .usage = {.prompt_tokens = static_cast<int32_t>(s.prompt_tokens()),
                                .completion_tokens = static_cast<int32_t>(
                                    std::max<int64_t>(0, static_cast<int64_t>(s.tokens.size()) - before)),
                                .cached_tokens = s.cached_tokens},
                      .stats = s.stats});
}

void Engine::Rep::PublishLoad(bool stepped) {
  absl::MutexLock lock(&mu);
  load.running = static_cast<int32_t>(running.size());
  load.kv_pages_used = cache.pages_used();
  load.kv_pages_total = cache.pages_total();
  const bool busy = !running.empty() || !waiting.empty();
  const SteadyTime now = std::chrono::steady_clock::now();
  double took = 0;
  if (stepped) {
    ++load.steps;
    load.last_step = absl::Now();
    if (due) took = std::chrono::duration<double>(now - *due).count();
    load.slow_step_seconds *= kForgetting;
  }
  // Where no step was measured nobody knows what a prompt takes that is longer than those before.
  if (const double prompt = cost.PrefillSeconds(options.prefill_chunk); prompt > 0)
    load.slow_step_seconds = std::max({load.slow_step_seconds, took, prompt});
  if (!busy) {
    due.reset();
  } else if (stepped || !due) {
    due = now;
  }
}

PassLimits PassLimitsOf(const Model& model, const EngineOptions& options) {
  const int64_t tree_rows = std::min(model.max_tree_rows(), SpeculationOptions::kMaxNodes + 1);
  return {.rows = std::max<int64_t>(options.prefill_chunk + options.max_sequences * tree_rows,
                                    StepCost::kRows.back()),
          .sequences = options.max_sequences,
          .top_k = Drafter::kTopK};
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Model* model, const Tokenizer* tokenizer,
                                                       ContinuationSource* source, StepObserver* observer,
                                                       const EngineOptions& options) {
  CLAMOR_RETURN_IF_ERROR(options.Validate());
  auto rep = std::make_unique<Rep>(model, tokenizer, source, observer, options);
  CLAMOR_ASSIGN_OR_RETURN(rep->pass, model->NewPass(rep->cache, PassLimitsOf(*model, options), rep->pool));
  if (options.default_nodes == SpeculationOptions::kAuto) {
    rep->cost.Set(ProbeStepCost(model->max_positions(), rep->cache, *rep->pass));
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
  const int64_t room = RoomForAnswer(s->prompt_tokens());
  const int64_t least = std::max<int64_t>(1, static_cast<int64_t>(s->request.emitted_ids.size()));
  s->max_tokens =
      static_cast<int32_t>(s->request.max_tokens > 0 ? s->request.max_tokens : std::max(room, least));
  if (s->max_tokens > room) {
    return absl::InvalidArgumentError(
        absl::StrCat("[CONTEXT_TOO_LONG] prompt of ", s->prompt_tokens(), " tokens and max_tokens ",
                     s->max_tokens, " exceed the ", room + s->prompt_tokens(),
                     " tokens that this worker's key/value cache holds for one request"));
  }
  s->tokens.reserve(s->prompt_tokens() + s->max_tokens);
  s->tokens = s->request.prompt_ids;
  s->tokens.insert(s->tokens.end(), s->request.emitted_ids.begin(), s->request.emitted_ids.end());
  s->ends.min_tokens = s->request.min_tokens;
  s->ends.token_ids = s->request.stop_token_ids;
  if (!s->request.ignore_eos) {
    const auto& eos = rep_->model->generation().eos_ids;
    s->ends.token_ids.insert(s->ends.token_ids.end(), eos.begin(), eos.end());
  }
  s->edits = LogitEdits(s->request.sampling, s->ends, s->request.prompt_ids, s->max_tokens);
  if (s->request.grammar != nullptr) CLAMOR_RETURN_IF_ERROR(rep_->Constrain(*s));
  s->queued = absl::Now();
  absl::MutexLock lock(&rep_->mu);
  if (rep_->draining && !s->request.follows)
    return absl::UnavailableError("[DRAINING] this worker takes no new requests");
  if (static_cast<int64_t>(rep_->waiting.size()) >= rep_->options.max_waiting && !s->request.follows) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "[QUEUE_FULL] ", rep_->waiting.size(), " requests wait, the limit is ", rep_->options.max_waiting));
  }
  s->handle = rep_->next_handle++;
  const uint64_t handle = s->handle;
  rep_->Enqueue(std::move(s));
  if (!rep_->due) rep_->due = std::chrono::steady_clock::now();
  return handle;
}

void Engine::Cancel(uint64_t handle, FinishReason reason) {
  absl::MutexLock lock(&rep_->mu);
  rep_->cancelled[handle] = reason;
}

void Engine::ForgetTenant(std::string tenant, std::function<void()> done) {
  absl::MutexLock lock(&rep_->mu);
  rep_->forgetting.push_back({std::move(tenant), std::move(done)});
}

void Engine::Run(const std::atomic<bool>& stop) {
  rep_->thread = gettid();
  while (!stop) {
    const bool stepped = rep_->Step();
    const absl::Time next_save = rep_->knowledge.SaveDue(absl::Now());
    if (stepped) continue;
    absl::MutexLock lock(&rep_->mu);
    const auto wanted = [this, &stop]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(rep_->mu) {
      return stop || rep_->woken || !rep_->Idle();
    };
    rep_->mu.AwaitWithDeadline(absl::Condition(&wanted), next_save);
    rep_->woken = false;
  }
  // Whoever still waits for an answer is told.
  {
    absl::MutexLock lock(&rep_->mu);
    for (const auto& s : rep_->waiting) rep_->cancelled[s->handle] = FinishReason::kCancelled;
    for (const auto& s : rep_->running) rep_->cancelled[s->handle] = FinishReason::kCancelled;
  }
  rep_->ForgetTenants();
  rep_->Retire();
  rep_->PublishLoad(false);
  rep_->knowledge.SaveAll(absl::Now() + kLastSave);
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
  const double waited = CpuWaitSeconds(rep_->thread);
  absl::MutexLock lock(&rep_->mu);
  EngineLoad load = rep_->load;
  load.waiting = static_cast<int32_t>(rep_->waiting.size());
  if (!rep_->due) return load;
  if (std::exchange(rep_->watched_steps, load.steps) != load.steps) rep_->watched_wait = waited;
  const double since = std::chrono::duration<double>(std::chrono::steady_clock::now() - *rep_->due).count();
  load.stalled_seconds = std::max(0.0, since - (waited - rep_->watched_wait));
  return load;
}

int64_t Engine::RoomForAnswer(int64_t prompt_tokens) const {
  const int64_t capacity = rep_->cache.pages_total() * kernels::kPageSize;
  return std::min<int64_t>(rep_->model->max_positions(), capacity - SpeculationOptions::kMaxNodes) -
         prompt_tokens;
}

const EngineOptions& Engine::options() const { return rep_->options; }

}  // namespace clamor
