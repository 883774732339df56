// The order in which the emulator runs what CUDA leaves unordered. Tests set the seed; results must not
// depend on it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace clamor::simt {

// 0, the default: threads, blocks and streams in order, asynchronous copies as late as possible.
void SetSeed(uint32_t seed);
uint32_t Seed();

// From now on, whoever waits for the device learns that a kernel has broken it (cudaErrorIllegalAddress).
void BreakDevice();

// The device's whole memory; 4 GiB at first.
size_t DeviceBytes();
void SetDeviceBytes(size_t bytes);

// A generator for one purpose, the same whenever the seed and `salt` are.
inline std::mt19937 RandomFor(uint32_t salt) {
  std::seed_seq sequence = {Seed(), salt};
  return std::mt19937(sequence);
}

template <class T>
void Shuffle(std::vector<T>& order, std::mt19937& random) {
  if (Seed() != 0) std::shuffle(order.begin(), order.end(), random);
}

}  // namespace clamor::simt
