// A run gives the same bits whatever machine it runs on, however it is cut for memory, however often it
// stops.
#include <algorithm>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/cpu_target.h"
#include "model/train/trainer.h"
#include "tests/kernels/on_target.h"
#include "tests/model/train/training_fixture.h"

namespace clamor {
namespace {

using kernels::kStride;

// All that a step leaves behind.
struct State {
  std::vector<TrainingStep> steps;
  std::vector<float> gradients, values, first_moments, second_moments;

  State(std::vector<TrainingStep> steps, TrainableModel& model, Trainer& trainer)
      : steps(std::move(steps)),
        gradients(model.gradients().begin(), model.gradients().end()),
        values(model.values().begin(), model.values().end()),
        first_moments(trainer.first_moments().begin(), trainer.first_moments().end()),
        second_moments(trainer.second_moments().begin(), trainer.second_moments().end()) {}
};

void ExpectSame(const State& expected, const State& actual) {
  EXPECT_EQ(actual.steps.size(), expected.steps.size());
  for (size_t i = 0; i < std::min(actual.steps.size(), expected.steps.size()); ++i) {
    const TrainingStep &a = actual.steps[i], &e = expected.steps[i];
    EXPECT_EQ(a.step, e.step);
    EXPECT_EQ(a.epoch, e.epoch);
    EXPECT_EQ(a.loss, e.loss) << a.step;
    EXPECT_EQ(a.gradient_norm, e.gradient_norm) << a.step;
    EXPECT_EQ(a.learning_rate, e.learning_rate) << a.step;
    EXPECT_EQ(a.tokens, e.tokens) << a.step;
    EXPECT_EQ(a.targets, e.targets) << a.step;
  }
  EXPECT_TRUE(kernels::SameBits(expected.gradients, actual.gradients));
  EXPECT_TRUE(kernels::SameBits(expected.values, actual.values));
  EXPECT_TRUE(kernels::SameBits(expected.first_moments, actual.first_moments));
  EXPECT_TRUE(kernels::SameBits(expected.second_moments, actual.second_moments));
}

// Fewer where all is slow.
std::vector<Subject> SomeSubjects() {
  const std::vector<Subject> all = Subjects();
  std::vector<Subject> some;
  for (size_t i = 0; i < all.size(); i += kStride) some.push_back(all[i]);
  return some;
}

class BitsOf : public testing::TestWithParam<Subject> {};
INSTANTIATE_TEST_SUITE_P(Training, BitsOf, testing::ValuesIn(SomeSubjects()),
                         testing::PrintToStringParamName());

// What must not change a bit.
struct Machine {
  int threads = 1;
  kernels::CpuTarget target = kernels::SupportedCpuTargets().back();
  bool recompute = false;

  friend std::ostream& operator<<(std::ostream& out, const Machine& m) {
    return out << m.threads << " threads, " << kernels::CpuTargetName(m.target)
               << (m.recompute ? ", recompute" : "");
  }
};

// The target that is active while this lives.
class OnCpuTarget {
 public:
  explicit OnCpuTarget(kernels::CpuTarget target) { EXPECT_TRUE(kernels::SetCpuTarget(target).ok()); }
  ~OnCpuTarget() { EXPECT_TRUE(kernels::SetCpuTarget(before_).ok()); }

