// What the tests of the engine start from: a tiny model with its goldens, and an engine for one answer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "services/worker/engine.h"
#include "tests/services/worker/engine_fakes.h"

namespace clamor {

inline constexpr SpeculationOptions kPlain = {.nodes = 0};
inline constexpr SpeculationOptions kModes[] = {
    kPlain, {.shape = TreeShape::kPublished}, {.nodes = 1}, {.nodes = 12}, {.nodes = 64}};
inline constexpr int32_t kVocab = 640;

inline void StepUntilIdle(Engine& engine) {
  while (engine.Step()) {
  }
}

class EngineTest : public testing::Test {
 protected:
  // The answer to `request` by an engine of its own.
  RecordingSink Answer(Request request, EngineOptions options = {.default_nodes = 0},
                       ContinuationSource* source = nullptr) {
    const auto engine = MakeEngine(model_, options, &tokenizer_, source);
    RecordingSink sink(static_cast<int64_t>(request.emitted_ids.size()));
    Submit(*engine, std::move(request), sink);
    StepUntilIdle(*engine);
    EXPECT_TRUE(sink.finished.has_value());
    EXPECT_EQ(engine->Load().kv_pages_used, 0);
    return sink;
  }

  // An honest store that has seen `text` before.
  static ScriptedSource Truthful(std::vector<int32_t> text, int delay = 0) {
    return ScriptedSource(
        [text = std::move(text)](std::span<const int32_t> context,
                                 int64_t position) -> std::optional<ContinuationSource::Answer> {
          EXPECT_EQ(context.back(), text[position - 1]);
          ContinuationSource::Answer answer{.position = position,
                                            .trie = {.match_length = 10, .occurrences = 3}};
          for (size_t i = position; i < std::min<size_t>(text.size(), position + 10); ++i) {
            const int32_t parent = static_cast<int32_t>(answer.trie.nodes.size()) - 1;
            answer.trie.nodes.push_back({.token = text[i], .parent = parent, .count = 3});
          }
          return answer;
        },
        delay);
  }

  Request Golden(int number, int32_t max_tokens = 40) const {
    return {.prompt_ids = goldens_[number].prompt_ids, .max_tokens = max_tokens, .ignore_eos = true};
  }
  // The model's head is wider than the vocabulary: ids without a token have no text.
  std::string Decode(std::vector<int32_t> ids) const {
    std::erase_if(ids, [this](int32_t id) { return id >= tokenizer_.vocab_size(); });
    return tokenizer_.Decode(ids, /*skip_specials=*/true).value();
  }

  const Transformer& model_ = TinyModel("llama");
  const Tokenizer& tokenizer_ = TokenizerAt(TinyDirectory("llama"));
  const std::vector<GoldenCase> goldens_ = Goldens("llama");
};

}  // namespace clamor
