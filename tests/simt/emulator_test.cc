// The emulator itself: that it computes what CUDA does, lets pass what is in order, and reports what is not.
// What can be broken in a shipping kernel is in seeded_bugs_test.py.
#include <bit>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/gpu.h"
#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/schedule.h"
#include "tests/simt/traffic.h"

namespace clamor::simt {
namespace {

namespace gpu = kernels::cuda::gpu;

class EmulatorTest : public testing::Test {
 protected:
  void SetUp() override { cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); }
  void TearDown() override {
    SetSeed(0);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
  }

  template <class T>
  T* Device(size_t n) {
    T* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    return p;
  }
  template <class T>
  T* Pinned(size_t n) {
    T* p = nullptr;
    EXPECT_EQ(cudaMallocHost(&p, n * sizeof(T)), cudaSuccess);
    return p;
  }
  template <class T>
  T* Upload(const std::vector<T>& values) {
    T* const host = Pinned<T>(values.size());
    std::copy(values.begin(), values.end(), host);
    T* const device = Device<T>(values.size());
    cudaMemcpyAsync(device, host, values.size() * sizeof(T), cudaMemcpyHostToDevice, stream_);
    return device;
  }
  template <class T>
  std::vector<T> Read(const T* device, size_t n, cudaStream_t stream) {
    T* const host = Pinned<T>(n);
    cudaMemcpyAsync(host, device, n * sizeof(T), cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    return std::vector<T>(host, host + n);
  }
  template <class... P, class... A>
  void Launch(unsigned blocks, unsigned threads, void (*kernel)(P...), A... arguments) {
    gpu::Launch({.blocks = dim3(blocks), .threads = dim3(threads), .stream = stream_}, kernel, arguments...);
  }
  // What `run` and a wait for everything end in.
  void ExpectReport(const std::function<void()>& run, const std::string& report) {
    EXPECT_EXIT(
        {
          run();
          cudaDeviceSynchronize();
        },
        testing::ExitedWithCode(86), "simt: .*" + report);
  }

  cudaStream_t stream_ = nullptr;
  std::mt19937 random_{1};
};

// --- tensor cores: by the layouts that gpu.h states, from plain matrices

__global__ void MmaBF16Kernel(const uint16_t* a, const uint16_t* b,
                              float* c) {  // a: [16, 16], b: [16, 8], c: [16, 8]
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t fa[4], fb[2];
  float fc[4] = {};
  for (int i = 0; i < 4; ++i) {
    const uint16_t* const from = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
    fa[i] = from[0] | uint32_t{from[1]} << 16;
  }
  for (int i = 0; i < 2; ++i) {
    const uint16_t* const from = b + (2 * t + 8 * i) * 8 + g;
    fb[i] = from[0] | uint32_t{from[8]} << 16;
  }
  gpu::Mma(fa, fb, fc);
  for (int i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = fc[i];
}

TEST_F(EmulatorTest, MmaOfBF16) {
  std::vector<uint16_t> a(16 * 16), b(16 * 8);
  const auto small = [&] {
    return static_cast<float>(static_cast<int>(random_() % 17) - 8) / 8;
  };  // sums are exact
  const auto bits = [](float v) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16); };
  const auto value = [](uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); };
  for (uint16_t& v : a) v = bits(small());
  for (uint16_t& v : b) v = bits(small());
  float* const c = Device<float>(16 * 8);
  Launch(1, 32, MmaBF16Kernel, Upload(a), Upload(b), c);
  const std::vector<float> got = Read(c, 16 * 8, stream_);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += value(a[i * 16 + k]) * value(b[k * 8 + j]);
      EXPECT_EQ(got[i * 8 + j], sum) << i << " " << j;
    }
  }
}

__global__ void MmaS8Kernel(const int8_t* a, const int8_t* b,
                            int32_t* c) {  // a: [16, 32], b: [32, 8], c: [16, 8]
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t fa[4] = {}, fb[2] = {};
  int32_t fc[4] = {};
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < 4; ++i) {
      fa[i] |= uint32_t{static_cast<uint8_t>(a[(g + 8 * (i % 2)) * 32 + 4 * t + 16 * (i / 2) + j])}
               << (8 * j);
    }
    for (int i = 0; i < 2; ++i)
      fb[i] |= uint32_t{static_cast<uint8_t>(b[(4 * t + 16 * i + j) * 8 + g])} << (8 * j);
  }
  gpu::Mma(fa, fb, fc);
  for (int i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = fc[i];
}

