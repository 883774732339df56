// Every sampling feature against a plain loop, and the same ids, text and bits of log-probabilities whatever
// is drafted and wherever the answer was begun.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/grammar/json_schema.h"
#include "model/grammar/token_trie.h"
#include "model/spec/answer_text.h"
#include "tests/services/worker/engine_fakes.h"

namespace clamor {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kTokens = kSanitized ? 12 : 32;
const char kFamily[] = "qwen2";

const Transformer& Model() { return TinyModel(kFamily); }
const Tokenizer& Words() { return TokenizerAt(TinyDirectory(kFamily)); }

// Keeps the row of logits of each token of one answer.
class RowsKept : public StepObserver {
 public:
  void OnStep(const StepReport&) override {}
  void OnAccepted(int32_t) override {}
  bool WantsLogits() const override { return true; }
  void OnLogits(uint64_t, int64_t, std::span<const float> logits) override {
    rows.emplace_back(logits.begin(), logits.end());
  }
  std::vector<std::vector<float>> rows;
};

struct Answer {
  std::vector<int32_t> ids;
  std::string text;
  Finished finished;
  std::vector<TokenLogprobs> logprobs;
  std::vector<std::vector<float>> rows;
};

class LogprobSink : public RecordingSink {
 public:
  using RecordingSink::RecordingSink;
  void OnDelta(const Delta& delta) override {
    logprobs.insert(logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    RecordingSink::OnDelta(delta);
  }
  std::vector<TokenLogprobs> logprobs;
};

// By an engine of its own. `text`: prompt and answer, for a drafter that guesses wildly around it; empty: the
// engine's.
Answer Ask(Request request, const std::vector<int32_t>& text = {}) {
  EngineOptions options{.default_nodes = 0};
  if (!text.empty()) {
    options.drafter_factory = [&text](const Request&) {
      return std::make_unique<RandomDrafter>(text, Model().config().vocab_size, 1);
    };
  }
  RowsKept observer;
  const auto engine = MakeEngine(Model(), options, &Words(), nullptr, &observer);
  LogprobSink sink(static_cast<int64_t>(request.emitted_ids.size()));
  Submit(*engine, std::move(request), sink);
  while (engine->Step()) {
  }
  EXPECT_TRUE(sink.finished.has_value());
  EXPECT_EQ(engine->Load().kv_pages_used, 0);
  return {sink.ids, sink.text, sink.finished.value_or(Finished{}), sink.logprobs, observer.rows};
}

bool Holds(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Where the grammar stands after the first `done` ids, read byte by byte; nothing: it has no such text.
std::optional<GrammarState> SlowState(const Grammar& grammar, const std::vector<int32_t>& ids, size_t done) {
  static const auto& trie = *new TokenTrie(Words());
  GrammarState state = grammar.Start();
  for (size_t i = 0; i < done; ++i) {
    if (trie.Bytes(ids[i]).empty()) return std::nullopt;
    for (const char byte : trie.Bytes(ids[i])) {
      if (!grammar.Advance(&state, static_cast<unsigned char>(byte))) return std::nullopt;
    }
  }
  return state;
}

bool SlowAllowed(const Grammar& grammar, std::vector<int32_t> ids, size_t done, int32_t id) {
  if (Holds(Model().generation().eos_ids, id)) return grammar.AtEnd(*SlowState(grammar, ids, done));
  ids.resize(done);
  ids.push_back(id);
  return SlowState(grammar, ids, done + 1).has_value();
}

// The token that a plain loop draws from `logits` after the first `done` ids of the answer.
int32_t SlowToken(const Request& request, const std::vector<int32_t>& ids, size_t done,
                  std::vector<float> logits) {
  const SamplingOptions& sampling = request.sampling;
  const std::vector<float> unedited = logits;
  const auto answer_end = ids.begin() + static_cast<int64_t>(done);
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    float& x = logits[id];
    const auto times = static_cast<float>(std::count(ids.begin(), answer_end, id));
    if (sampling.repetition_penalty != 1 && (times > 0 || Holds(request.prompt_ids, id))) {
      x = x > 0 ? x / sampling.repetition_penalty : x * sampling.repetition_penalty;
    }
    if (times > 0) x -= sampling.presence_penalty + sampling.frequency_penalty * times;
    for (const auto& [token, bias] : sampling.logit_bias) {
      if (token == id) x += bias;
    }
    if (Holds(sampling.banned_token_ids, id)) x = -kInfinity;
    const bool ends =
        Holds(request.stop_token_ids, id) || (!request.ignore_eos && Holds(Model().generation().eos_ids, id));
    if (ends && static_cast<int64_t>(done) < request.min_tokens) x = -kInfinity;
  }
  if (request.grammar != nullptr) {
    std::vector<float> constrained(logits.size(), -kInfinity), as_they_were = constrained;
    for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
      if (!SlowAllowed(*request.grammar, ids, done, id)) continue;
      constrained[id] = logits[id];
      as_they_were[id] = unedited[id];
    }
    const bool any =
        std::any_of(constrained.begin(), constrained.end(), [](float x) { return x > -kInfinity; });
    logits = any ? constrained : as_they_were;
  }
  return Sampler().Draw(logits, sampling, static_cast<int64_t>(request.prompt_ids.size() + done));
}

// Log-softmax in double.
double SlowLogprob(const std::vector<float>& logits, int32_t id) {
  const float most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(double{x} - most);
  return double{logits[id]} - most - std::log(sum);
}

void ExpectPlainLoop(const Request& request, const Answer& plain) {
  ASSERT_EQ(plain.rows.size(), plain.ids.size());
  for (size_t i = 0; i < plain.ids.size(); ++i) {
    ASSERT_EQ(plain.ids[i], SlowToken(request, plain.ids, i, plain.rows[i])) << "token " << i;
  }
  ASSERT_EQ(plain.logprobs.size(), request.top_logprobs ? plain.ids.size() : 0);
  for (size_t i = 0; i < plain.logprobs.size(); ++i) {
    const std::vector<float>& row = plain.rows[i];
    ASSERT_NEAR(plain.logprobs[i].logprob, SlowLogprob(row, plain.ids[i]), 1e-4);
    std::vector<int32_t> order(row.size());
    for (size_t id = 0; id < row.size(); ++id) order[id] = static_cast<int32_t>(id);
    std::stable_sort(order.begin(), order.end(), [&row](int32_t a, int32_t b) { return row[a] > row[b]; });
    ASSERT_EQ(plain.logprobs[i].top.size(), static_cast<size_t>(*request.top_logprobs));
    for (size_t k = 0; k < plain.logprobs[i].top.size(); ++k) {
      ASSERT_EQ(plain.logprobs[i].top[k].id, order[k]);
      ASSERT_NEAR(plain.logprobs[i].top[k].logprob, SlowLogprob(row, order[k]), 1e-4);
    }
  }
}

std::vector<uint32_t> Bits(std::span<const TokenLogprobs> logprobs) {
  std::vector<uint32_t> bits;
  const auto add = [&bits](float value) {
    bits.push_back(0);
    std::memcpy(&bits.back(), &value, sizeof value);
  };
  for (const TokenLogprobs& token : logprobs) {
    add(token.logprob);
    for (const TokenLogprob& likely : token.top) {
      bits.push_back(static_cast<uint32_t>(likely.id));
      add(likely.logprob);
    }
  }
  return bits;
}

void ExpectSame(const Answer& answer, const Answer& plain, size_t from = 0) {
  ASSERT_EQ(answer.ids,
            std::vector<int32_t>(plain.ids.begin() + static_cast<int64_t>(from), plain.ids.end()));
  ASSERT_TRUE(from == 0 ? plain.text == answer.text : plain.text.ends_with(answer.text)) << answer.text;
  ASSERT_EQ(answer.finished.reason, plain.finished.reason);
  ASSERT_EQ(answer.finished.matched_stop, plain.finished.matched_stop);
  ASSERT_EQ(answer.finished.usage.completion_tokens, static_cast<int32_t>(answer.ids.size()));
  const auto expected = std::span(plain.logprobs).subspan(plain.logprobs.empty() ? 0 : from);
  ASSERT_EQ(Bits(answer.logprobs), Bits(expected));
}

constexpr char kSchema[] = R"({"type": "object", "required": ["kind", "size", "tags"], "properties": {
    "kind": {"enum": ["a", "bb"]}, "size": {"type": "integer"}, "note": {"type": "string", "maxLength": 4},
    "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}}})";

struct Feature {
  const char* name;
  Request request;
};

Request Base(int number, const SamplingOptions& sampling = {}) {
  static const auto& goldens = *new std::vector<GoldenCase>(Goldens(kFamily));
  return {.prompt_ids = goldens[number].prompt_ids,
          .max_tokens = kTokens,
          .sampling = sampling,
          .ignore_eos = true};
}

// Each feature alone, greedy and sampled, where it changes what is said; then all of them.
std::vector<Feature> Features() {
  std::vector<Feature> features;
  for (const SamplingOptions& sampling :
       {SamplingOptions{}, SamplingOptions{.temperature = 0.8f, .seed = 5},
        SamplingOptions{.temperature = 1, .top_k = 30, .top_p = 0.95f, .min_p = 0.01f, .seed = 6}}) {
    const Request base = Base(2, sampling);
    const Answer said = Ask(base);
    const auto add = [&](const char* name, auto change) {
      change(features.emplace_back(name, base).request);
    };
    add("repetition", [](Request& r) { r.sampling.repetition_penalty = 1.4f; });
    add("reward of repetition", [](Request& r) { r.sampling.repetition_penalty = 0.7f; });
    add("presence", [](Request& r) { r.sampling.presence_penalty = 1.8f; });
    add("frequency", [](Request& r) { r.sampling.frequency_penalty = 0.9f; });
    add("bias", [&](Request& r) {
      r.sampling.logit_bias = {{said.ids[1], -3}, {said.ids[3], 2}, {7, 1.5f}};
    });
    add("bans", [&](Request& r) { r.sampling.banned_token_ids = {said.ids[0], said.ids[2], said.ids[5]}; });
    add("stop id", [&](Request& r) { r.stop_token_ids = {said.ids[5], 639}; });
    add("late stop id", [&](Request& r) { r.stop_token_ids = {said.ids[5]}, r.min_tokens = 9; });
    add("stop string", [&](Request& r) { r.stop = {said.text.substr(said.text.size() / 2, 2)}; });
    add("late stop string", [&](Request& r) {
      r.stop = {said.text.substr(1, 1), said.text.substr(3, 2)}, r.min_tokens = 7;
    });
    add("eos", [&](Request& r) {
      r.ignore_eos = false, r.min_tokens = 6;
      r.sampling.logit_bias = {{Model().generation().eos_ids.at(0), 100}};
    });
    add("logprobs", [](Request& r) { r.top_logprobs = 20; });
    const auto as_json = [](const char* schema) {
      return [schema](Request& r) {
        r.grammar = std::make_shared<const Grammar>(CompileJsonSchema(schema).value());
        r.ignore_eos = false;
      };
    };
    add("any json", as_json(R"({"type": "object"})"));
    add("json", as_json(kSchema));
    add("json without some", [&](Request& r) {
      as_json(kSchema)(r);
      for (int32_t id = 30; id < 200; ++id) r.sampling.banned_token_ids.push_back(id);
      r.sampling.repetition_penalty = 1.3f, r.min_tokens = kTokens - 4;
    });
    add("all", [&](Request& r) {
      r.sampling.repetition_penalty = 1.2f, r.sampling.presence_penalty = 0.5f;
      r.sampling.frequency_penalty = 0.3f, r.sampling.logit_bias = {{said.ids[1], 1}, {7, -1}};
      r.sampling.banned_token_ids = {said.ids[4]};
      r.stop_token_ids = {said.ids[2], said.ids[9]}, r.min_tokens = kTokens / 2, r.stop = {"zz", "e"};
      r.top_logprobs = 3, r.ignore_eos = false;
    });
  }
  for (Feature& feature : features) {
    if (!feature.request.top_logprobs) feature.request.top_logprobs = 1;
  }
  return features;
}

Request Speculating(Request request, const SpeculationOptions& speculation) {
  request.speculation = speculation;
  return request;
}

TEST(SamplingFeatures, AreThoseOfAPlainLoopWhateverIsDrafted) {
  int changed = 0, accepted = 0;
  for (const Feature& feature : Features()) {
    SCOPED_TRACE(testing::Message() << feature.name << ", temperature "
                                    << feature.request.sampling.temperature);
    const Answer plain = Ask(Speculating(feature.request, {.nodes = 0}));
    ExpectPlainLoop(feature.request, plain);
    changed += plain.ids != Ask(Speculating(Base(2, {.temperature = feature.request.sampling.temperature,
                                                     .top_k = feature.request.sampling.top_k,
                                                     .top_p = feature.request.sampling.top_p,
                                                     .min_p = feature.request.sampling.min_p,
                                                     .seed = feature.request.sampling.seed}),
                                            {.nodes = 0}))
                                .ids;
    for (const SpeculationOptions& speculation :
         {SpeculationOptions{.nodes = 8}, SpeculationOptions{.nodes = 64},
          SpeculationOptions{.shape = TreeShape::kPublished}}) {
      ExpectSame(Ask(Speculating(feature.request, speculation)), plain);
    }
    // Guesses that are right more often than any drafter's, and beside them what is wrong.
    std::vector<int32_t> text = feature.request.prompt_ids;
    text.insert(text.end(), plain.ids.begin(), plain.ids.end());
    const Answer wild = Ask(Speculating(feature.request, {.nodes = 24}), text);
    ExpectSame(wild, plain);
    accepted += wild.finished.stats.accepted_by_source[static_cast<size_t>(Source::kNoise)] > 0;
    if (HasFatalFailure()) return;
  }
  EXPECT_GE(changed, 39) << "of 48: features must matter";
  EXPECT_GE(accepted, 45) << "of 48: trees must matter";
}

TEST(SamplingFeatures, GoOnElsewhereAtEveryToken) {
  for (const Feature& feature : Features()) {
    if (kSanitized && feature.request.sampling.greedy()) continue;
    SCOPED_TRACE(testing::Message() << feature.name << ", temperature "
                                    << feature.request.sampling.temperature);
    const Answer plain = Ask(Speculating(feature.request, {.nodes = 0}));
    for (size_t cut = 0; cut <= plain.ids.size(); ++cut) {
      Request rest = Speculating(feature.request, {.nodes = cut % 2 ? 8 : 0});
      rest.emitted_ids.assign(plain.ids.begin(), plain.ids.begin() + static_cast<int64_t>(cut));
      ExpectSame(Ask(rest), plain, cut);
      if (HasFatalFailure()) return;
    }
  }
}

// What one request asks for does not touch another in the same steps.
TEST(SamplingFeatures, TogetherAsAlone) {
  const std::vector<Feature> features = Features();
  const auto engine = MakeEngine(Model(), {.max_sequences = 16, .default_nodes = 8}, &Words());
  std::vector<LogprobSink> sinks(features.size());
  for (size_t i = 0; i < features.size(); ++i) Submit(*engine, features[i].request, sinks[i]);
  while (engine->Step()) {
  }
  for (size_t i = 0; i < features.size(); ++i) {
    SCOPED_TRACE(features[i].name);
    const Answer alone = Ask(Speculating(features[i].request, {.nodes = 0}));
    ExpectSame({sinks[i].ids, sinks[i].text, *sinks[i].finished, sinks[i].logprobs, {}}, alone);
  }
}

TEST(SamplingFeatures, AnswersEndWhereTheyMay) {
  const Answer said = Ask(Base(2));
  Request request = Base(2);
  request.stop_token_ids = {said.ids[5]};
  const auto first = std::find(said.ids.begin(), said.ids.end(), said.ids[5]);
  Answer stopped = Ask(request);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(said.ids.begin(), first + 1))
      << "the stop id is the last of the ids";
  EXPECT_EQ(stopped.finished.reason, FinishReason::kStop);
  EXPECT_EQ(stopped.finished.matched_stop, "");
  request.min_tokens = static_cast<int32_t>(first - said.ids.begin()) + 1;
  stopped = Ask(request);
  EXPECT_GT(stopped.ids.size(), static_cast<size_t>(request.min_tokens));
  EXPECT_TRUE(std::equal(said.ids.begin(), first, stopped.ids.begin()));
  EXPECT_FALSE(Holds({stopped.ids.begin(), stopped.ids.begin() + request.min_tokens}, *first));
  // An end-of-sequence token that always wins comes as soon as it may, and never where none may.
  for (const int32_t least : {0, 1, 4, kTokens - 1, kTokens}) {
    request = Base(2, {.logit_bias = {{Model().generation().eos_ids.at(0), 100}}});
    request.ignore_eos = false;
    request.min_tokens = least;
    const Answer ended = Ask(request);
    EXPECT_EQ(ended.ids.size(), std::min<size_t>(least + 1, kTokens));
    EXPECT_EQ(ended.finished.reason, least < kTokens ? FinishReason::kStop : FinishReason::kLength);
  }
  // A document ends once, however many tokens are asked for at least.
  request = Base(2);
  request.grammar = std::make_shared<const Grammar>(CompileJsonSchema(R"({"const": 12})").value());
  request.ignore_eos = false;
  request.min_tokens = kTokens;
  const Answer document = Ask(request);
  EXPECT_EQ(document.text, "12");
  EXPECT_EQ(document.finished.reason, FinishReason::kStop);
  EXPECT_EQ(std::count(document.ids.begin(), document.ids.end(), document.ids.back()), 1);
  // With everything banned, still an answer.
  request = Base(2);
  for (int32_t id = 0; id < Model().config().vocab_size; ++id)
    request.sampling.banned_token_ids.push_back(id);
  EXPECT_EQ(Ask(request).ids, std::vector<int32_t>(kTokens, 0));
}

}  // namespace
}  // namespace clamor