 private:
  const kernels::CpuTarget before_ = kernels::ActiveCpuTarget();
};

// Two steps on the same batch, which is cut before text t + 1 if bit t of `cuts` is set.
State TwoSteps(const Subject& subject, const Machine& machine, uint32_t cuts) {
  const OnCpuTarget target(machine.target);
  kernels::ThreadPool pool(machine.threads);
  const TestedModel tested(subject, pool);
  Random random(1);
  const TrainingBatch batch =
      RandomBatch({28 / kStride, 1, 40 / kStride, 5, 17}, tested.model->config().vocab_size, random);
  std::vector<TrainingBatch> parts;
  for (size_t begin = 0, end = 1; end <= 5; ++end) {
    if (end < 5 && (cuts >> (end - 1) & 1) == 0) continue;
    parts.push_back(Texts(batch, begin, end));
    begin = end;
  }
  const std::vector<Sample> unused = {{.ids = {1, 2}, .responses = {{1, 2}}}};
  Trainer trainer(tested.model.get(), unused, {}, {.recompute = machine.recompute, .warmup_steps = 0}, &pool);
  std::vector<TrainingStep> steps;
  for (int i = 0; i < 2; ++i) steps.push_back(trainer.Step(parts));
  return State(std::move(steps), *tested.model, trainer);
}

TEST_P(BitsOf, NeitherMachineNorCutsChangeABit) {
  const State expected = TwoSteps(GetParam(), {}, 0);
  std::vector<Machine> machines = {{.threads = 3}};
  for (const kernels::CpuTarget target : kernels::SupportedCpuTargets()) {
    machines.push_back({.threads = 2, .target = target});
    machines.push_back({.threads = 1, .target = target, .recompute = true});
  }
  for (const Machine& machine : machines) {
    SCOPED_TRACE(testing::PrintToString(machine));
    ExpectSame(expected, TwoSteps(GetParam(), machine, 0));
  }
  for (uint32_t cuts = 1; cuts < 16; cuts += kStride) {
    SCOPED_TRACE(cuts);
    ExpectSame(expected, TwoSteps(GetParam(), {.recompute = cuts % 4 == 3}, cuts));
  }
}

class BitsWith : public testing::TestWithParam<NoiseKind> {};
INSTANTIATE_TEST_SUITE_P(Training, BitsWith,
                         testing::Values(NoiseKind::kNone, NoiseKind::kAhead, NoiseKind::kUniform,
                                         NoiseKind::kJacobi),
                         [](const auto& info) { return std::string(NoiseKindName(info.param)); });

TEST_P(BitsWith, GoesOnFromEveryStepAsIfNothingHadHappened) {
  kernels::ThreadPool pool(1);
  for (const Subject& subject : {Subject{"llama"}, Subject{"mistral", 4}}) {
    SCOPED_TRACE(subject);
    const ModelConfig config = ConfigAt(subject.dir());
    const std::vector<Sample> samples = RandomSamples(kSizes, config.vocab_size, 2);
    const TestedModel whole(subject, pool);
    Trainer trainer(whole.model.get(), samples, ThirdsAreSpecial(config), OptionsWith(GetParam()), &pool);
    std::vector<TrainingStep> steps;
    std::vector<State> states = {State(steps, *whole.model, trainer)};
    while (!trainer.done()) {
      steps.push_back(trainer.Step());
      trainer.HeldOutLoss(samples);  // leaves no trace
      states.emplace_back(steps, *whole.model, trainer);
    }
    ASSERT_GE(steps.size(), 6u);
    for (size_t k = 0; k < steps.size(); ++k) {
      SCOPED_TRACE(k);
      const TestedModel resumed(subject, pool);
      Trainer rest(resumed.model.get(), samples, ThirdsAreSpecial(config), OptionsWith(GetParam()), &pool);
      std::ranges::copy(states[k].values, resumed.model->values().begin());
      std::ranges::copy(states[k].first_moments, rest.first_moments().begin());
      std::ranges::copy(states[k].second_moments, rest.second_moments().begin());
      rest.Resume(static_cast<int64_t>(k));
      std::vector<TrainingStep> all(steps.begin(), steps.begin() + static_cast<int64_t>(k));
      while (!rest.done()) all.push_back(rest.Step());
      ExpectSame(states.back(), State(all, *resumed.model, rest));
    }
  }
}

TEST_P(BitsWith, MemoryAndThreadsChangeNoBit) {
  const auto run = [&](int64_t micro_tokens, bool recompute, int threads) {
    kernels::ThreadPool pool(threads);
    const Subject subject = {"qwen3"};
    const TestedModel tested(subject, pool);
    const ModelConfig& config = tested.model->config();
    const std::vector<Sample> samples = RandomSamples(kSizes, config.vocab_size, 3);
    TrainerOptions options = OptionsWith(GetParam());
    options.micro_tokens = micro_tokens;
    options.recompute = recompute;
    Trainer trainer(tested.model.get(), samples, ThirdsAreSpecial(config), options, &pool);
    std::vector<TrainingStep> steps;
    while (!trainer.done()) steps.push_back(trainer.Step());
    return State(std::move(steps), *tested.model, trainer);
  };
  const State expected = run(4096, false, 1);
  ExpectSame(expected, run(2, false, 2));
  ExpectSame(expected, run(50, true, 3));
}

}  // namespace
}  // namespace clamor
