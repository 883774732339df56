// Which instruction set the CPU kernels use. All of them give the same bits; this only decides how fast.
//
// Tested by tests/kernels/cpu_target_test.cc.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace clamor::kernels {

enum class CpuTarget { kScalar, kAvx2, kAvx512 };

std::string_view CpuTargetName(CpuTarget target);  // "scalar", "avx2", "avx512"

// Those that this machine can run, slowest first; never empty.
std::vector<CpuTarget> SupportedCpuTargets();

// The one in use: the fastest supported until SetCpuTarget says otherwise.
CpuTarget ActiveCpuTarget();

// Not while a kernel runs. FAILED_PRECONDITION if this machine lacks the target.
absl::Status SetCpuTarget(CpuTarget target);

// Whether products of int8 and int4 weights use the integer dot products that some machines have on top of
// the target in use: AVX-512 VNNI, AVX-VNNI. They do where there are any, until AllowVnni(false).
bool UsesVnni();
void AllowVnni(bool allowed);  // not while a kernel runs

// Applies the environment variable CLAMOR_CPU_TARGET (`scalar`, `avx2` or `avx512`), if set and not empty.
// Every binary calls this first. INVALID_ARGUMENT names an unknown value, FAILED_PRECONDITION one that this
// machine lacks; both list the values that would work.
absl::Status SetCpuTargetFromEnvironment();

}  // namespace clamor::kernels