TEST_F(EmulatorTest, MmaOfS8) {
  std::vector<int8_t> a(16 * 32), b(32 * 8);
  for (int8_t& v : a) v = static_cast<int8_t>(random_());
  for (int8_t& v : b) v = static_cast<int8_t>(random_());
  int32_t* const c = Device<int32_t>(16 * 8);
  Launch(1, 32, MmaS8Kernel, Upload(a), Upload(b), c);
  const std::vector<int32_t> got = Read(c, 16 * 8, stream_);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += a[i * 32 + k] * b[k * 8 + j];
      EXPECT_EQ(got[i * 8 + j], sum) << i << " " << j;
    }
  }
}

template <bool Transposed>
__global__ void LoadMatricesKernel(uint32_t* out) {  // [4, 32]
  GPU_SHARED(uint16_t[4][8][8], tiles);
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i)
    tiles[lane / 8][lane % 8][i] = static_cast<uint16_t>(100 * (lane / 8) + 10 * (lane % 8) + i);
  __syncwarp();
  uint32_t got[4];
  gpu::LoadMatrices<Transposed>(tiles[lane / 8][lane % 8], got);
  for (int i = 0; i < 4; ++i) out[i * 32 + lane] = got[i];
}

TEST_F(EmulatorTest, LoadMatrices) {
  for (const bool transposed : {false, true}) {
    uint32_t* const out = Device<uint32_t>(4 * 32);
    Launch(1, 32, transposed ? LoadMatricesKernel<true> : LoadMatricesKernel<false>, out);
    const std::vector<uint32_t> got = Read(out, 4 * 32, stream_);
    for (uint32_t i = 0; i < 4; ++i) {
      for (uint32_t lane = 0; lane < 32; ++lane) {
        const uint32_t r = lane / 4, c = lane % 4 * 2;
        const uint32_t low = 100 * i + (transposed ? 10 * c + r : 10 * r + c);
        const uint32_t high = low + (transposed ? 10 : 1);
        EXPECT_EQ(got[i * 32 + lane], low | high << 16) << i << " " << lane;
      }
    }
  }
}

// --- inside a block

__global__ void CopyKernel(const uint32_t* from, uint32_t* to, bool wait, bool barrier) {
  GPU_SHARED(uint32_t[64][4], tile);
  const int thread = threadIdx.x;
  gpu::CopyAsync(tile[thread], from + 4 * thread, thread == 63 ? 8 : 16);
  gpu::CopyCommit();
  if (wait) gpu::CopyWait<0>();
  if (barrier) __syncthreads();
  for (int i = 0; i < 4; ++i) to[4 * thread + i] = tile[63 - thread][i];
  if (!wait) gpu::CopyWait<0>();
}

TEST_F(EmulatorTest, AsynchronousCopies) {
  std::vector<uint32_t> from(64 * 4);
  for (uint32_t i = 0; i < from.size(); ++i) from[i] = i;
  uint32_t* const to = Device<uint32_t>(64 * 4);
  Launch(1, 64, CopyKernel, Upload(from), to, true, true);
  const std::vector<uint32_t> got = Read(to, 64 * 4, stream_);
  for (uint32_t thread = 0; thread < 64; ++thread) {
    for (uint32_t i = 0; i < 4; ++i) {
      EXPECT_EQ(got[4 * thread + i], thread == 0 && i >= 2 ? 0 : 4 * (63 - thread) + i) << thread << " " << i;
    }
  }
  ExpectReport([&] { Launch(1, 64, CopyKernel, Upload(from), to, false, true); },
               "CopyKernel.*which the copy of .* may not have filled yet");
  ExpectReport([&] { Launch(1, 64, CopyKernel, Upload(from), to, true, false); },
               "CopyKernel.*nothing has written|"
               "CopyKernel.*may not have filled yet|CopyKernel.*no barrier between");
}

