// One table of operators for all back ends: each has a dull definition, mostly an operator on the CPU, and a
// kernel, which runs on the emulator or on a GPU. conformance_test.cc holds what is asked of every row.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "kernels/thread_pool.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {

// One array that an operator leaves behind, widened to fp32. Of the greatest expected value: how far the
// CPU's and the device's may be off; 0: the same bits.
struct Array {
  std::vector<float> values;
  double cpu = 0, device = 0;
};
using Results = std::vector<Array>;

struct Problem {
  std::function<Results()> reference;       // with the tolerances
  std::function<Results(ThreadPool&)> cpu;  // null: the CPU has no such operator
  // Of the first `units` alone: what the whole problem's results begin with.
  std::function<Results(cudaStream_t, int units)> device;
  // What the unit's part of each array is where it is no node of a tree but the end of a chain; null: there
  // are no trees.
  std::function<Results(cudaStream_t, int unit)> chain;
};

class Random {
 public:
  explicit Random(uint32_t seed) : bits_(seed) {}

  int Between(int least, int most) { return std::uniform_int_distribution<int>(least, most)(bits_); }
  std::vector<float> Floats(size_t n, float low = -1.0f, float high = 1.0f) {
    std::uniform_real_distribution<float> uniform(low, high);
    std::vector<float> v(n);
    for (float& x : v) x = uniform(bits_);
    return v;
  }
  // Floats that bf16 can hold.
  std::vector<float> BF16s(size_t n, float low = -1.0f, float high = 1.0f) {
    std::vector<float> v = Floats(n, low, high);
    for (float& x : v) x = reference::RoundToBF16(x);
    return v;
  }
  std::vector<int32_t> Ints(size_t n, int least, int most) {
    std::vector<int32_t> v(n);
    for (int32_t& x : v) x = Between(least, most);
    return v;
  }
  template <class T>
  void Shuffle(std::vector<T>& v) {
    std::shuffle(v.begin(), v.end(), bits_);
  }
  std::mt19937& bits() { return bits_; }

 private:
  std::mt19937 bits_;
};

struct Operator {
  const char* name;
  // Of random shape, with ragged tails. Units are rows, or texts.
  Problem (*make)(Random&, int units);
  // How many units are run alone, the last of them all; empty where they add up to one result.
  std::vector<int> alone;
};
inline const std::vector<int> kRowCounts = {1, 2, 17, 65, 128};
inline const std::vector<int> kTextCounts = {1, 2, 5};

std::vector<Operator> ForwardOperators();
std::vector<Operator> QuantizedOperators();
std::vector<Operator> LogitOperators();
std::vector<Operator> DraftOperators();
std::vector<Operator> TextOperators();
std::vector<Operator> BackwardOperators();

template <class T>
std::vector<T> First(const std::vector<T>& v, size_t n) {
  return std::vector<T>(v.begin(), v.begin() + n);
}
inline std::vector<float> Widened(const std::vector<uint16_t>& v) {
  std::vector<float> out;
  for (const uint16_t x : v) out.push_back(Widen(x));
  return out;
}
inline std::vector<float> Rounded(std::vector<float> v) {
  for (float& x : v) x = reference::RoundToBF16(x);
  return v;
}
// Ids and counts, which fp32 holds exactly below 2^24.
template <class T>
std::vector<float> AsFloats(const std::vector<T>& v) {
  return std::vector<float>(v.begin(), v.end());
}

}  // namespace clamor::kernels::cuda
