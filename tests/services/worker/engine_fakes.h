// What tests of the engine share: tiny models, a sink that records, stores that tell the truth or do not, and
// a drafter that guesses wildly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "model/spec/continuation_source.h"
#include "model/spec/drafter.h"
#include "model/tokenizer/tokenizer.h"
#include "model/transformer.h"
#include "nlohmann/json.hpp"
#include "services/worker/engine.h"

namespace clamor {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;  // loops shrink: every step costs ten times as much
#else
inline constexpr bool kSanitized = false;
#endif

inline constexpr const char* kFamilies[] = {"llama", "qwen2", "qwen3", "mistral"};

inline std::string TinyDirectory(const std::string& family) {
  return std::string(CLAMOR_TESTDATA) + "/tiny-" + family;
}

// Loaded once for the whole process.
inline const Transformer& ModelAt(const std::string& directory, WeightFormat format = WeightFormat::kStored) {
  static auto& models = *new std::map<std::pair<std::string, WeightFormat>, std::unique_ptr<Transformer>>;
  auto& model = models[{directory, format}];
  if (model == nullptr) {
    kernels::ThreadPool pool(1);
    auto loaded = Transformer::Load(directory, format, 0, pool, [](uint64_t, uint64_t) {});
    if (!loaded.ok()) {
      ADD_FAILURE() << loaded.status();
      std::abort();
    }
    model = *std::move(loaded);
  }
  return *model;
}
inline const Transformer& TinyModel(const std::string& family, WeightFormat format = WeightFormat::kStored) {
  return ModelAt(TinyDirectory(family), format);
}

inline const Tokenizer& TokenizerAt(const std::string& directory) {
  static auto& tokenizers = *new std::map<std::string, std::unique_ptr<Tokenizer>>;
  auto& tokenizer = tokenizers[directory];
  if (tokenizer == nullptr) {
    const auto files = TokenizerFiles::Read(directory);
    auto loaded = files.ok() ? Tokenizer::Load(*files) : files.status();
    if (!loaded.ok()) {
      ADD_FAILURE() << loaded.status();
      std::abort();
    }
    tokenizer = *std::move(loaded);
  }
  return *tokenizer;
}

struct GoldenCase {
  std::vector<int32_t> prompt_ids, greedy_ids;
};
inline std::vector<GoldenCase> Goldens(const std::string& family) {
  std::ifstream in(TinyDirectory(family) + "/golden.json");
  const auto golden_file = nlohmann::json::parse(in);
  std::vector<GoldenCase> cases;
  for (const auto& golden : golden_file.at("decoding")) {
    cases.push_back({golden.at("prompt_ids").get<std::vector<int32_t>>(),
                     golden.at("greedy_ids").get<std::vector<int32_t>>()});
  }
  return cases;
}

// Keeps everything and checks the order of the calls.
class RecordingSink : public TokenSink {
 public:
  explicit RecordingSink(int64_t first_index = 0) : first_index_(first_index) {}

  void OnStarted(int32_t cached) override {
    EXPECT_FALSE(started || finished.has_value());
    cached_tokens = cached;
    started = true;
  }
  void OnDelta(const Delta& delta) override {
    EXPECT_TRUE(started && !finished.has_value());
    EXPECT_EQ(delta.first_token_index, first_index_ + static_cast<int64_t>(ids.size()));
    if (deltas == 0) first_text_byte = delta.first_text_byte;
    EXPECT_EQ(delta.first_text_byte, first_text_byte + static_cast<int64_t>(text.size()));
    EXPECT_FALSE(delta.token_ids.empty());
    EXPECT_EQ(delta.sources.size(), delta.token_ids.size());
    ids.insert(ids.end(), delta.token_ids.begin(), delta.token_ids.end());
    sources.insert(sources.end(), delta.sources.begin(), delta.sources.end());
    text += delta.text;
    text_at.resize(ids.size() + 1, text.size());
    ++deltas;
    if (on_delta) on_delta();
  }
  void OnFinished(const Finished& last) override {
    EXPECT_FALSE(finished.has_value());
    finished = last;
  }

  bool started = false;
  int32_t cached_tokens = 0;
  std::vector<int32_t> ids;
  std::vector<Source> sources;
  std::string text;
  int64_t first_text_byte = 0;        // of the first delta
  std::vector<size_t> text_at = {0};  // [ids + 1] bytes of text that had come with so many ids
  int64_t deltas = 0;
  std::optional<Finished> finished;
  std::function<void()> on_delta;

 private:
  int64_t first_index_;
};

// A sink whose end another thread may wait for.
class AwaitedSink : public RecordingSink {
 public:
  void OnFinished(const Finished& finished) override {
    RecordingSink::OnFinished(finished);
    done.Notify();
  }
  absl::Notification done;
};

// A store whose answers a test makes up; each comes `delay` Takes after its question.
class ScriptedSource : public ContinuationSource {
 public:
  using Script = std::function<std::optional<Answer>(std::span<const int32_t> context, int64_t position)>;
  explicit ScriptedSource(Script script, int delay = 0) : script_(std::move(script)), delay_(delay) {}

