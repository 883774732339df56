// The master test: whatever drafts, batches, cuts the prompt, computes or lies, the ids of every answer and
// the logits that each of its tokens was chosen from are the bits of plain decoding, alone, in one piece, on
// one thread.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/cpu_target.h"
#include "tests/services/worker/engine_fakes.h"

namespace clamor {
namespace {

constexpr int32_t kTokens = kSanitized ? 12 : 24;

// Each family, each way to hold weights: stored, they are fp32, bf16 and fp16.
struct Model {
  const char* family;
  WeightFormat format = WeightFormat::kStored;
};
constexpr Model kModels[] = {
    {"llama"}, {"qwen2"}, {"mistral"}, {"qwen3", WeightFormat::kI8}, {"llama", WeightFormat::kI4}};

struct Mode {
  const char* name;
  SpeculationOptions speculation;
  enum { kOwn, kRandom, kLyingStore } drafts = kOwn;
};
constexpr Mode kModes[] = {
    {"plain", {.nodes = 0}},
    {"published", {.nodes = 68, .shape = TreeShape::kPublished}},
    {"merged-1", {.nodes = 1}},
    {"merged-4", {.nodes = 4}},
    {"merged-8", {.nodes = 8}},
    {"merged-16", {.nodes = 16}},
    {"merged-64", {.nodes = 64}},
    {"merged-auto", {.nodes = SpeculationOptions::kAuto}},
    {"random", {.nodes = 24}, Mode::kRandom},
    {"lying-store", {.nodes = 16}, Mode::kLyingStore},
};
constexpr int32_t kBatches[] = {1, 2, 7};
constexpr int32_t kChunks[] = {1 << 16, 1, 5, 16};
constexpr int32_t kThreads[] = {1, 2};

// One place in the matrix, as indices into the five lists.
using Combination = std::array<int, 5>;
constexpr std::array<int, 5> kSizes = {
    static_cast<int>(std::size(kModels)), static_cast<int>(std::size(kModes)),
    static_cast<int>(std::size(kBatches)), static_cast<int>(std::size(kChunks)),
    static_cast<int>(std::size(kThreads))};

std::string Name(const Combination& c) {
  const Model& model = kModels[c[0]];
  return absl::StrCat(model.family, " ", std::string(WeightFormatName(model.format)), ", ", kModes[c[1]].name,
                      ", batch ", kBatches[c[2]], ", chunk ", kChunks[c[3]], ", ", kThreads[c[4]],
                      " threads");
}

// What plain decoding says.
struct Expected {
  Request request;
  std::vector<int32_t> ids;
  std::vector<std::vector<float>> logits;  // [ids.size()][vocab]
};

// Compares each row as it comes, or keeps it.
class LogitsWatch : public StepObserver {
 public:
  explicit LogitsWatch(bool keep) : keep_(keep) {}
  void Expect(uint64_t handle, Expected* expected) { expected_[handle] = {expected, 0}; }

  void OnStep(const StepReport&) override {}
  void OnAccepted(int32_t) override {}
  bool WantsLogits() const override { return true; }
  void OnLogits(uint64_t handle, int64_t position, std::span<const float> logits) override {
    auto& [expected, seen] = expected_.at(handle);
    EXPECT_EQ(position, static_cast<int64_t>(expected->request.prompt_ids.size()) + seen);
    if (keep_) {
      expected->logits.emplace_back(logits.begin(), logits.end());
    } else if (seen < static_cast<int64_t>(expected->logits.size())) {
      different += std::memcmp(expected->logits[seen].data(), logits.data(), logits.size_bytes()) != 0;
    }
    ++seen;
    ++rows;
  }

  int64_t rows = 0, different = 0;

