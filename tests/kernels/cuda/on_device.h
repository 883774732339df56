// What the tests of kernels/cuda share. They are built twice: against the emulator of tests/simt, where each
// runs under many schedules, and, where there is nvcc, against CUDA itself (CLAMOR_ON_GPU), where they are
// skipped unless there is a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"
#ifndef CLAMOR_ON_GPU
#include "tests/simt/schedule.h"
#endif

namespace clamor::kernels::cuda {

#ifdef CLAMOR_ON_GPU
inline constexpr int kSchedules = 3;
inline void SetSchedule(int) {}
#else
inline constexpr int kSchedules = 20;
inline void SetSchedule(int seed) { simt::SetSeed(seed); }
#endif

// A stream for one test, and random numbers.
class OnDevice : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "there is no GPU";
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
  }
  void TearDown() override {
    if (stream_ != nullptr) {
      EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    }
    SetSchedule(0);
  }

  float Uniform(float low = -1.0f, float high = 1.0f) {
    return std::uniform_real_distribution<float>(low, high)(random_);
  }
  int Between(int least, int most) { return std::uniform_int_distribution<int>(least, most)(random_); }
  std::vector<float> Floats(size_t n, float low = -1.0f, float high = 1.0f) {
    std::vector<float> v(n);
    for (float& x : v) x = Uniform(low, high);
    return v;
  }

  // What `run` returns, which every schedule must return.
  template <class Run>
  auto OnEverySchedule(Run run) {
    SetSchedule(0);
    const auto first = run();
    for (int seed = 1; seed < kSchedules; ++seed) {
      SetSchedule(seed);
      EXPECT_TRUE(run() == first) << "schedule " << seed << " gives other bits";
    }
    SetSchedule(0);
    return first;
  }

  cudaStream_t stream_ = nullptr;
  std::mt19937 random_{1};
};

// A buffer on the device with a pinned twin.
template <class T>
class DeviceArray {
 public:
  DeviceArray(cudaStream_t stream, size_t n) : stream_(stream), n_(n) {
    EXPECT_EQ(cudaMalloc(&device_, Bytes()), cudaSuccess);
    EXPECT_EQ(cudaMallocHost(&host_, Bytes()), cudaSuccess);
  }
  DeviceArray(cudaStream_t stream, const std::vector<T>& values) : DeviceArray(stream, values.size()) {
    std::memcpy(host_, values.data(), Bytes());
    EXPECT_EQ(cudaMemcpyAsync(device_, host_, Bytes(), cudaMemcpyHostToDevice, stream_), cudaSuccess);
  }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() {
    EXPECT_EQ(cudaFree(device_), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(host_), cudaSuccess);
  }

  T* data() { return device_; }
  std::vector<T> Read() {
    EXPECT_EQ(cudaMemcpyAsync(host_, device_, Bytes(), cudaMemcpyDeviceToHost, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return std::vector<T>(host_, host_ + n_);
  }

 private:
  size_t Bytes() const { return n_ * sizeof(T); }

  cudaStream_t stream_;
  size_t n_;
  T* device_ = nullptr;
  T* host_ = nullptr;
};

inline uint16_t BF16Of(float v) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(reference::RoundToBF16(v)) >> 16);
}
inline float Widen(uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); }
inline std::vector<uint16_t> BF16sOf(const std::vector<float>& v) {
  std::vector<uint16_t> out;
  for (const float x : v) out.push_back(BF16Of(x));
  return out;
}

}  // namespace clamor::kernels::cuda
