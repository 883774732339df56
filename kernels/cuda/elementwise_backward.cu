#include "kernels/cuda/elementwise_backward.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/norm_gradient.h"
#include "kernels/cuda/numerics.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// One block to a row; as in AddRmsNorm, half a warp sums.
__global__ void __launch_bounds__(kThreads) RmsNormBackwardKernel(RmsNormBackwardArgs a) {
  GPU_DYNAMIC_SHARED(float, x);  // [n], then dy [n]
  GPU_SHARED(NormGradient[1], gradient);
  float* const dy = x + a.n;
  const int64_t r = blockIdx.x, row = a.which != nullptr ? int64_t{a.which[r]} : r;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = 4 * thread; i < a.n; i += 4 * kThreads) {
    gpu::StoreVector(x + i, gpu::LoadVector<float4>(a.x + row * a.n + i));
    gpu::StoreVector(dy + i, gpu::LoadVector<float4>(a.dy + r * a.n + i));
  }
  __syncthreads();
  if (thread < 32) {
    const NormGradient g = SumNormGradient(x, dy, a.weight, a.n, a.eps, thread);
    if (thread == 0) gradient[0] = g;
  }
  __syncthreads();

  const NormGradient g = gradient[0];
  float* const d = a.d + row * a.n;
  for (int i = 4 * thread; i < a.n; i += 4 * kThreads) {
    const float4 before = gpu::LoadVector<float4>(d + i), w = gpu::LoadVector<float4>(a.weight + i);
    const float4 xi = gpu::LoadVector<float4>(x + i), dyi = gpu::LoadVector<float4>(dy + i);
    const float4 sum = {before.x + g.Of(xi.x, dyi.x, w.x), before.y + g.Of(xi.y, dyi.y, w.y),
                        before.z + g.Of(xi.z, dyi.z, w.z), before.w + g.Of(xi.w, dyi.w, w.w)};
    gpu::StoreVector(d + i, sum);
    gpu::StoreVector(a.rounded + row * a.n + i, uint2{ToBF16Pair(sum.x, sum.y), ToBF16Pair(sum.z, sum.w)});
    gpu::StoreVector(a.terms + r * a.n + i, float4{g.OfWeight(xi.x, dyi.x), g.OfWeight(xi.y, dyi.y),
                                                   g.OfWeight(xi.z, dyi.z), g.OfWeight(xi.w, dyi.w)});
  }
}

struct GateGradient {
  float gate, up;
};
__device__ inline GateGradient Ungate(float gate, float up, float d) {
  const float denominator = 1.0f + Exp(0.0f - gate), q = 1.0f / denominator;
  return {d * up * (q * fmaf(gate, 1.0f - q, 1.0f)), d * (gate / denominator)};
}

__global__ void __launch_bounds__(kThreads)
    SiluGateBackwardKernel(const float* gate_up, const float* d_out, int n, uint16_t* d_gate_up) {
  const int64_t r = blockIdx.y;
  const int i = 4 * static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= n) return;
  const float* const row = gate_up + r * 2 * n;
  const float4 gate = gpu::LoadVector<float4>(row + i), up = gpu::LoadVector<float4>(row + n + i),
               d = gpu::LoadVector<float4>(d_out + r * n + i);
  const GateGradient x = Ungate(gate.x, up.x, d.x), y = Ungate(gate.y, up.y, d.y),
                     z = Ungate(gate.z, up.z, d.z), w = Ungate(gate.w, up.w, d.w);
  uint16_t* const to = d_gate_up + r * 2 * n + i;
  gpu::StoreVector(to, uint2{ToBF16Pair(x.gate, y.gate), ToBF16Pair(z.gate, w.gate)});
  gpu::StoreVector(to + n, uint2{ToBF16Pair(x.up, y.up), ToBF16Pair(z.up, w.up)});
}

// One block to a place of the order: that of a token's first row adds up all of its rows.
__global__ void __launch_bounds__(kThreads)
    EmbeddingGradientKernel(const int32_t* tokens, const int32_t* order, const float* d, int64_t rows, int n,
                            float* gradient) {
  const int64_t begin = blockIdx.x;
  const int32_t token = tokens[order[begin]];
  if (begin > 0 && tokens[order[begin - 1]] == token) return;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
    float sum = gradient[int64_t{token} * n + i];
    for (int64_t at = begin; at < rows && tokens[order[at]] == token; ++at)
      sum += d[int64_t{order[at]} * n + i];
    gradient[int64_t{token} * n + i] = sum;
  }
}

__device__ inline float Widened(float v) { return v; }
__device__ inline float Widened(uint16_t v) { return FromBF16(v); }

template <class T>
__global__ void __launch_bounds__(kThreads) SumRowsKernel(const T* x, int64_t rows, int n, float* partial) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= n) return;
  const int64_t first = blockIdx.y * kSumRows, end = first + kSumRows < rows ? first + kSumRows : rows;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t r = first; r < end; ++r) sum += Widened(x[r * n + i]);
  partial[blockIdx.y * int64_t{n} + i] = sum;
}

__global__ void __launch_bounds__(kThreads)
    AddPartialSumsKernel(const float* partial, int64_t parts, int n, float* sums) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= n) return;
  float sum = sums[i];
#pragma unroll 8
  for (int64_t p = 0; p < parts; ++p) sum += partial[p * n + i];
  sums[i] = sum;
}

unsigned BlocksFor(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

template <class T>
void SumRows(const T* x, int64_t rows, int n, float* partial, float* sums, Stream stream) {
  if (rows == 0) return;
  const int64_t parts = (rows + kSumRows - 1) / kSumRows;
  gpu::Launch({.blocks = dim3(BlocksFor(n), static_cast<unsigned>(parts)),
               .threads = dim3(kThreads),
               .stream = stream},
              SumRowsKernel<T>, x, rows, n, partial);
  gpu::Launch({.blocks = dim3(BlocksFor(n)), .threads = dim3(kThreads), .stream = stream},
              AddPartialSumsKernel, partial, parts, n, sums);
}

}  // namespace

void RmsNormBackward(const RmsNormBackwardArgs& args, Stream stream) {
  if (args.rows == 0) return;
  const size_t shared = 2 * sizeof(float) * args.n;
  Check(cudaFuncSetAttribute(RmsNormBackwardKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared)),
        "shared memory for a norm's gradient");
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.rows)),
               .threads = dim3(kThreads),
               .shared_bytes = shared,
               .stream = stream},
              RmsNormBackwardKernel, args);
}

void SiluGateBackward(const float* gate_up, const float* d_out, int64_t rows, int n, uint16_t* d_gate_up,
                      Stream stream) {
  if (rows == 0) return;
  gpu::Launch({.blocks = dim3(BlocksFor(n / 4), static_cast<unsigned>(rows)),
               .threads = dim3(kThreads),
               .stream = stream},
              SiluGateBackwardKernel, gate_up, d_out, n, d_gate_up);
}

void AddEmbeddingGradient(const int32_t* tokens, const int32_t* order, const float* d, int64_t rows, int n,
                          float* gradient, Stream stream) {
  if (rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(rows)), .threads = dim3(kThreads), .stream = stream},
              EmbeddingGradientKernel, tokens, order, d, rows, n, gradient);
}

void AddRowSums(const float* x, int64_t rows, int n, float* partial, float* sums, Stream stream) {
  SumRows(x, rows, n, partial, sums, stream);
}
void AddRowSums(const uint16_t* x, int64_t rows, int n, float* partial, float* sums, Stream stream) {
  SumRows(x, rows, n, partial, sums, stream);
}

}  // namespace clamor::kernels::cuda
