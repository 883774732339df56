// The one place that asks which compiler runs: nvcc, or a C++ compiler that builds the same kernels for the
// emulator of tests/simt. Kernels say __global__, threadIdx, __syncthreads and so on as CUDA has them (the
// emulator's <cuda_runtime.h>, found by include path, provides the names), and take from here what needs
// other words in the two worlds: launches, shared memory, vector accesses, tensor cores, asynchronous copies.
//
// What is between #ifdef __CUDACC__ and #else runs on a GPU only, and so is untested without one. It is kept
// to single instructions.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>
#include <type_traits>

#include "kernels/cuda/check.h"

#ifdef __CUDACC__

// float[32][33] and the like: GPU_SHARED(float[32][33], tile).
#define GPU_SHARED(type, name) __shared__ std::type_identity_t<type> name
// The launch's dynamic shared memory, 16-byte aligned.
#define GPU_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char gpu_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(gpu_dynamic_shared)

#else

#define GPU_SHARED(type, name) auto& name = ::simt::SharedVariable<type>([] {})
#define GPU_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::simt::DynamicShared())

#endif

namespace clamor::kernels::cuda::gpu {

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;  // dynamic
  cudaStream_t stream;
};

// kernel<<<grid>>>(arguments...)
template <class... P, class... A>
void Launch(const Grid& grid, void (*kernel)(P...), A... arguments) {
#ifdef __CUDACC__
  kernel<<<grid.blocks, grid.threads, grid.shared_bytes, grid.stream>>>(static_cast<P>(arguments)...);
#else
  ::simt::Launch(
      reinterpret_cast<const void*>(kernel), grid.blocks, grid.threads, grid.shared_bytes, grid.stream,
      std::make_unique<::simt::CallOf<P...>>(kernel, std::tuple<P...>(static_cast<P>(arguments)...)));
#endif
  Check(cudaGetLastError(), "a kernel's launch");
}

// One access of sizeof(V) bytes, 4, 8 or 16, which p must be aligned to.
template <class V, class T>
__device__ __forceinline__ V LoadVector(const T* p) {
#ifdef __CUDACC__
  return *reinterpret_cast<const V*>(p);
#else
  V v;
  ::simt::LoadVector(&v, p, sizeof(V));
  return v;
#endif
}
template <class V, class T>
__device__ __forceinline__ void StoreVector(T* p, const V& v) {
#ifdef __CUDACC__
  *reinterpret_cast<V*>(p) = v;
#else
  ::simt::StoreVector(p, &v, sizeof(V));
#endif
}

// ldmatrix.x4: lane 8 i + r gives the address of row r of matrix i, 16 bytes in shared memory. Lane l gets,
// in out[i], elements 2 (l % 4) and the next of row l / 4 of matrix i; Transposed: of its column l / 4.
template <bool Transposed>
__device__ __forceinline__ void LoadMatrices(const void* row, uint32_t (&out)[4]) {
#ifdef __CUDACC__
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  }
#else
  ::simt::CheckShared(row);
  ::simt::LoadMatrixLane lane = {row, {}};
  ::simt::Collective(Transposed ? ::simt::WarpOp::kLoadMatrixTransposed : ::simt::WarpOp::kLoadMatrix, ~0u,
                     &lane);
  for (int i = 0; i < 4; ++i) out[i] = lane.out[i];
#endif
}

// c += a b by mma.m16n8k16: a is 16 x 16, b 16 x 8, both bf16, c fp32. With g = lane / 4 and t = lane % 4:
// register i of a holds row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next; register i of b rows 2 t + 8
// i and the next of column g; element i of c row g + 8 (i / 2), column 2 t + i % 2.
__device__ __forceinline__ void Mma(const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  ::simt::MmaLane lane = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}, {}};
  ::simt::Collective(::simt::WarpOp::kMmaBF16, ~0u, &lane);
  for (int i = 0; i < 4; ++i) c[i] = lane.c[i];
#endif
}

// The same by mma.m16n8k32 with a and b in int8 (four to a register, 32 of k) and c in int32: exact.
__device__ __forceinline__ void Mma(const uint32_t (&a)[4], const uint32_t (&b)[2], int32_t (&c)[4]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  ::simt::MmaLane lane = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {}, {c[0], c[1], c[2], c[3]}};
  ::simt::Collective(::simt::WarpOp::kMmaS8, ~0u, &lane);
  for (int i = 0; i < 4; ++i) c[i] = lane.sums[i];
#endif
}

// Copies 16 bytes to shared memory without going through registers: the first `bytes` (0 to 16) from `from`,
// then zeros. They may be read after CopyWait, by other threads after a barrier as well.
__device__ __forceinline__ void CopyAsync(void* shared, const void* from, int bytes) {
#ifdef __CUDACC__
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
#else
  ::simt::CopyAsync(shared, from, bytes);
#endif
}
// Ends a group of copies.
__device__ __forceinline__ void CopyCommit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  ::simt::CopyCommit();
#endif
}
// Waits until all but the latest GroupsLeft groups of this thread are there.
template <int GroupsLeft>
__device__ __forceinline__ void CopyWait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(GroupsLeft) : "memory");
#else
  ::simt::CopyWait(GroupsLeft);
#endif
}

}  // namespace clamor::kernels::cuda::gpu