  void Ask(uint64_t sequence, std::span<const std::string_view>, std::span<const int32_t> context,
           int64_t position) override {
    EXPECT_FALSE(context.empty());
    EXPECT_LE(static_cast<int64_t>(context.size()), position);
    EXPECT_FALSE(forgotten_.contains(sequence)) << "a question for a sequence that is gone";
    if (open_.contains(sequence)) return;  // as the contract allows
    ++questions;
    open_[sequence] = {script_(context, position), delay_};
  }
  std::optional<Answer> Take(uint64_t sequence) override {
    const auto it = open_.find(sequence);
    if (it == open_.end() || it->second.wait-- > 0) return std::nullopt;
    return open_.extract(it).mapped().answer;
  }
  void Forget(uint64_t sequence) override {
    open_.erase(sequence);
    EXPECT_TRUE(forgotten_.insert(sequence).second);
  }
  size_t open() const { return open_.size(); }
  size_t forgotten() const { return forgotten_.size(); }

  int64_t questions = 0;

 private:
  struct Open {
    std::optional<Answer> answer;
    int wait = 0;
  };
  Script script_;
  int delay_;
  std::map<uint64_t, Open> open_;
  std::set<uint64_t> forgotten_;
};

// What no honest store would say: any shape, any token, any position.
inline ContinuationSource::Answer HostileAnswer(int64_t position, int32_t vocab, std::mt19937& random) {
  const auto below = [&random](int n) { return static_cast<int32_t>(random() % static_cast<uint32_t>(n)); };
  constexpr int32_t kOdd[] = {-1, -7, INT32_MIN, INT32_MAX};
  const bool broken = below(3) == 0;  // a third is beyond belief; the rest is only wrong
  ContinuationSource::Answer answer{.position = position};
  if (below(4) == 0) answer.position += below(9) - 5;
  if (broken && below(4) == 0) answer.position = below(2) ? INT64_MIN : INT64_MAX;
  answer.trie.match_length = broken ? kOdd[below(4)] : below(20);
  answer.trie.occurrences = broken ? 0 : static_cast<uint32_t>(below(9));
  for (int32_t i = 0, n = below(40); i < n; ++i) {
    ContinuationTrie::Node node{
        .token = below(vocab), .parent = below(i + 1) - 1, .count = static_cast<uint32_t>(1 + below(9))};
    if (below(5) == 0 && i > 0) node = answer.trie.nodes.back();  // a child named twice
    if (broken && below(8) == 0) node.token = below(2) ? kOdd[below(4)] : vocab;
    if (broken && below(8) == 0) node.parent = below(2) ? kOdd[below(4)] : i;
    if (broken && below(8) == 0) node.count = below(2) ? 0 : UINT32_MAX;
    answer.trie.nodes.push_back(node);
  }
  return answer;
}

// Trees of any shape, each node right for its depth or wrong by the toss of a coin, equal siblings included.
// `text` is the prompt and the answer that will come.
class RandomDrafter : public Drafter {
 public:
  RandomDrafter(std::vector<int32_t> text, int32_t vocab, uint32_t seed)
      : text_(std::move(text)), vocab_(vocab), random_(seed) {}

  void Extend(std::span<const int32_t> tokens) override {
    length_ += tokens.size();
    last_ = tokens.back();
  }
  void Draft(int32_t max_nodes, DraftTree& tree) override {
    tree.Reset(last_);
    for (int32_t i = 0, n = Below(max_nodes + 1); i < n; ++i) {
      const int32_t parent = Below(2) ? tree.drafted() : Below(tree.drafted() + 1);
      const size_t position = length_ + tree.nodes[parent].depth;
      const bool right = Below(3) > 0 && position < text_.size();
      tree.Add(right ? text_[position] : Below(vocab_), parent, Source::kNoise);
    }
    EXPECT_TRUE(tree.CheckIntegrity().ok()) << tree.CheckIntegrity();
  }
  void Trim(int32_t max_nodes, DraftTree& tree) override {
    if (tree.drafted() > max_nodes) tree.nodes.resize(max_nodes + 1);
  }
  void Observe(const DraftTree&, const NodeLogits&, const Accepted&) override {}
  void Offer(ContinuationSource::Answer) override {}
  bool WantsAnswer() const override { return false; }

 private:
  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(n)); }

  std::vector<int32_t> text_;
  int32_t vocab_;
  std::mt19937 random_;
  size_t length_ = 0;
  int32_t last_ = 0;
};

inline std::unique_ptr<Engine> MakeEngine(const Model& model, const EngineOptions& options,
                                          const Tokenizer* tokenizer = nullptr,
                                          ContinuationSource* source = nullptr,
                                          StepObserver* observer = nullptr) {
  auto engine = Engine::Create(&model, tokenizer, source, observer, options);
  if (!engine.ok()) {
    ADD_FAILURE() << engine.status();
    std::abort();
  }
  return *std::move(engine);
}

// Submits and expects success.
inline uint64_t Submit(Engine& engine, Request request, TokenSink& sink) {
  const auto handle = engine.Submit(std::move(request), &sink);
  EXPECT_TRUE(handle.ok()) << handle.status();
  return handle.value_or(0);
}

}  // namespace clamor
