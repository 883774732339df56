// One block to 64 columns (rows of w) and up to 64 rows (of x); a warp to 16 columns, which are the long side
// of its tensor core's products: few rows then waste little. Weights stream through shared memory kStages
// deep; one group of 32 along k is one product of integers, whose scales are put in by fma.
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/quantized_matmul.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kColumns = 16 * kWarps;
constexpr int kStages = 4;
constexpr int kStageBytes = 128;  // of each column

// Rows are so far apart that the 8 rows of a matrix lie in different banks.
template <int kBits, int kRows>
struct Stage {
  static constexpr int kGroups = kStageBytes / (4 * kBits);
  uint8_t w[kColumns][kStageBytes + 16];
  int8_t x[kRows][kGroups * kGroup + 16];
  uint16_t w_scales[kGroups][kColumns];
  float x_scales[kGroups][kRows];
};

struct Operands {
  QuantizedRows x;
  int64_t rows;
  QuantizedMatrix w;
  float* y;
};

__device__ inline int Clamp(int64_t n, int most) {
  return n <= 0 ? 0 : n >= most ? most : static_cast<int>(n);
}

// Copies 16 bytes of which `bytes` are there; `any` is an address that may be named where none are.
__device__ inline void CopyPart(void* to, const void* from, const void* any, int bytes) {
  gpu::CopyAsync(to, bytes > 0 ? from : any, bytes);
}

// Queues the copies of the groups from `first` on. Columns, rows and groups beyond the ends become zeros.
template <int kBits, int kRows>
__device__ inline void Fetch(const Operands& a, int64_t first, Stage<kBits, kRows>& to) {
  using S = Stage<kBits, kRows>;
  constexpr int kGroupBytes = 4 * kBits;
  const int64_t groups = GroupCount(a.w.k), column0 = int64_t{blockIdx.x} * kColumns,
                row0 = int64_t{blockIdx.y} * kRows, scale_rows = ScaleRows(a.rows);
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = thread; i < kColumns * kStageBytes / 16; i += kThreads) {
    const int column = i / (kStageBytes / 16), at = i % (kStageBytes / 16) * 16;
    const bool there = column0 + column < a.w.n && first + at / kGroupBytes < groups;
    CopyPart(&to.w[column][at], a.w.values + ((column0 + column) * groups + first) * kGroupBytes + at,
             a.w.values, there ? 16 : 0);
  }
  constexpr int kRowChunks = S::kGroups * kGroup / 16;
#pragma unroll
  for (int i = thread; i < kRows * kRowChunks; i += kThreads) {
    const int row = i / kRowChunks, at = i % kRowChunks * 16;
    const bool there = row0 + row < a.rows && first + at / kGroup < groups;
    CopyPart(&to.x[row][at], a.x.q + ((row0 + row) * groups + first) * kGroup + at, a.x.q, there ? 16 : 0);
  }
  for (int i = thread; i < S::kGroups * (kColumns / 8); i += kThreads) {
    const int group = i / (kColumns / 8), column = i % (kColumns / 8) * 8;
    const int there = first + group < groups ? Clamp(a.w.n - column0 - column, 8) : 0;
    CopyPart(&to.w_scales[group][column], a.w.scales + (first + group) * a.w.scale_stride + column0 + column,
             a.w.scales, 2 * there);
  }
  for (int i = thread; i < S::kGroups * (kRows / 4); i += kThreads) {
    const int group = i / (kRows / 4), row = i % (kRows / 4) * 4;
    const int there = first + group < groups ? Clamp(a.rows - row0 - row, 4) : 0;
    CopyPart(&to.x_scales[group][row], a.x.scales + (first + group) * scale_rows + row0 + row, a.x.scales,
             4 * there);
  }
}

// The values that four indices, in the low half of `indices`, name.
__device__ inline uint32_t Int4Bytes(uint32_t indices) {
  const auto word = [](int first) constexpr {
    uint32_t bytes = 0;
    for (int i = 0; i < 4; ++i) bytes |= uint32_t{static_cast<uint8_t>(kInt4Values[first + i])} << 8 * i;
    return bytes;
  };
  constexpr uint32_t kTable[4] = {word(0), word(4), word(8), word(12)};
  const uint32_t lower = __byte_perm(kTable[0], kTable[1], indices & 0x7777),
                 upper = __byte_perm(kTable[2], kTable[3], indices & 0x7777);
  return __byte_perm(lower, upper, 0x3210 | (indices & 0x8888) >> 1);
}

// The warp's 16 columns of groups `group` and the next, as Mma() wants its a.
template <int kBits, int kRows>
__device__ inline void LoadWeights(const Stage<kBits, kRows>& stage, int group, uint32_t (&w)[2][4]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint8_t* const column = stage.w[16 * warp + lane % 16];
  if constexpr (kBits == 8) {
    gpu::LoadMatrices<false>(column + group * 32 + lane / 16 * 16, w[0]);
    gpu::LoadMatrices<false>(column + (group + 1) * 32 + lane / 16 * 16, w[1]);
  } else {
    uint32_t packed[4];  // columns g and g + 8 of the first group, then of the second
    gpu::LoadMatrices<false>(column + (group + lane / 16) * 16, packed);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      w[i][0] = Int4Bytes(packed[2 * i]);
      w[i][1] = Int4Bytes(packed[2 * i + 1]);
      w[i][2] = Int4Bytes(packed[2 * i] >> 16);
      w[i][3] = Int4Bytes(packed[2 * i + 1] >> 16);
    }
  }
}

