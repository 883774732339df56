#include "services/cli/train_evaluation.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/status_macros.h"
#include "services/worker/engine.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {
namespace {

constexpr size_t kShownSamples = 3;

// Keeps the ids and the count of forwards of one answer.
class AnswerSink final : public TokenSink {
 public:
  void OnDelta(const Delta& delta) override {
    ids.insert(ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  }
  void OnFinished(const Finished& finished) override { forwards = finished.stats.forwards; }

  std::vector<int32_t> ids;
  int64_t forwards = 0;
};

SpeculationOptions Speculation(const std::string& nodes) {
  SpeculationOptions options;
  if (nodes == "published") {
    options.shape = TreeShape::kPublished;
  } else {
    (void)absl::SimpleAtoi(nodes, &options.nodes);  // the flag was checked
  }
  return options;
}

// Answers all prompts, one after the other; an engine of its own for each, for engines learn.
absl::StatusOr<std::vector<AnswerSink>> Answer(const LoadedModel& model, const DecodingTask& task,
                                               const std::string& nodes, const std::atomic<bool>& stop) {
  std::vector<AnswerSink> answers(task.prompts.size());
  for (size_t i = 0; i < answers.size(); ++i) {
    const auto prompt = static_cast<int32_t>(task.prompts[i].size());
    const int32_t max_tokens = std::min(task.max_tokens, model.transformer->max_positions() - prompt);
    CLAMOR_ASSIGN_OR_RETURN(
        const std::unique_ptr<Engine> engine,
        Engine::Create(model.transformer.get(), model.tokenizer.get(), nullptr, nullptr,
                       {.threads = task.threads,
                        .kv_tokens = prompt + max_tokens + 2 * SpeculationOptions::kMaxNodes,
                        .max_sequences = 1,
                        .default_nodes = 0}));
    const absl::StatusOr<uint64_t> handle = engine->Submit(
        {.prompt_ids = task.prompts[i], .max_tokens = max_tokens, .speculation = Speculation(nodes)},
        &answers[i]);
    if (!handle.ok()) return handle.status();
    while (engine->Step()) {
      if (stop) return absl::CancelledError("interrupted");
    }
  }
  return answers;
}

// A model can have more tokens than its tokenizer, and before it has learnt not to, it says them.
absl::StatusOr<std::string> Shown(const Tokenizer& tokenizer, std::vector<int32_t> ids) {
  std::erase_if(ids, [&](int32_t id) { return id >= tokenizer.vocab_size(); });
  return tokenizer.Decode(ids, /*skip_specials=*/true);
}

}  // namespace

absl::StatusOr<DecodingResult> DecodeHeldOut(const DecodingTask& task, const std::atomic<bool>& stop) {
  CLAMOR_ASSIGN_OR_RETURN(
      const LoadedModel model,
      LoadModel({.directory = task.model_dir, .threads = task.threads}, [](uint64_t, uint64_t) {}));
  DecodingResult result;
  std::vector<AnswerSink> first;
  for (const std::string& nodes : task.nodes) {
    CLAMOR_ASSIGN_OR_RETURN(std::vector<AnswerSink> answers, Answer(model, task, nodes, stop));
    int64_t tokens = 0, forwards = 0;
    for (size_t i = 0; i < answers.size(); ++i) {
      tokens += static_cast<int64_t>(answers[i].ids.size());
      forwards += answers[i].forwards;
      if (!first.empty() && first[i].ids != answers[i].ids) {
        return absl::InternalError(absl::StrCat("held-out prompt ", i, " was answered differently with ",
                                                nodes, " nodes than with ", task.nodes[0]));
      }
    }
    result.speeds.push_back(
        {nodes, forwards > 0 ? static_cast<double>(tokens) / static_cast<double>(forwards) : 0});
    if (first.empty()) first = std::move(answers);
  }
  for (size_t i = 0; i < std::min(kShownSamples, first.size()); ++i) {
    CLAMOR_ASSIGN_OR_RETURN(std::string prompt, Shown(*model.tokenizer, task.prompts[i]));
    CLAMOR_ASSIGN_OR_RETURN(std::string text, Shown(*model.tokenizer, first[i].ids));
    result.samples.push_back({std::move(prompt), std::move(text)});
  }
  return result;
}

std::vector<std::vector<int32_t>> PromptsOf(const std::vector<Sample>& samples, int32_t count,
                                            const ModelConfig& config) {
  std::vector<std::vector<int32_t>> prompts;
  for (const Sample& sample : samples) {
    if (static_cast<int32_t>(prompts.size()) == count) break;
    const int32_t size = sample.responses.front().begin;
    if (size < config.max_positions) prompts.emplace_back(sample.ids.begin(), sample.ids.begin() + size);
  }
  return prompts;
}

std::string Summary(const LoggedEvaluation& evaluation) {
  std::vector<std::string> parts;
  if (std::isfinite(evaluation.heldout_loss))
    parts.push_back(absl::StrFormat("held-out loss %.4f", evaluation.heldout_loss));
  const char* introduction = "tokens per forward by nodes ";
  for (const LoggedSpeed& speed : evaluation.speeds) {
    parts.push_back(absl::StrFormat("%s%s: %.2f", introduction, speed.draft, speed.tokens_per_forward));
    introduction = "";
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace clamor::cli
