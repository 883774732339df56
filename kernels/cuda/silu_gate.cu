#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/silu_gate.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline float Gated(float gate, float up) { return Silu(gate) * up; }

__global__ void __launch_bounds__(kThreads) SiluGateKernel(const float* gate_up, int n, uint16_t* out) {
  const int64_t r = blockIdx.y;
  const int i = 4 * static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= n) return;
  const float* const row = gate_up + r * 2 * n;
  const float4 gate = gpu::LoadVector<float4>(row + i), up = gpu::LoadVector<float4>(row + n + i);
  const uint2 y = {ToBF16Pair(Gated(gate.x, up.x), Gated(gate.y, up.y)),
                   ToBF16Pair(Gated(gate.z, up.z), Gated(gate.w, up.w))};
  gpu::StoreVector(out + r * n + i, y);
}

}  // namespace

void SiluGate(const float* gate_up, int64_t rows, int n, uint16_t* out, Stream stream) {
  if (rows == 0) return;
  const unsigned across = static_cast<unsigned>((n + 4 * kThreads - 1) / (4 * kThreads));
  gpu::Launch(
      {.blocks = dim3(across, static_cast<unsigned>(rows)), .threads = dim3(kThreads), .stream = stream},
      SiluGateKernel, gate_up, n, out);
}

}  // namespace clamor::kernels::cuda
