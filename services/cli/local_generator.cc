// The engine in this process, stepped by the calling thread.
#include <random>
#include <utility>

#include "kernels/status_macros.h"
#include "services/cli/command.h"
#include "services/cli/generator.h"
#include "services/worker/engine.h"
#include "services/worker/retrieval_drafter.h"

namespace clamor::cli {
namespace {

uint64_t DrawSeed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

class Collector final : public TokenSink {
 public:
  Collector(Answer& answer, absl::FunctionRef<void(const Delta&)> on_delta)
      : answer_(answer), on_delta_(on_delta) {}

  void OnDelta(const Delta& delta) override {
    answer_.Add(delta);
    on_delta_(delta);
  }

  void OnFinished(const Finished& finished) override {
    answer_.finish_reason = FinishReasonName(finished.reason);
    answer_.matched_stop = finished.matched_stop;
    answer_.prompt_tokens = finished.usage.prompt_tokens;
    answer_.stats = finished.stats;
    finished_ = true;
  }

  bool finished() const { return finished_; }

 private:
  Answer& answer_;
  absl::FunctionRef<void(const Delta&)> on_delta_;
  bool finished_ = false;
};

class LocalGenerator final : public Generator {
 public:
  LocalGenerator(LoadedModel model, std::unique_ptr<RetrievalDrafter> drafter, std::unique_ptr<Engine> engine)
      : model_(std::move(model)), drafter_(std::move(drafter)), engine_(std::move(engine)) {}

  absl::StatusOr<Answer> Generate(const Question& question,
                                  absl::FunctionRef<void(const Delta&)> on_delta) override {
    Request request = question.options;
    CLAMOR_ASSIGN_OR_RETURN(request.prompt_ids, EncodePrompt(model_, question.prompt));
    request.tenant = "default";
    request.sampling.seed = question.seed.has_value() ? *question.seed : DrawSeed();

    Answer answer;
    answer.model = model_.name;
    answer.seed = request.sampling.seed;
    if (request.top_logprobs) answer.logprobs.emplace();
    Collector collector(answer, on_delta);
    CLAMOR_ASSIGN_OR_RETURN(const uint64_t handle, engine_->Submit(std::move(request), &collector));
    for (bool cancelled = false; !collector.finished();) {
      if (Interrupted() && !cancelled) {
        cancelled = true;
        engine_->Cancel(handle);
      }
      engine_->Step();
    }
    return answer;
  }

 private:
  LoadedModel model_;                          // outlives the engine
  std::unique_ptr<RetrievalDrafter> drafter_;  // may be null; outlives the engine
  std::unique_ptr<Engine> engine_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Generator>> MakeLocalGenerator(LoadedModel model, const std::string& retrieval,
                                                              int32_t nodes) {
  std::unique_ptr<RetrievalDrafter> drafter;
  if (!retrieval.empty()) {
    drafter = std::make_unique<RetrievalDrafter>(
        MakeRetrievalChannel(retrieval),
        RetrievalDrafterOptions{.tokenizer_fingerprint = model.files.Fingerprint(),
                                .vocab_size = model.transformer->config().vocab_size},
        nullptr);
  }
  const EngineOptions options{
      .threads = model.threads,
      .kv_tokens = model.transformer->max_positions() + 2 * SpeculationOptions::kMaxNodes,
      .max_sequences = 1,
      .max_waiting = 1,
      .kv_format = model.kv_format,
      .default_nodes = nodes};
  CLAMOR_ASSIGN_OR_RETURN(
      std::unique_ptr<Engine> engine,
      Engine::Create(model.transformer.get(), model.tokenizer.get(), drafter.get(), nullptr, options));
  return std::make_unique<LocalGenerator>(std::move(model), std::move(drafter), std::move(engine));
}

}  // namespace clamor::cli
