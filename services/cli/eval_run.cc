#include "services/cli/eval_run.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/cli/eval_progress.h"
#include "services/worker/engine.h"
#include "services/worker/retrieval_drafter.h"

namespace clamor::cli {
namespace {

constexpr int32_t kWarmUpTokens = 8;
constexpr char kWarmUpTenant[] = "warm-up";  // what it teaches is nobody's

// Keeps one answer.
class AnswerSink final : public TokenSink {
 public:
  explicit AnswerSink(ModeAnswer& answer) : answer_(answer) {}

  void OnDelta(const Delta& delta) override {
    if (answer_.ids.empty()) answer_.first_tokens = static_cast<int64_t>(delta.token_ids.size());
    answer_.ids.insert(answer_.ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  }
  void OnFinished(const Finished& finished) override {
    answer_.finish_reason = FinishReasonName(finished.reason);
    answer_.stats = finished.stats;
    finished_ = true;
  }
  bool finished() const { return finished_; }

 private:
  ModeAnswer& answer_;
  bool finished_ = false;
};

// Counts an engine's steps from one Take to the next.
class StepCounter final : public StepObserver {
 public:
  void OnStep(const StepReport& report) override { counts_.AddStep(report); }
  void OnAccepted(int32_t tokens) override { counts_.AddEmitted(tokens); }
  void OnVerified(const DraftTree& tree, const Accepted& accepted) override {
    counts_.AddTree(tree, accepted);
  }
  StepCounts Take() { return std::exchange(counts_, {}); }

 private:
  StepCounts counts_;
};

// One mode with all that it needs to answer.
class Contestant {
 public:
  static absl::StatusOr<std::unique_ptr<Contestant>> Create(const EvalTask& task, const EvalMode& mode) {
    auto contestant = std::unique_ptr<Contestant>(new Contestant(mode));
    const LoadedModel& model = *task.model;
    if (!task.retrieval.empty() && mode.speculation.nodes != 0) {
      contestant->store_ = std::make_unique<RetrievalDrafter>(
          MakeRetrievalChannel(task.retrieval),
          RetrievalDrafterOptions{.tokenizer_fingerprint = model.files.Fingerprint(),
                                  .vocab_size = model.transformer->config().vocab_size},
          nullptr);
    }
    size_t longest = 0;
    for (const EvalQuestion& question : task.questions)
      longest = std::max(longest, question.prompt_ids.size());
    const bool automatic = mode.speculation.nodes == SpeculationOptions::kAuto &&
                           mode.speculation.shape == TreeShape::kMerged;  // else no cost needs to be measured
    const EngineOptions options{.threads = model.threads,
                                .kv_tokens = static_cast<int64_t>(longest) + task.options.max_tokens +
                                             2 * SpeculationOptions::kMaxNodes,
                                .max_sequences = 1,
                                .max_waiting = 1,
                                .kv_format = model.kv_format,
                                .default_nodes = automatic ? SpeculationOptions::kAuto : 0};
    CLAMOR_ASSIGN_OR_RETURN(contestant->engine_,
                            Engine::Create(model.transformer.get(), model.tokenizer.get(),
                                           contestant->store_.get(), &contestant->counter_, options));
    return contestant;
  }

  // Nothing if `stop` was set before the end.
  absl::StatusOr<std::optional<ModeAnswer>> Answer(Request request, const std::atomic<bool>& stop) {
    request.speculation = mode_.speculation;
    ModeAnswer answer;
    AnswerSink sink(answer);
    CLAMOR_ASSIGN_OR_RETURN(const uint64_t handle, engine_->Submit(std::move(request), &sink));
    bool stopped = false;
    while (!sink.finished()) {
      if (!stopped && stop) {
        stopped = true;
        engine_->Cancel(handle);
      }
      engine_->Step();
    }
    answer.counts = counter_.Take();
    if (stopped) return std::optional<ModeAnswer>();
    return std::optional<ModeAnswer>(std::move(answer));
  }