 private:
  struct Progress {
    Expected* expected;
    int64_t seen;
  };
  const bool keep_;
  std::map<uint64_t, Progress> expected_;
};

// The five golden prompts greedily, two of them sampled as well.
std::vector<Request> Requests(const std::string& family) {
  std::vector<Request> requests;
  const auto goldens = Goldens(family);
  for (const auto& golden : goldens) requests.push_back({.prompt_ids = golden.prompt_ids});
  requests.push_back(
      {.prompt_ids = goldens[2].prompt_ids,
       .sampling = {.temperature = 0.8f, .top_k = 40, .top_p = 0.9f, .min_p = 0.02f, .seed = 7}});
  requests.push_back(
      {.prompt_ids = goldens[3].prompt_ids, .sampling = {.temperature = 0.8f, .seed = 1u << 31}});
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = std::to_string(i);
    requests[i].max_tokens = kTokens;
    requests[i].ignore_eos = true;
  }
  return requests;
}

std::vector<Expected> PlainAlone(const Model& model, kernels::KvFormat kv = kernels::KvFormat::kF32) {
  std::vector<Expected> answers;
  for (Request& request : Requests(model.family)) {
    request.speculation.nodes = 0;
    answers.push_back({.request = request});
    LogitsWatch watch(/*keep=*/true);
    const auto engine =
        MakeEngine(TinyModel(model.family, model.format),
                   {.prefill_chunk = 1 << 16, .kv_format = kv, .default_nodes = 0}, nullptr, nullptr, &watch);
    RecordingSink sink;
    watch.Expect(Submit(*engine, std::move(request), sink), &answers.back());
    while (engine->Step()) {
    }
    answers.back().ids = sink.ids;
    EXPECT_EQ(answers.back().logits.size(), size_t{kTokens});
  }
  return answers;
}

// Asks for the first `tokens` of each answer.
void Check(const Combination& c, std::vector<Expected>& answers, int32_t tokens,
           kernels::KvFormat kv = kernels::KvFormat::kF32) {
  const Transformer& model = TinyModel(kModels[c[0]].family, kModels[c[0]].format);
  const int32_t vocab = model.config().vocab_size;
  const Mode& mode = kModes[c[1]];
  EngineOptions options{.threads = kThreads[c[4]],
                        .kv_tokens = 4096,
                        .max_sequences = kBatches[c[2]],
                        .prefill_chunk = kChunks[c[3]],
                        .kv_format = kv,
                        .default_nodes = mode.speculation.nodes};
  std::mt19937 random(1);
  for (const int i : c) random.seed(random() + i);
  if (mode.drafts == Mode::kRandom) {
    options.drafter_factory = [&](const Request& request) {
      const Expected& answer = answers[std::stoi(request.id)];
      std::vector<int32_t> text = request.prompt_ids;
      text.insert(text.end(), answer.ids.begin(), answer.ids.end());
      return std::make_unique<RandomDrafter>(std::move(text), vocab, random());
    };
  }
  ScriptedSource liar(
      [&](std::span<const int32_t>, int64_t position) { return HostileAnswer(position, vocab, random); });
  LogitsWatch watch(/*keep=*/false);
  const auto engine =
      MakeEngine(model, options, nullptr, mode.drafts == Mode::kLyingStore ? &liar : nullptr, &watch);
  std::vector<RecordingSink> sinks(answers.size());
  for (size_t i = 0; i < answers.size(); ++i) {
    Request request = answers[i].request;
    request.speculation = mode.speculation;
    request.max_tokens = tokens;
    watch.Expect(Submit(*engine, std::move(request), sinks[i]), &answers[i]);
  }
  while (engine->Step()) {
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    const std::vector<int32_t> expected(answers[i].ids.begin(), answers[i].ids.begin() + tokens);
    ASSERT_EQ(sinks[i].ids, expected) << Name(c) << ", request " << i;
  }
  ASSERT_EQ(watch.rows, static_cast<int64_t>(answers.size()) * tokens) << Name(c);
  ASSERT_EQ(watch.different, 0) << "rows of logits differ: " << Name(c);
  ASSERT_EQ(engine->Load().kv_pages_used, 0) << Name(c);
}

std::vector<Combination> WholeMatrix() {
  std::vector<Combination> all(1);
  for (size_t factor = 0; factor < kSizes.size(); ++factor) {
    std::vector<Combination> longer;
    for (Combination c : all) {
      for (c[factor] = 0; c[factor] < kSizes[factor]; ++c[factor]) longer.push_back(c);
    }
    all = std::move(longer);
  }
  return all;
}

// A part of `all` in which any two values of different factors meet.
std::vector<Combination> EveryPair(std::vector<Combination> all) {
  std::shuffle(all.begin(), all.end(), std::mt19937(1));
  std::set<std::array<int, 4>> met;  // factor, value, factor, value
  std::vector<Combination> chosen;
  // First whoever brings many new pairs, then whoever still brings one.
  for (int least : {10, 7, 5, 3, 2, 1}) {
    for (const Combination& c : all) {
      std::vector<std::array<int, 4>> fresh;
      for (int a = 0; a < 5; ++a) {
        for (int b = a + 1; b < 5; ++b) {
          if (const std::array<int, 4> pair = {a, c[a], b, c[b]}; !met.contains(pair)) fresh.push_back(pair);
        }
      }
      if (static_cast<int>(fresh.size()) < least) continue;
      met.insert(fresh.begin(), fresh.end());
      chosen.push_back(c);
    }
  }
  return chosen;
}

class Matrix : public testing::TestWithParam<kernels::CpuTarget> {
 protected:
  void SetUp() override {
    for (const Model& model : kModels) answers_.push_back(PlainAlone(model));  // on the fastest target
    ASSERT_TRUE(kernels::SetCpuTarget(GetParam()).ok());
  }
  void TearDown() override { ASSERT_TRUE(kernels::SetCpuTarget(kernels::SupportedCpuTargets().back()).ok()); }

