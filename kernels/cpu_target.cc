#include "kernels/cpu_target.h"

#include <cpuid.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hwy/targets.h"

namespace clamor::kernels {
namespace {

std::atomic<CpuTarget>& Active() {
  static std::atomic<CpuTarget> active = SupportedCpuTargets().back();
  return active;
}

std::atomic<bool> vnni_allowed = true;

// Clang's __builtin_cpu_supports does not know it: bit 4 of EAX, leaf 7, subleaf 1 (Intel SDM, CPUID).
bool HasAvxVnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 4) != 0;
}

bool HasVnni(CpuTarget target) {
  static const bool of_avx2 = HasAvxVnni();
  static const bool of_avx512 = __builtin_cpu_supports("avx512vnni");
  return target == CpuTarget::kAvx512 ? of_avx512 : target == CpuTarget::kAvx2 && of_avx2;
}

bool IsSupported(CpuTarget target) {
  for (CpuTarget supported : SupportedCpuTargets()) {
    if (supported == target) return true;
  }
  return false;
}

std::string SupportedNames() {
  return absl::StrJoin(SupportedCpuTargets(), ", ",
                       [](std::string* out, CpuTarget t) { out->append(CpuTargetName(t)); });
}

}  // namespace

std::string_view CpuTargetName(CpuTarget target) {
  switch (target) {
    case CpuTarget::kScalar:
      return "scalar";
    case CpuTarget::kAvx2:
      return "avx2";
    case CpuTarget::kAvx512:
      return "avx512";
  }
  return "unknown";
}

std::vector<CpuTarget> SupportedCpuTargets() {
  const int64_t supported = hwy::SupportedTargets();
  std::vector<CpuTarget> targets = {CpuTarget::kScalar};
  if (supported & HWY_AVX2) targets.push_back(CpuTarget::kAvx2);
  if (supported & HWY_AVX3) targets.push_back(CpuTarget::kAvx512);
  return targets;
}

CpuTarget ActiveCpuTarget() { return Active().load(std::memory_order_relaxed); }

absl::Status SetCpuTarget(CpuTarget target) {
  if (!IsSupported(target)) {
    return absl::FailedPreconditionError(
        absl::StrCat("CPU target ", std::string(CpuTargetName(target)),
                     " is not supported by this machine, which has: ", SupportedNames()));
  }
  Active().store(target, std::memory_order_relaxed);
  return absl::OkStatus();
}

bool UsesVnni() { return vnni_allowed.load(std::memory_order_relaxed) && HasVnni(ActiveCpuTarget()); }

void AllowVnni(bool allowed) { vnni_allowed.store(allowed, std::memory_order_relaxed); }

absl::Status SetCpuTargetFromEnvironment() {
  const char* value = std::getenv("CLAMOR_CPU_TARGET");
  if (value == nullptr || *value == '\0') return absl::OkStatus();
  for (CpuTarget target : {CpuTarget::kScalar, CpuTarget::kAvx2, CpuTarget::kAvx512}) {
    if (CpuTargetName(target) == value) return SetCpuTarget(target);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("CLAMOR_CPU_TARGET is \"", value, "\"; this machine supports: ", SupportedNames()));
}

}  // namespace clamor::kernels
