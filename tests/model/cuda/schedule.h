// The order in which the emulator runs what CUDA leaves open; a GPU has its own.
#pragma once

#ifndef CLAMOR_ON_GPU
#include "tests/simt/schedule.h"
#endif

namespace clamor {

inline void SetSchedule([[maybe_unused]] int seed) {
#ifndef CLAMOR_ON_GPU
  simt::SetSeed(seed);
#endif
}

}  // namespace clamor