// sums[j]: of rows 8 j to 8 j + 7, as Mma() has its c.
template <int kBits, int kRows>
__device__ inline void AddGroup(const Stage<kBits, kRows>& stage, int group, const uint32_t (&w)[4],
                                float (&sums)[kRows / 8][4]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint16_t* const scales = &stage.w_scales[group][16 * warp + lane / 4];
  const float w_scales[2] = {FromBF16(scales[0]), FromBF16(scales[8])};
  // As the bits of a float, what an integer adds to the lowest ones adds to its value.
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  constexpr int32_t kStart = 0x4b400000;
#pragma unroll
  for (int j = 0; j < kRows / 8; j += 2) {
    uint32_t x[4];
    gpu::LoadMatrices<false>(&stage.x[8 * j + lane / 16 * 8 + lane % 8][group * 32 + lane / 8 % 2 * 16], x);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int32_t dots[4] = {kStart, kStart, kStart, kStart};
      gpu::Mma(w, {x[2 * i], x[2 * i + 1]}, dots);
      const float2 s = gpu::LoadVector<float2>(&stage.x_scales[group][8 * (j + i) + lane % 4 * 2]);
      const float x_scales[2] = {s.x, s.y};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float dot = __uint_as_float(static_cast<uint32_t>(dots[e])) - kMagic;
        sums[j + i][e] = fmaf(dot, x_scales[e % 2] * w_scales[e / 2], sums[j + i][e]);
      }
    }
  }
}

template <int kBits, int kRows>
__global__ void __launch_bounds__(kThreads, 2) QuantizedMatMulKernel(Operands a) {
  using S = Stage<kBits, kRows>;
  GPU_DYNAMIC_SHARED(S, stages);
  const int64_t groups = GroupCount(a.w.k);
  const int steps = static_cast<int>((groups + S::kGroups - 1) / S::kGroups);
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < steps) Fetch(a, int64_t{i} * S::kGroups, stages[i]);
    gpu::CopyCommit();
  }
  float sums[kRows / 8][4] = {};
  for (int i = 0; i < steps; ++i) {
    gpu::CopyWait<kStages - 2>();
    __syncthreads();  // stage i is there, and nobody uses the one before any more
    const int next = i + kStages - 1;
    if (next < steps) Fetch(a, int64_t{next} * S::kGroups, stages[next % kStages]);
    gpu::CopyCommit();
    const S& stage = stages[i % kStages];
    const int there = Clamp(groups - int64_t{i} * S::kGroups, S::kGroups);
    for (int group = 0; group < there; group += 2) {
      uint32_t w[2][4];
      LoadWeights(stage, group, w);
      AddGroup(stage, group, w[0], sums);
      if (group + 1 < there) AddGroup(stage, group + 1, w[1], sums);
    }
  }
  gpu::CopyWait<0>();

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < kRows / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t row = int64_t{blockIdx.y} * kRows + 8 * j + lane % 4 * 2 + e % 2;
      const int64_t column = int64_t{blockIdx.x} * kColumns + 16 * warp + lane / 4 + e / 2 * 8;
      if (row < a.rows && column < a.w.n) a.y[row * a.w.n + column] = sums[j][e];
    }
  }
}

template <int kBits, int kRows>
void Run(const Operands& a, Stream stream) {
  constexpr size_t kShared = kStages * sizeof(Stage<kBits, kRows>);
  Check(cudaFuncSetAttribute(QuantizedMatMulKernel<kBits, kRows>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kShared),
        "shared memory for products");
  gpu::Launch({.blocks = dim3(static_cast<unsigned>((a.w.n + kColumns - 1) / kColumns),
                              static_cast<unsigned>((a.rows + kRows - 1) / kRows)),
               .threads = dim3(kThreads),
               .shared_bytes = kShared,
               .stream = stream},
              QuantizedMatMulKernel<kBits, kRows>, a);
}

template <int kBits>
void RunFor(const Operands& a, Stream stream) {
  if (a.rows <= 16) return Run<kBits, 16>(a, stream);
  if (a.rows <= 32) return Run<kBits, 32>(a, stream);
  Run<kBits, 64>(a, stream);
}

}  // namespace

void QuantizedMatMul(const QuantizedRows& x, int64_t rows, const QuantizedMatrix& w, float* y,
                     Stream stream) {
  if (rows == 0) return;
  const Operands operands = {x, rows, w, y};
  if (w.bits == 8) return RunFor<8>(operands, stream);
  RunFor<4>(operands, stream);
}

}  // namespace clamor::kernels::cuda
