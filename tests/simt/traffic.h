// What kernels, library calls and copies moved to and from device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "tests/simt/shadow.h"

namespace clamor::simt {

// In bytes. Distinct: each byte once in a launch, and loaded only if the launch has not stored it; what
// caches without end would leave to the memory.
struct Traffic {
  uint64_t loaded = 0, stored = 0;
  uint64_t distinct_loaded = 0, distinct_stored = 0;
};

// Enters an access to cells[0..n) that is about to happen.
void CountTraffic(const Cell* cells, size_t n, Access access, OperationId by);

// By the name of the kernel or call, since ForgetTraffic.
std::map<std::string, Traffic> TrafficByName();
void ForgetTraffic();

}  // namespace clamor::simt
