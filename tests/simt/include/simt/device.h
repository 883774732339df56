// What device code sees under the emulator: CUDA's own names, as far as kernels/cuda uses them, and in
// namespace simt what kernels/cuda/gpu.h maps its wrappers to. Code that includes this is compiled with
// -fsanitize=thread but linked without: each load and store then calls the emulator (tests/simt/access.cc).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <source_location>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

struct CUstream_st;

namespace simt {

using Place = std::source_location;

struct Builtins {
  uint3 thread_index, block_index;
  dim3 block_size, grid_size;
};
extern Builtins builtins;  // of the thread that runs

// A kernel with its arguments, copied at the launch.
class Call {
 public:
  virtual ~Call() = default;
  virtual void Run() const = 0;
  virtual size_t bytes() const = 0;  // of the object: what kernels may read of host memory
};
template <class... P>
class CallOf final : public Call {
 public:
  CallOf(void (*kernel)(P...), std::tuple<P...> arguments) : kernel_(kernel), arguments_(arguments) {}
  void Run() const override { std::apply(kernel_, arguments_); }
  size_t bytes() const override { return sizeof(*this); }

 private:
  void (*kernel_)(P...);
  std::tuple<P...> arguments_;
};
void Launch(const void* kernel, dim3 grid, dim3 threads, size_t shared_bytes, CUstream_st* stream,
            std::unique_ptr<Call> call);

// Memory of the block that runs, the same for each call with the same key.
void* Shared(const void* key, size_t bytes, size_t alignment);
template <class T, class Tag>  // Tag: a lambda's type, another for each declaration
T& SharedVariable(Tag) {
  static char key;
  return *static_cast<T*>(Shared(&key, sizeof(T), alignof(T)));
}
void* DynamicShared();

enum class WarpOp { kShuffle, kBallot, kSync, kLoadMatrix, kLoadMatrixTransposed, kMmaBF16, kMmaS8 };
// Meets the other lanes of `mask` and does `op` with all their payloads.
void Collective(WarpOp op, unsigned mask, void* payload);
void Barrier(Place place);
int Lane();

struct ShuffleLane {
  uint64_t value;
  int source;
};
template <class T>
T Shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  ShuffleLane lane = {0, source};
  std::memcpy(&lane.value, &value, sizeof(T));
  Collective(WarpOp::kShuffle, mask, &lane);
  std::memcpy(&value, &lane.value, sizeof(T));
  return value;
}

struct LoadMatrixLane {
  const void* row;  // 16 bytes of shared memory
  uint32_t out[4];
};
struct MmaLane {  // fragments of mma.m16n8k16 in bf16, or of m16n8k32 in s8, as PTX lays them out
  uint32_t a[4], b[2];
  float c[4];
  int32_t sums[4];
};
void CheckShared(const void* row);  // that a lane may read a row of 16 bytes

// Vector accesses, checked for alignment; `bytes` also is the alignment.
void LoadVector(void* to, const void* from, size_t bytes);
void StoreVector(void* to, const void* from, size_t bytes);

// Copies 16 bytes, of which the first `bytes` come from `from` and the others are 0, when waited for or
// sooner.
void CopyAsync(void* shared, const void* from, int bytes);
void CopyCommit();
void CopyWait(int groups_left);

void AtomicAccess(const void* p, size_t bytes, const void* return_address);

}  // namespace simt

inline constexpr const uint3& threadIdx = simt::builtins.thread_index;
inline constexpr const uint3& blockIdx = simt::builtins.block_index;
inline constexpr const dim3& blockDim = simt::builtins.block_size;
inline constexpr const dim3& gridDim = simt::builtins.grid_size;

inline void __syncthreads(simt::Place place = simt::Place::current()) { simt::Barrier(place); }
inline void __syncwarp(unsigned mask = ~0u) { simt::Collective(simt::WarpOp::kSync, mask, nullptr); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return simt::Shuffle(mask, value, source & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return simt::Shuffle(mask, value, simt::Lane() ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  const int source = simt::Lane() + static_cast<int>(delta);
  return simt::Shuffle(mask, value, source < 32 ? source : simt::Lane());
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const int source = simt::Lane() - static_cast<int>(delta);
  return simt::Shuffle(mask, value, source >= 0 ? source : simt::Lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  simt::ShuffleLane lane = {predicate != 0, 0};
  simt::Collective(simt::WarpOp::kBallot, mask, &lane);
  return static_cast<unsigned>(lane.value);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// Byte i of the result is that of the eight in y and x (x the low four) that the i-th half byte of `selector`
// names, or where its top bit is set that byte's sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned which = selector >> 4 * i & 0xf;
    unsigned byte = bytes >> 8 * (which & 7) & 0xff;
    if (which & 8) byte = byte >> 7 ? 0xff : 0;
    out |= byte << 8 * i;
  }
  return out;
}
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }

// Fibers do not preempt each other: plain code is atomic.
template <class T>
__attribute__((no_sanitize("thread"), noinline)) T atomicAdd(T* p, T value) {
  simt::AtomicAccess(p, sizeof(T), __builtin_return_address(0));
  const T before = *p;
  *p = before + value;
  return before;
}
template <class T>
__attribute__((no_sanitize("thread"), noinline)) T atomicMax(T* p, T value) {
  simt::AtomicAccess(p, sizeof(T), __builtin_return_address(0));
  const T before = *p;
  if (before < value) *p = value;
  return before;
}
