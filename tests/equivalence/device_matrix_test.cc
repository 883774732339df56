// The master test on a GPU, emulated or real: whatever drafts and batches, under every schedule, ids and
// logits are the bits of plain decoding alone. In small, unless CLAMOR_MATRIX=whole (tests/run.sh simt).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/cuda/device_model.h"
#include "tests/model/cuda/schedule.h"
#include "tests/services/worker/engine_fakes.h"

namespace clamor {
namespace {

constexpr int32_t kTokens = 8, kAnswers = 3;

struct Matrix {
  std::vector<std::string> families = {"qwen3"};
  std::vector<int32_t> nodes = {0, 16};
  std::vector<int32_t> batches = {1, 3};
  int seeds = 2;
};
Matrix ThisMatrix() {
  const char* const wanted = std::getenv("CLAMOR_MATRIX");
  if (wanted == nullptr || std::string(wanted) != "whole") return {};
  return {.families = {"llama", "qwen2", "qwen3", "mistral"},
          .nodes = {0, 1, 2, 7, 16, 63},
          .batches = {1, 2, 3},
          .seeds = 4};
}

class KeepLogits : public StepObserver {
 public:
  void OnStep(const StepReport& report) override {
    for (const int32_t accepted : report.accepted) this->accepted += accepted;
  }
  void OnAccepted(int32_t) override {}
  bool WantsLogits() const override { return true; }
  void OnLogits(uint64_t handle, int64_t, std::span<const float> logits) override {
    rows[handle].insert(rows[handle].end(), logits.begin(), logits.end());
  }

  std::map<uint64_t, std::vector<float>> rows;
  int64_t accepted = 0;
};

struct Answer {
  std::vector<int32_t> ids;
  std::vector<float> logits;  // [ids][vocab]
  bool operator==(const Answer&) const = default;
};

// Short texts that repeat, so that drafts are right now and then; the last is sampled.
Request RequestOf(int32_t i, int32_t nodes) {
  Request request = {.prompt_ids = {5 + i, 6, 7, 5 + i, 6, 7, 5 + i, 6}, .max_tokens = kTokens};
  request.ignore_eos = true;
  if (i == kAnswers - 1) request.sampling = {.temperature = 0.6f, .seed = 3};
  request.speculation.nodes = nodes;
  return request;
}

std::vector<Answer> Answers(const Model& model, int32_t nodes, int32_t batch, int64_t* accepted = nullptr) {
  std::vector<Answer> answers;
  for (int32_t first = 0; first < kAnswers; first += batch) {
    KeepLogits watch;
    const auto engine = MakeEngine(model,
                                   {.kv_tokens = 1024,
                                    .max_sequences = batch,
                                    .prefill_chunk = 16,
                                    .kv_format = kernels::KvFormat::kBF16,
                                    .default_nodes = nodes},
                                   nullptr, nullptr, &watch);
    const int32_t size = std::min(batch, kAnswers - first);
    std::vector<RecordingSink> sinks(size);
    std::vector<uint64_t> handles;
    for (int32_t i = 0; i < size; ++i)
      handles.push_back(Submit(*engine, RequestOf(first + i, nodes), sinks[i]));
    while (engine->Step()) {
    }
    for (int32_t i = 0; i < size; ++i) answers.push_back({sinks[i].ids, watch.rows[handles[i]]});
    if (accepted != nullptr) *accepted += watch.accepted;
  }
  return answers;
}

class DeviceMatrixTest : public testing::TestWithParam<std::string> {};

TEST_P(DeviceMatrixTest, NothingChangesWhatIsAnswered) {
  if (kernels::cuda::DeviceCount() == 0) GTEST_SKIP() << "there is no GPU";
  const auto model = DeviceModel::Load(std::string(CLAMOR_TESTDATA) + "/tiny-" + GetParam(), 128, {},
                                       [](uint64_t, uint64_t) {});
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<Answer> plain = Answers(**model, /*nodes=*/0, /*batch=*/1);
  for (const Answer& answer : plain) {
    ASSERT_EQ(answer.ids.size(), static_cast<size_t>(kTokens));
    ASSERT_EQ(answer.logits.size(), answer.ids.size() * (*model)->config().vocab_size);
  }
  const Matrix matrix = ThisMatrix();
  int64_t accepted = 0;
  for (int seed = 1; seed <= matrix.seeds; ++seed) {
    for (const int32_t nodes : matrix.nodes) {
      for (const int32_t batch : matrix.batches) {
        SetSchedule(seed);
        EXPECT_TRUE(Answers(**model, nodes, batch, &accepted) == plain)
            << nodes << " nodes, batch " << batch << ", schedule " << seed;
      }
    }
  }
  EXPECT_GT(accepted, 0) << "no guess was right: nothing was tested";
  SetSchedule(0);
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceMatrixTest, testing::ValuesIn(ThisMatrix().families),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace clamor