__global__ void NeighbourKernel(int* out, bool sync) {
  GPU_SHARED(int[32], values);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (sync) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

TEST_F(EmulatorTest, SyncwarpOrdersAWarp) {
  int* const out = Device<int>(32);
  Launch(1, 32, NeighbourKernel, out, true);
  EXPECT_EQ(Read(out, 32, stream_)[5], 4);
  for (uint32_t seed = 1; seed < 4; ++seed) {
    SetSeed(seed);
    ExpectReport([&] { Launch(1, 32, NeighbourKernel, out, false); },
                 "NeighbourKernel.*(no barrier between|nothing has written)");
  }
}

// Racy only if the reader of a value comes before the one that overwrites it in no order.
__global__ void OverwriteKernel(int* out, bool barrier) {
  GPU_SHARED(int, value);
  if (threadIdx.x == 0) value = 1;
  __syncthreads();
  out[threadIdx.x] = value;
  if (barrier) __syncthreads();
  if (threadIdx.x == 40) value = 2;
}

TEST_F(EmulatorTest, AWriteAfterReadsNeedsABarrier) {
  int* const out = Device<int>(64);
  Launch(1, 64, OverwriteKernel, out, true);
  EXPECT_EQ(Read(out, 64, stream_), std::vector<int>(64, 1));
  ExpectReport([&] { Launch(1, 64, OverwriteKernel, out, false); },
               "OverwriteKernel.*writes.*read at.*no barrier");
}

__global__ void ShuffleOutsideKernel(int* out) { out[threadIdx.x] = __shfl_sync(0xfu, 1, 9); }
__global__ void HalfWarpKernel(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
}
TEST_F(EmulatorTest, WarpOperationsCheckTheirMasks) {
  int* const out = Device<int>(32);
  ExpectReport([&] { Launch(1, 4, ShuffleOutsideKernel, out); },
               "ShuffleOutsideKernel.*reads lane 9, outside the mask");
  ExpectReport([&] { Launch(1, 32, HalfWarpKernel, out); },
               "HalfWarpKernel.*(names lane .*, which has ended|ends while lanes of its warp wait)");
}

__global__ void BlocksKernel(int* sum, bool atomic) {
  if (atomic) {
    atomicAdd(sum, 1);
  } else {
    *sum = 1;
  }
}

TEST_F(EmulatorTest, BlocksAreNotOrdered) {
  int* const sum = Upload<int>({0});
  Launch(5, 32, BlocksKernel, sum, true);
  EXPECT_EQ(Read(sum, 1, stream_)[0], 5 * 32);
  ExpectReport([&] { Launch(2, 1, BlocksKernel, sum, false); }, "BlocksKernel.*blocks are not ordered");
}

__global__ void ReadKernel(const int* from, int* to) { to[threadIdx.x] = from[threadIdx.x]; }

TEST_F(EmulatorTest, MemoryThatIsNotThere) {
  int* const a = Device<int>(4);
  int* const b = Device<int>(4);
  ExpectReport([&] { Launch(1, 4, ReadKernel, a, b); }, "ReadKernel.*which nothing has written");
  static int of_the_host[4];
  ExpectReport([&] { Launch(1, 4, ReadKernel, of_the_host, b); },
               "ReadKernel.*the host's or another thread's own");
  ExpectReport(
      [&] {
        Launch(1, 5, ReadKernel, Upload<int>({1, 2, 3, 4}), b);
      },
      "ReadKernel.*at offset 16, out of the bounds of the 16 bytes allocated at");
  ExpectReport(
      [&] {
        int* const gone = Upload<int>({1, 2, 3, 4});
        cudaFree(gone);
        Launch(1, 4, ReadKernel, gone, b);
      },
      "ReadKernel.*which were freed at");
  ExpectReport([&] { Launch(1, 1025, ReadKernel, a, b); }, "ReadKernel is launched at .* with 1025 threads");
  ExpectReport([&] { b[0] = 1; }, "the host, at .*, touches device memory: the 16 bytes");
}

TEST_F(EmulatorTest, OutOfMemoryIsAnAnswer) {
  int* p = nullptr;
  SetDeviceBytes(DeviceBytes() - DeviceBytesFree() + 100);
  EXPECT_EQ(cudaMalloc(&p, 101), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMallocAsync(&p, 101, stream_), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&p, 100), cudaSuccess);
  SetDeviceBytes(size_t{4} << 30);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
}

// --- streams

__global__ void AddKernel(int* values, int what) { values[threadIdx.x] += what; }

class StreamsTest : public EmulatorTest {
 protected:
  void SetUp() override {
    EmulatorTest::SetUp();
    cudaStreamCreateWithFlags(&other_, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
  }
  void Add(cudaStream_t stream, int* values, int what) {
    gpu::Launch({.blocks = dim3(1), .threads = dim3(4), .stream = stream}, AddKernel, values, what);
  }
  // Work on both streams, the second's behind the first's.
  void Fork(int* values) {
    Add(stream_, values, 1);
    cudaEventRecord(event_, stream_);
    cudaStreamWaitEvent(other_, event_);
    Add(other_, values, 10);
  }
  void Join() {
    cudaEventRecord(event_, other_);
    cudaStreamWaitEvent(stream_, event_);
  }

  cudaStream_t other_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

TEST_F(StreamsTest, EventsOrderStreams) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    SetSeed(seed);
    int* const values = Upload<int>({0, 0, 0, 0});
    Fork(values);
    Join();
    EXPECT_EQ(Read(values, 4, stream_)[3], 11);
  }
  ExpectReport(
      [&] {
        int* const values = Upload<int>({0, 0, 0, 0});
        Fork(values);
        Add(stream_, values, 1);
      },
      "AddKernel.*which AddKernel, launched at .*\\(a race between streams\\)");
  ExpectReport(
      [&] {
        cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
        cudaStreamWaitEvent(other_, event_);
      },
      "never recorded");
  ExpectReport([&] { Add(nullptr, nullptr, 1); }, "legacy default stream");
}