  std::vector<std::vector<Expected>> answers_;
};

// Any two factors meet in every pair of their values on every target. The fastest target also runs all
// combinations with one thread, and CLAMOR_MATRIX=all all there are on every target (an hour or so: scalar
// kernels are slow, and two threads that wait for each other on busy cores are slower).
TEST_P(Matrix, IdsAndLogitsAreThoseOfPlainDecoding) {
  const std::vector<Combination> whole = WholeMatrix();
  std::vector<Combination> chosen = EveryPair(whole);
  const char* asked = std::getenv("CLAMOR_MATRIX");
  if (asked != nullptr && std::string(asked) == "all") {
    chosen = whole;
  } else if (!kSanitized && GetParam() == kernels::SupportedCpuTargets().back()) {
    std::erase_if(chosen, [](const Combination& c) { return kThreads[c[4]] == 1; });
    std::copy_if(whole.begin(), whole.end(), std::back_inserter(chosen),
                 [](const Combination& c) { return kThreads[c[4]] == 1; });
  }
  // Scalar kernels under a sanitizer take minutes for what takes seconds; kernels_test runs them there in
  // full.
  if (kSanitized && GetParam() == kernels::CpuTarget::kScalar) chosen.resize(chosen.size() / 8);
  const int32_t tokens =
      GetParam() == kernels::CpuTarget::kScalar ? kTokens / 2 : kTokens;  // too slow for more
  for (const Combination& c : chosen) {
    Check(c, answers_[c[0]], tokens);
    if (HasFatalFailure()) return;
  }
  std::printf(
      "%s: %zu of %zu combinations of model, mode, batch, prefill chunk and threads, 7 requests of %d tokens "
      "each\n",
      std::string(kernels::CpuTargetName(GetParam())).c_str(), chosen.size(), whole.size(), tokens);
}

INSTANTIATE_TEST_SUITE_P(Targets, Matrix, testing::ValuesIn(kernels::SupportedCpuTargets()),
                         [](const auto& info) { return std::string(kernels::CpuTargetName(info.param)); });

// One combination stands for all: that the cache is narrower concerns attention alone, whose tests compare
// all formats.
TEST(NarrowCaches, IdsAndLogitsAreThoseOfPlainDecoding) {
  const Combination c = {1, 5, 2, 2, 1};
  const std::vector<Expected> wide = PlainAlone(kModels[c[0]]);
  for (const kernels::KvFormat format : {kernels::KvFormat::kBF16, kernels::KvFormat::kInt8}) {
    SCOPED_TRACE(kernels::KvFormatName(format));
    std::vector<Expected> answers = PlainAlone(kModels[c[0]], format);
    EXPECT_NE(answers[0].logits, wide[0].logits) << "the format has had no effect";
    for (const kernels::CpuTarget target : kernels::SupportedCpuTargets()) {
      ASSERT_TRUE(kernels::SetCpuTarget(target).ok());
      Check(c, answers, kTokens / 2, format);
    }
  }
}

// What PyTorch said of every golden prompt, said again by the engine.
TEST(Golden, GreedyIdsOfEveryCase) {
  for (const char* family : kFamilies) {
    for (const Mode& mode : kModes) {
      if (mode.drafts != Mode::kOwn || (kSanitized && mode.speculation.nodes > 16)) continue;
      const auto engine =
          MakeEngine(TinyModel(family), {.max_sequences = 5, .default_nodes = mode.speculation.nodes});
      const auto goldens = Goldens(family);
      std::vector<RecordingSink> sinks(goldens.size());
      for (size_t i = 0; i < goldens.size(); ++i) {
        Submit(*engine,
               {.prompt_ids = goldens[i].prompt_ids,
                .max_tokens = static_cast<int32_t>(goldens[i].greedy_ids.size()),
                .ignore_eos = true,
                .speculation = mode.speculation},
               sinks[i]);
      }
      while (engine->Step()) {
      }
      for (size_t i = 0; i < goldens.size(); ++i) {
        EXPECT_EQ(sinks[i].ids, goldens[i].greedy_ids) << family << ", " << mode.name << ", case " << i;
      }
    }
  }
}

}  // namespace
}  // namespace clamor