  const std::string& name() const { return mode_.name; }

 private:
  explicit Contestant(const EvalMode& mode) : mode_(mode) {}

  const EvalMode mode_;
  std::unique_ptr<RetrievalDrafter> store_;  // may be null; outlives the engine
  StepCounter counter_;                      // outlives the engine
  std::unique_ptr<Engine> engine_;
};

using Contestants = std::vector<std::unique_ptr<Contestant>>;

// Touches weights, caches and threads, so that the first prompt is measured like the others.
absl::Status WarmUp(const EvalTask& task, Contestants& contestants, const std::atomic<bool>& stop) {
  Request request = task.options;
  request.tenant = kWarmUpTenant;
  request.prompt_ids = task.questions.front().prompt_ids;
  request.max_tokens = std::min(request.max_tokens, kWarmUpTokens);
  for (const auto& contestant : contestants) {
    if (auto answer = contestant->Answer(request, stop); !answer.ok()) return answer.status();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Questions> EncodeQuestions(const LoadedModel& model, const std::vector<SuitePrompt>& prompts,
                                          const std::string& path, bool chat, int64_t limit,
                                          int32_t max_tokens) {
  Questions questions;
  std::map<std::string, int64_t> taken;
  for (const SuitePrompt& suite_prompt : prompts) {
    int64_t& of_category = taken[suite_prompt.category];
    if (limit > 0 && of_category == limit) continue;
    Prompt prompt = suite_prompt.prompt;
    if (const auto* text = std::get_if<std::string>(&prompt); chat && text != nullptr) {
      prompt = std::vector<ChatMessage>{{"user", *text}};
    }
    absl::StatusOr<std::vector<int32_t>> ids = EncodePrompt(model, prompt);
    if (!ids.ok()) {
      return absl::Status(ids.status().code(),
                          absl::StrCat(path, ":", suite_prompt.line, ": ", ids.status().message()));
    }
    if (static_cast<int64_t>(ids->size()) + max_tokens > model.transformer->max_positions()) {
      ++questions.too_long[suite_prompt.category];
      continue;
    }
    ++of_category;
    questions.asked.push_back({suite_prompt.id, suite_prompt.category, suite_prompt.line, *std::move(ids)});
  }
  if (questions.asked.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": no prompt leaves room for --max-tokens ",
                                                   max_tokens, " in the context of ",
                                                   model.transformer->max_positions(), " tokens"));
  }
  return questions;
}

absl::StatusOr<std::vector<Answered>> Evaluate(const EvalTask& task, const std::atomic<bool>& stop) {
  Contestants contestants;
  for (const EvalMode& mode : task.modes) {
    CLAMOR_ASSIGN_OR_RETURN(std::unique_ptr<Contestant> contestant, Contestant::Create(task, mode));
    contestants.push_back(std::move(contestant));
  }
  CLAMOR_RETURN_IF_ERROR(WarmUp(task, contestants, stop));

  std::vector<Answered> all;
  EvalProgress progress(task.questions.size(), contestants.size());
  for (size_t i = 0; i < task.questions.size(); ++i) {
    const EvalQuestion& question = task.questions[i];
    Answered answered{question, std::vector<ModeAnswer>(contestants.size())};
    for (size_t turn = 0; turn < contestants.size(); ++turn) {
      const size_t mode = (i + turn) % contestants.size();
      Request request = task.options;
      request.prompt_ids = question.prompt_ids;
      request.tenant = task.fresh ? absl::StrCat("prompt-", i) : "default";
      CLAMOR_ASSIGN_OR_RETURN(std::optional<ModeAnswer> answer,
                              contestants[mode]->Answer(std::move(request), stop));
      if (!answer) return all;
      progress.Show(i, question, contestants[mode]->name(), *answer);
      answered.answers[mode] = *std::move(answer);
    }
    all.push_back(std::move(answered));
  }
  return all;
}

}  // namespace clamor::cli