TEST_F(StreamsTest, PinnedMemoryIsTheCopysUntilTheHostHasWaited) {
  int* const host = Pinned<int>(4);
  int* const device = Upload<int>({1, 2, 3, 4});
  cudaMemcpyAsync(host, device, 16, cudaMemcpyDeviceToHost, stream_);
  const std::string report = "touches pinned memory.*cudaMemcpyAsync at .*, still (reads|writes)";
  ExpectReport([&] { host[0] = host[1]; }, report);
  cudaStreamSynchronize(other_);  // of another stream
  ExpectReport([&] { host[0] = host[1]; }, report);
  cudaStreamSynchronize(stream_);
  EXPECT_EQ(host[2], 3);

  cudaMemcpyAsync(device, host, 16, cudaMemcpyHostToDevice, stream_);
  EXPECT_EQ(host[2], 3);  // reading is in order
  ExpectReport([&] { host[0] = 5; }, report);
  cudaEventRecord(event_, stream_);
  while (cudaEventQuery(event_) == cudaErrorNotReady) {
  }
  host[0] = 5;

  static int pageable[4];
  ExpectReport([&] { cudaMemcpyAsync(device, pageable, 16, cudaMemcpyHostToDevice, stream_); },
               "not from cudaMallocHost");
  ExpectReport([&] { cudaMemcpyAsync(device, host, 32, cudaMemcpyHostToDevice, stream_); },
               "out of the bounds");
}

TEST_F(StreamsTest, StreamOrderedMemoryLivesInItsStream) {
  int* p = nullptr;
  ASSERT_EQ(cudaMallocAsync(&p, 16, stream_), cudaSuccess);
  cudaMemsetAsync(p, 0, 16, stream_);
  Add(stream_, p, 3);
  EXPECT_EQ(Read(p, 4, stream_)[0], 3);
  ExpectReport([&] { cudaFreeAsync(p, stream_), Add(stream_, p, 1); }, "AddKernel.*which were freed at");
  ExpectReport([&] { Add(other_, p, 1), cudaFreeAsync(p, stream_); },
               "(race between streams|which were freed at)");
  ExpectReport(
      [&] {
        cudaMallocAsync(&p, 16, stream_);
        cudaMemsetAsync(p, 0, 16, other_);
      },
      "cudaMemsetAsync.*cudaMallocAsync.*allocates.*race between streams");
  EXPECT_EQ(cudaFreeAsync(p, stream_), cudaSuccess);
}

TEST_F(StreamsTest, GraphsReplayBranches) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    SetSeed(seed);
    int* const left = Upload<int>({0, 0, 0, 0});
    int* const right = Upload<int>({0, 0, 0, 0});
    cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal);
    Add(stream_, left, 1);
    cudaEventRecord(event_, stream_);
    cudaStreamWaitEvent(other_, event_);
    Add(other_, right, 10);
    Add(stream_, left, 100);
    Join();
    Add(stream_, right, 1000);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaStreamEndCapture(stream_, &graph);
    cudaGraphInstantiate(&exec, graph);
    for (int i = 0; i < 3; ++i) cudaGraphLaunch(exec, stream_);
    EXPECT_EQ(Read(left, 4, stream_)[0], 303);
    EXPECT_EQ(Read(right, 4, stream_)[0], 3030);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
}

TEST_F(StreamsTest, CaptureRefusesWhatGraphsCannotHold) {
  int* const values = Upload<int>({0, 0, 0, 0});
  const auto capture = [&](const std::function<void()>& record) {
    cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal);
    record();
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream_, &graph);
  };
  ExpectReport([&] { capture([&] { Device<int>(1); }); },
               "cudaMalloc at .* inside the capture of a graph, begun at");
  ExpectReport([&] { capture([&] { cudaStreamSynchronize(stream_); }); },
               "cudaStreamSynchronize at .* inside");
  ExpectReport([&] { capture([&] { Fork(values); }); }, "nothing joined AddKernel");
}

__global__ void AddUpKernel(const int* from, int* to) {
  to[blockIdx.x * blockDim.x + threadIdx.x] = from[0] + from[1] + from[2] + from[3];
}

TEST_F(EmulatorTest, CountsTraffic) {
  int* const values = Upload<int>({1, 2, 3, 4});
  ForgetTraffic();
  for (int launch = 0; launch < 2; ++launch) Launch(2, 4, AddUpKernel, values, Device<int>(8));
  cudaStreamSynchronize(stream_);
  const Traffic traffic = TrafficByName()["AddUpKernel"];
  EXPECT_EQ(traffic.loaded, 2 * 8 * 16u);
  EXPECT_EQ(traffic.stored, 2 * 32u);
  EXPECT_EQ(traffic.distinct_loaded, 2 * 16u);  // once by a launch
  EXPECT_EQ(traffic.distinct_stored, 2 * 32u);
}

}  // namespace
}  // namespace clamor::simt
