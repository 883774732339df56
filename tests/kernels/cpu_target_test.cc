#include "kernels/cpu_target.h"

#include <cstdlib>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor::kernels {
namespace {

class CpuTargetTest : public testing::Test {
 protected:
  void TearDown() override {
    unsetenv("CLAMOR_CPU_TARGET");
    ASSERT_TRUE(SetCpuTarget(SupportedCpuTargets().back()).ok());
  }
};

TEST_F(CpuTargetTest, TheFastestIsActiveAtFirst) {
  const std::vector<CpuTarget> supported = SupportedCpuTargets();
  ASSERT_FALSE(supported.empty());
  EXPECT_EQ(supported.front(), CpuTarget::kScalar);
  EXPECT_EQ(ActiveCpuTarget(), supported.back());
}

TEST_F(CpuTargetTest, EverySupportedTargetCanBeSetByName) {
  for (CpuTarget target : SupportedCpuTargets()) {
    setenv("CLAMOR_CPU_TARGET", std::string(CpuTargetName(target)).c_str(), 1);
    ASSERT_TRUE(SetCpuTargetFromEnvironment().ok());
    EXPECT_EQ(ActiveCpuTarget(), target);
  }
}

TEST_F(CpuTargetTest, AnUnsetOrEmptyVariableChangesNothing) {
  ASSERT_TRUE(SetCpuTarget(CpuTarget::kScalar).ok());
  EXPECT_TRUE(SetCpuTargetFromEnvironment().ok());
  setenv("CLAMOR_CPU_TARGET", "", 1);
  EXPECT_TRUE(SetCpuTargetFromEnvironment().ok());
  EXPECT_EQ(ActiveCpuTarget(), CpuTarget::kScalar);
}

TEST_F(CpuTargetTest, AnUnknownNameIsRefusedWithTheChoices) {
  setenv("CLAMOR_CPU_TARGET", "sse9", 1);
  const absl::Status status = SetCpuTargetFromEnvironment();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("sse9"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("scalar"));
}

TEST_F(CpuTargetTest, AMissingTargetIsAFailedPrecondition) {
  for (CpuTarget target : {CpuTarget::kScalar, CpuTarget::kAvx2, CpuTarget::kAvx512}) {
    const std::vector<CpuTarget> supported = SupportedCpuTargets();
    if (std::find(supported.begin(), supported.end(), target) == supported.end()) {
      EXPECT_EQ(SetCpuTarget(target).code(), absl::StatusCode::kFailedPrecondition);
    }
  }
}

// As Linux lists what the machine has.
TEST_F(CpuTargetTest, IntegerDotProductsAreUsedWhereTheMachineHasThem) {
  std::ifstream file("/proc/cpuinfo");
  std::string flags;
  for (std::string line; std::getline(file, line) && flags.empty();) {
    if (line.starts_with("flags")) flags = line + " ";
  }
  for (const CpuTarget target : SupportedCpuTargets()) {
    ASSERT_TRUE(SetCpuTarget(target).ok());
    const std::string flag = target == CpuTarget::kAvx512 ? " avx512_vnni " : " avx_vnni ";
    const bool there = target != CpuTarget::kScalar && flags.find(flag) != std::string::npos;
    EXPECT_EQ(UsesVnni(), there) << CpuTargetName(target);
    AllowVnni(false);
    EXPECT_FALSE(UsesVnni());
    AllowVnni(true);
    EXPECT_EQ(UsesVnni(), there);
  }
}

}  // namespace
}  // namespace clamor::kernels
