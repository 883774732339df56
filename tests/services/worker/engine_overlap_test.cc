// What the engine does while a device is at work.
#include <memory>
#include <optional>

#include "gtest/gtest.h"
#include "tests/services/worker/engine_fakes.h"

namespace clamor {
namespace {

// A model that knows when its steps are under way.
class WatchedModel : public Model {
 public:
  explicit WatchedModel(const Model& model) : model_(model) {}

  const ModelConfig& config() const override { return model_.config(); }
  const GenerationDefaults& generation() const override { return model_.generation(); }
  int32_t max_positions() const override { return model_.max_positions(); }
  size_t weight_bytes() const override { return model_.weight_bytes(); }
  int32_t max_tree_rows() const override { return model_.max_tree_rows(); }
  absl::StatusOr<std::unique_ptr<ForwardPass>> NewPass(KvCache& cache, const PassLimits& limits,
                                                       kernels::ThreadPool& pool) const override {
    auto pass = model_.NewPass(cache, limits, pool);
    if (!pass.ok()) return pass.status();
    return std::make_unique<Pass>(*std::move(pass), under_way);
  }

  mutable bool under_way = false;

 private:
  class Pass : public ForwardPass {
   public:
    Pass(std::unique_ptr<ForwardPass> pass, bool& under_way)
        : pass_(std::move(pass)), under_way_(under_way) {}
    void Begin(const Batch& batch) override {
      EXPECT_FALSE(under_way_);
      under_way_ = true;
      pass_->Begin(batch);
    }
    TopLogits Finish() override {
      EXPECT_TRUE(under_way_);
      under_way_ = false;
      return pass_->Finish();
    }
    std::span<const float> Logits(int64_t row) override { return pass_->Logits(row); }
    void Move(std::span<const int32_t> from, const KvLease& lease, int64_t first) override {
      pass_->Move(from, lease, first);
    }

   private:
    const std::unique_ptr<ForwardPass> pass_;
    bool& under_way_;
  };

  const Model& model_;
};

// A store that answers only while a step is under way.
class PunctualSource : public ScriptedSource {
 public:
  PunctualSource(Script script, const bool& under_way)
      : ScriptedSource(std::move(script)), under_way_(under_way) {}
  std::optional<Answer> Take(uint64_t sequence) override {
    if (!under_way_) return std::nullopt;
    auto answer = ScriptedSource::Take(sequence);
    if (answer.has_value()) ++taken;
    return answer;
  }

  int64_t taken = 0;

 private:
  const bool& under_way_;
};

TEST(EngineOverlapTest, TakesTheStoresAnswersWhileAStepIsUnderWay) {
  const WatchedModel model(TinyModel("llama"));
  // What the model says without guesses is what the store then knows.
  RecordingSink plain;
  const Request request = {.prompt_ids = {3, 1, 4, 1, 5}, .max_tokens = 24, .ignore_eos = true};
  {
    const auto engine = MakeEngine(model, {.kv_tokens = 1024, .default_nodes = 0});
    Submit(*engine, request, plain);
    while (engine->Step()) {
    }
  }
  std::vector<int32_t> text = request.prompt_ids;
  text.insert(text.end(), plain.ids.begin(), plain.ids.end());
  PunctualSource store(
      [&](std::span<const int32_t>, int64_t position) {
        ContinuationSource::Answer answer{.position = position};
        answer.trie.match_length = 4;
        answer.trie.occurrences = 8;
        for (size_t i = position; i < text.size(); ++i) {
          answer.trie.nodes.push_back(
              {.token = text[i], .parent = static_cast<int32_t>(i - position) - 1, .count = 8});
        }
        return std::optional(answer);
      },
      model.under_way);
  const auto engine = MakeEngine(model, {.kv_tokens = 1024, .default_nodes = 8}, nullptr, &store);
  RecordingSink sink;
  Submit(*engine, request, sink);
  while (engine->Step()) {
  }
  EXPECT_EQ(sink.ids, plain.ids);
  ASSERT_TRUE(sink.finished.has_value());
  EXPECT_GT(store.taken, 0);
  EXPECT_GT(sink.finished->stats.accepted_by_source[static_cast<size_t>(Source::kStore)], 0);
}

}  // namespace
}  // namespace clamor
