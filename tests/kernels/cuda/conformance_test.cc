// Every operator, forward and backward, on every back end: the dull reference, the CPU on each of its
// targets, and the device, emulated or real.
#include "tests/kernels/cuda/conformance.h"

#include <cmath>
#include <ostream>
#include <string>

#include "gtest/gtest.h"
#include "kernels/cpu_target.h"

namespace clamor::kernels::cuda {
namespace {

std::vector<Operator> AllOperators() {
  std::vector<Operator> all;
  for (const auto& some : {ForwardOperators(), QuantizedOperators(), LogitOperators(), DraftOperators(),
                           TextOperators(), BackwardOperators()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

class ConformanceTest : public OnDevice, public testing::WithParamInterface<Operator> {
 protected:
  Problem Make(int units) { return GetParam().make(dice_, units); }

 private:
  Random dice_{7};
};

// The bits, where nothing else is allowed; any NaN is as good as another.
void ExpectNear(const Array& expected, const Array& actual, double tolerance, const std::string& whose) {
  if (tolerance == 0) {
    EXPECT_TRUE(SameBits(expected.values, actual.values)) << whose;
    return;
  }
  ASSERT_EQ(expected.values.size(), actual.values.size()) << whose;
  double greatest = 1e-6;
  for (const float v : expected.values) greatest = std::max(greatest, std::fabs(double{v}));
  for (size_t i = 0; i < expected.values.size(); ++i) {
    ASSERT_NEAR(expected.values[i], actual.values[i], tolerance * greatest) << whose << ", element " << i;
  }
}

Results PrefixOf(const Results& all, const Results& like) {
  Results prefix;
  for (size_t i = 0; i < all.size(); ++i) prefix.push_back({First(all[i].values, like[i].values.size())});
  return prefix;
}

void ExpectSame(const Results& expected, const Results& actual, const std::string& whose) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(SameBits(expected[i].values, actual[i].values)) << whose << ", array " << i;
}

// One row is as wide as they come.
TEST_P(ConformanceTest, EveryBackEndAgrees) {
  for (const int units : {1, 5, 9}) {
    const Problem problem = Make(units);
    const Results expected = problem.reference(), device = problem.device(stream_, units);
    ASSERT_EQ(expected.size(), device.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ExpectNear(expected[i], device[i], expected[i].device,
                 "the device, " + std::to_string(units) + ", array " + std::to_string(i));
    }
    if (!problem.cpu) continue;
    for (const CpuTarget target : SupportedCpuTargets()) {
      ASSERT_TRUE(SetCpuTarget(target).ok());
      ThreadPool pool(2);
      const Results cpu = problem.cpu(pool);
      ASSERT_EQ(expected.size(), cpu.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        ExpectNear(expected[i], cpu[i], expected[i].cpu,
                   std::string(CpuTargetName(target)) + ", " + std::to_string(units) + ", array " +
                       std::to_string(i));
      }
    }
  }
}

TEST_P(ConformanceTest, EveryScheduleGivesTheSameBits) {
  const Problem problem = Make(3);
  const Results first = problem.device(stream_, 3);
  for (int seed = 1; seed <= kSchedules; ++seed) {
    SetSchedule(seed);
    ExpectSame(first, problem.device(stream_, 3), "schedule " + std::to_string(seed));
  }
}

TEST_P(ConformanceTest, WhatElseThereIsDoesNotShow) {
  const std::vector<int>& alone = GetParam().alone;
  if (alone.empty()) return;  // one result of all
  const Problem problem = Make(alone.back());
  const Results all = problem.device(stream_, alone.back());
  for (const int units : First(alone, alone.size() - 1)) {
    const Results some = problem.device(stream_, units);
    ASSERT_EQ(all.size(), some.size());
    EXPECT_LT(some[0].values.size(), all[0].values.size());
    ExpectSame(PrefixOf(all, some), some, std::to_string(units) + " alone");
  }
}

TEST_P(ConformanceTest, ANodeOfATreeIsTheEndOfAChain) {
  const int units = 40;
  const Problem problem = GetParam().alone == kRowCounts ? Make(units) : Problem();
  if (!problem.chain) return;  // there are no trees
  const Results all = problem.device(stream_, units);
  for (const int unit : {0, 1, 17, 39}) {
    const Results chain = problem.chain(stream_, unit);
    ASSERT_EQ(all.size(), chain.size());
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t size = all[i].values.size() / units;
      const auto begin = all[i].values.begin() + unit * size;
      EXPECT_TRUE(SameBits(std::vector<float>(begin, begin + size), chain[i].values))
          << unit << ", array " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Operators, ConformanceTest, testing::ValuesIn(AllOperators()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace

void PrintTo(const Operator& of, std::ostream* out) { *out << of.name; }

}  // namespace clamor::kernels::cuda
