#include "services/worker/engine.h"

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "kernels/top_k.h"
#include "model/spec/published_drafter.h"
#include "services/worker/engine_rep.h"
#include "services/worker/step_batch.h"

namespace clamor {
namespace {

constexpr int32_t kPlainStepsUntilTrial = 32;
constexpr int32_t kTrialNodes = 3;
constexpr double kWaitShare = 0.02;    // of a step, for what the store is about to answer
constexpr int32_t kLongestPause = 10;  // in doublings: after so many waits in vain every 1024th step waits
constexpr int32_t kMostHurried = 8;    // steps in a row that only prompts of high priority are read in
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

}  // namespace

bool Engine::Step() { return rep_->Step(); }

// The whole loop. Everything it does to a sequence it does in Commit.
bool Engine::Rep::Step() {
  StepReport report;
  PhaseTimer timer(report);
  ForgetTenants();
  Retire();
  Admit(report);
  Plan();
  timer.Done(StepReport::kPlan);
  if (plan.empty()) {
    PublishLoad(false);
    return false;
  }
  AwaitStore();
  Draft(report);
  Reserve(report);
  BuildBatch(plan, running, batch);
  timer.Done(StepReport::kDraft);
  Forward();
  timer.Done(StepReport::kForward);
  VerifyTrees();
  timer.Done(StepReport::kVerify);
  Commit(report);
  timer.Done(StepReport::kCommit);
  report.rows = static_cast<int32_t>(batch.rows());
  forward_seconds = report.seconds[StepReport::kForward];
  decoded_rows = report.rows - report.prompt_tokens;
  cost.Refresh(decoded_rows, report.prompt_tokens, report.seconds[StepReport::kForward]);
  JudgeSpeculation(report);
  PublishLoad(true);
  if (observer != nullptr) observer->OnStep(report);
  return true;
}

// Only steps say something in which the budget had its way with every sequence and nobody read a prompt.
void Engine::Rep::JudgeSpeculation(StepReport& report) {
  if (report.prompt_tokens == 0 && budgeted == report.forwards && report.emitted_tokens > 0) {
    const bool drafted = report.rows > report.forwards;
    const double seconds = std::accumulate(std::begin(report.seconds), std::end(report.seconds), 0.0);
    guard.Add(report.forwards, drafted, seconds, report.emitted_tokens);
  }
  report.speculation_ratio = guard.ratio();
}

// One more token of the answer; the reason if it is the last.
std::optional<FinishReason> Engine::Rep::Append(Sequence& s, int32_t id, std::string& text) {
  s.tokens.push_back(id);
  s.edits.Add(id);
  const bool complete = !s.grammar.empty() && s.grammar.Add(id);
  if (s.text.Add(id, text) || complete) return FinishReason::kStop;
  const auto& ends = s.ends.token_ids;
  if (s.answer_tokens() > s.ends.min_tokens && std::find(ends.begin(), ends.end(), id) != ends.end())
    return FinishReason::kStop;
  if (s.answer_tokens() >= s.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

// Appends what was held back of the text of an answer that `end` ended, and returns why it ended: maybe by a
// stop string that was held back.
FinishReason Engine::Rep::CloseText(Sequence& s, FinishReason end, std::string& text) {
  s.text.Finish(text);
  return s.text.matched_stop().empty() ? end : FinishReason::kStop;
}

std::unique_ptr<Drafter> Engine::Rep::MakeDrafter(Sequence& s) {
  if (options.drafter_factory) return options.drafter_factory(s.request);
  if (s.request.speculation.shape == TreeShape::kPublished) {
    return std::make_unique<PublishedDrafter>(s.request.sampling.seed);
  }
  s.knowledge = knowledge.Get(s.request.tenant);
  auto drafter =
      std::make_unique<MergedDrafter>(s.knowledge.get(), model->config().vocab_size, s.request.sampling);
  if (!s.grammar.empty()) drafter->Obey(&s.grammar);
  return drafter;
}

void Engine::Rep::Plan() {
  unread.clear();
  int32_t decoding = 0;
  size_t high = 0;
  for (const auto& s : running) {
    unread.push_back(s->unread());
    if (s->unread() == 0) ++decoding;
    if (s->request.priority == Priority::kHigh) ++high;
  }
  // A prompt of high priority is read before anything else is done, but not for ever.
  const std::span<const int64_t> first = std::span(unread).first(high);
  const bool hurry = std::any_of(first.begin(), first.end(), [](int64_t tokens) { return tokens > 0; });
  hurried = hurry && hurried < kMostHurried ? hurried + 1 : 0;
  if (hurried > 0) return ScheduleReaders(first, options.prefill_chunk, plan);
  // Whoever decodes should not wait much longer than without the others' prompts.
  const int32_t chunk =
      decoding > 0 ? std::min(options.prefill_chunk, cost.PrefillTokens(std::max(decoding, decoded_rows)))
                   : options.prefill_chunk;
  Schedule(unread, chunk, plan);
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
    TakeAnswer(s);
    const int32_t asked = s.request.speculation.nodes != SpeculationOptions::kAuto
                              ? s.request.speculation.nodes
                          : options.default_nodes != SpeculationOptions::kAuto ? options.default_nodes
                                                                               : StepCost::kRows.back() / 2;
    const int32_t nodes = std::min(asked, model->max_tree_rows() - 1);
    s.drafter->Draft(nodes, s.tree);
  }
  budgeted = 0;
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
  budgeted = sequences;
  if (sequences == 0) return;
  std::sort(survivals.begin(), survivals.end(), std::greater<>());
  int32_t best = cost.BestNodes(sequences, survivals);
  // Where no node pays, a few are tried now and then: costs and acceptance change, and only trials show it.
  plain_steps = best > 0 ? 0 : plain_steps + 1;
  if (plain_steps == kPlainStepsUntilTrial) {
    best = std::min<int32_t>(kTrialNodes, static_cast<int32_t>(survivals.size()));
    plain_steps = 0;
  }
  if (best > 0 && guard.RunPlain(sequences)) best = 0;
  const float least = best > 0 ? survivals[best - 1] : 2.0f;
  for (const StepShare& share : plan) {
    if (!automatic(share)) continue;
    Sequence& s = *running[share.sequence];
    const auto worth = std::count_if(s.tree.nodes.begin() + 1, s.tree.nodes.end(),
                                     [least](const DraftNode& node) { return node.survival >= least; });
    s.drafter->Trim(static_cast<int32_t>(worth), s.tree);
  }
}

// What the store has answered is put in order while a device is at work.
void Engine::Rep::Forward() {
  pass->Begin(batch);
  for (const StepShare& share : plan) {
    if (share.decode) TakeAnswer(*running[share.sequence]);
  }
  top = pass->Finish();
}

void Engine::Rep::TakeAnswer(Sequence& s) {
  if (source == nullptr || s.drafter == nullptr) return;
  if (auto answer = source->Take(s.handle)) s.drafter->Offer(*std::move(answer));
}

NodeLogits Engine::Rep::LogitsOf(int64_t first_row) const {
  return {.k = Drafter::kTopK,
          .ids = top.ids + first_row * Drafter::kTopK,
          .values = top.values + first_row * Drafter::kTopK,
          .log_sum_exp = top.log_sum_exp + first_row};
}

void Engine::Rep::VerifyTrees() {
  int64_t row = 0;
  for (const StepShare& share : plan) {
    if (!share.decode) continue;
    Sequence& s = *running[share.sequence];
    Verify(
        s.tree, [&](int32_t node) { return Target(s, node, row + node); }, s.accepted);
    row += static_cast<int64_t>(s.tree.nodes.size());
  }
}

// The model's token after a node: of the text, the guesses above the node and the node alone.
int32_t Engine::Rep::Target(Sequence& s, int32_t node, int64_t row) {
  const SamplingOptions& sampling = s.request.sampling;
  const bool edits = !s.edits.empty() || !s.grammar.empty();
  if (sampling.greedy() && !edits) return std::max(top.ids[row * Drafter::kTopK], 0);
  if (top.drawn != nullptr && s.draws_plainly()) return top.drawn[row];
  std::span<const float> logits = pass->Logits(row);
  if (edits) {
    s.tree.PathTo(node, path);
    s.edits.Apply(path, logits, edited);
    if (!s.grammar.empty()) s.grammar.Apply(path, logits, edited);
    logits = edited;
  }
  return sampler.Draw(logits, sampling, static_cast<int64_t>(s.tokens.size()) + s.tree.nodes[node].depth);
}

// The only place where sequences change.
void Engine::Rep::Commit(StepReport& report) {
  int64_t row = 0;
  for (const StepShare& share : plan) {
    Sequence& s = *running[share.sequence];
    s.committed += share.prefill;
    report.prompt_tokens += share.prefill;
    // Even of an answer that ends at once: others may wait for its prompt.
    if (share.prefill > 0) cache.Share(s.pages, std::span(s.tokens).first(s.committed));
    if (share.decode) {
      const int64_t rows = static_cast<int64_t>(s.tree.nodes.size());
      CommitSequence(share, row, report);
      row += rows;
    }
    if (running[share.sequence] != nullptr) cache.Share(s.pages, std::span(s.tokens).first(s.committed));
  }
  std::erase(running, nullptr);
}

void Engine::Rep::CommitSequence(const StepShare& share, int64_t first_row, StepReport& report) {
  Sequence& s = *running[share.sequence];
  const Accepted& accepted = s.accepted;
  const int64_t root = static_cast<int64_t>(s.tokens.size()) - 1;

  delta.Clear();
  delta.first_token_index = s.answer_tokens();
  delta.first_text_byte = s.text_bytes;
  for (const int32_t node : accepted.path) {
    delta.token_ids.push_back(s.tree.nodes[node].token);
    delta.sources.push_back(s.tree.nodes[node].source);
  }
  delta.token_ids.push_back(accepted.next);
  delta.sources.push_back(Source::kNone);

  // Ids, text, cache and counts all end at the token that ends the answer.
  std::optional<FinishReason> end;
  size_t kept = 0;
  while (!end && kept < delta.token_ids.size()) {
    end = Append(s, delta.token_ids[kept++], delta.text);
    delta.text_bytes.push_back(static_cast<uint32_t>(s.text.newest_bytes()));
  }
  if (end) end = CloseText(s, *end, delta.text);
  s.text_bytes += static_cast<int64_t>(delta.text.size());
  delta.token_ids.resize(kept);
  delta.sources.resize(kept);
  if (s.request.top_logprobs) AddLogprobs(s, first_row);
  if (s.request.trace) {
    delta.tree = s.tree.nodes;
    delta.accepted.assign(accepted.path.begin(),
                          accepted.path.begin() + std::min(kept, accepted.path.size()));
  }

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
    observer->OnVerified(s.tree, accepted);
    if (observer->WantsLogits()) ShowLogits(s, root, first_row, kept);
  }
  if (s.first_step_done == absl::InfiniteFuture()) s.first_step_done = absl::Now();

  if (!end) {
    // Accepted rows move down to where their tokens stand: never past a row that is still to move.
    moved.clear();
    for (const int32_t node : accepted.path) moved.push_back(s.pages.Slot(root + node));
    pass->Move(moved, s.pages, root + 1);
    s.committed = static_cast<int64_t>(s.tokens.size()) - 1;
    if (s.drafter != nullptr) {
      s.drafter->Observe(s.tree, LogitsOf(first_row), accepted);
      s.drafter->Extend(delta.token_ids);
    }
    AskStore(s);
    s.sink->OnDelta(delta);
    return;
  }
  s.sink->OnDelta(delta);
  Finish(s, *end);
  running[share.sequence].reset();
}

// Token i of a step was chosen after the node above it on the path.
int64_t Engine::Rep::RowOf(const Sequence& s, int64_t first_row, size_t i) const {
  return first_row + (i == 0 ? 0 : s.accepted.path[i - 1]);
}

void Engine::Rep::ShowLogits(const Sequence& s, int64_t root, int64_t first_row, size_t tokens) {
  for (size_t i = 0; i < tokens; ++i) {
    observer->OnLogits(s.handle, root + 1 + static_cast<int64_t>(i), pass->Logits(RowOf(s, first_row, i)));
  }
}

void Engine::Rep::AddLogprobs(const Sequence& s, int64_t first_row) {
  const int32_t vocab = model->config().vocab_size;
  const int32_t count = std::min(*s.request.top_logprobs, vocab);
  std::array<int32_t, Request::kMaxTopLogprobs> ids;
  std::array<float, Request::kMaxTopLogprobs> values;
  delta.logprobs.resize(delta.token_ids.size());
  for (size_t i = 0; i < delta.token_ids.size(); ++i) {
    const int64_t row = RowOf(s, first_row, i);
    const std::span<const float> logits = pass->Logits(row);
    TokenLogprobs& logprobs = delta.logprobs[i];
    logprobs.logprob = logits[delta.token_ids[i]] - top.log_sum_exp[row];
    if (count == 0) continue;
    kernels::TopK(logits.data(), vocab, 1, vocab, count, ids.data(), values.data(), nullptr, pool);
    logprobs.top.reserve(count);
    for (int32_t k = 0; k < count && ids[k] >= 0; ++k)
      logprobs.top.push_back({ids[k], values[k] - top.log_sum_exp[row]});
  }
}

// A little patience, as a share of what a step takes; less and less often where it is in vain.
void Engine::Rep::AwaitStore() {
  if (!std::exchange(asked, false)) return;
  if (++waits % (int64_t{1} << std::min(waits_in_vain, kLongestPause)) != 0) return;
  const bool answered = source->Await(absl::Now() + absl::Seconds(kWaitShare * forward_seconds));
  waits_in_vain = answered ? 0 : waits_in_vain + 1;
}

void Engine::Rep::AskStore(Sequence& s) {
  if (source == nullptr || s.drafter == nullptr || !s.request.use_store || !s.drafter->WantsAnswer()) return;
  const std::span<const int32_t> text(s.tokens);
  asked = true;
  const bool shared = s.request.use_shared && !options.shared_tenant.empty();
  const std::string_view tenants[] = {s.request.tenant, options.shared_tenant};
  source->Ask(s.handle, std::span(tenants, shared ? 2 : 1),
              text.last(std::min<size_t>(text.size(), kAskedContext)), static_cast<int64_t>(text.size()));
}

}  // namespace clamor
