// What each warp operation computes, once its lanes have met. The layouts of fragments are those of the PTX
// ISA manual, sections on ldmatrix, mma.m16n8k16 (.bf16) and mma.m16n8k32 (.s8).

#include <bit>
#include <cstring>
#include <string>

#include "tests/simt/block.h"
#include "tests/simt/warp.h"

namespace clamor::simt {
namespace {

using ::simt::LoadMatrixLane;
using ::simt::MmaLane;
using ::simt::ShuffleLane;

void DoShuffle(unsigned mask, void* const* payloads) {
  uint64_t values[32] = {};
  for (int l = 0; l < 32; ++l) {
    if (mask >> l & 1) values[l] = static_cast<ShuffleLane*>(payloads[l])->value;
  }
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    ShuffleLane& lane = *static_cast<ShuffleLane*>(payloads[l]);
    if (!(mask >> lane.source & 1)) {
      FailInKernel("shuffles with lane " + std::to_string(l) + ", which reads lane " +
                   std::to_string(lane.source) + ", outside the mask");
    }
    lane.value = values[lane.source];
  }
}

void DoBallot(unsigned mask, void* const* payloads) {
  uint64_t votes = 0;
  for (int l = 0; l < 32; ++l) {
    if (mask >> l & 1) votes |= static_cast<ShuffleLane*>(payloads[l])->value << l;
  }
  for (int l = 0; l < 32; ++l) {
    if (mask >> l & 1) static_cast<ShuffleLane*>(payloads[l])->value = votes;
  }
}

// Lane 8 i + r gave row r of matrix i, 8 elements of 16 bits. Lane l gets of each matrix elements 2 (l % 4)
// and the next of row l / 4; transposed, of column l / 4.
void DoLoadMatrix(bool transposed, void* const* payloads) {
  uint16_t matrices[4][8][8];
  for (int l = 0; l < 32; ++l) {
    std::memcpy(matrices[l / 8][l % 8], static_cast<LoadMatrixLane*>(payloads[l])->row, 16);
  }
  for (int l = 0; l < 32; ++l) {
    LoadMatrixLane& lane = *static_cast<LoadMatrixLane*>(payloads[l]);
    const int row = l / 4, column = l % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const auto& m = matrices[i];
      const uint32_t low = transposed ? m[column][row] : m[row][column];
      const uint32_t high = transposed ? m[column + 1][row] : m[row][column + 1];
      lane.out[i] = low | high << 16;
    }
  }
}

float BF16(uint32_t pair, int half) { return std::bit_cast<float>((half ? pair : pair << 16) & 0xffff0000u); }
int S8(uint32_t four, int i) { return static_cast<int8_t>(four >> (8 * i)); }

// Per lane (g = l / 4, t = l % 4) register i of a holds row g + 8 (i % 2), columns from t * W + 4 W (i / 2)
// on, W elements of 32 / W bits; register i of b holds rows from t * W + 4 W i on of column g.
template <int W, class T, class Element>
void Gather(void* const* payloads, T (&a)[16][8 * W], T (&b)[8 * W][8], Element element) {
  for (int l = 0; l < 32; ++l) {
    const MmaLane& lane = *static_cast<MmaLane*>(payloads[l]);
    const int g = l / 4, t = l % 4;
    for (int j = 0; j < W; ++j) {
      for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t * W + 4 * W * (i / 2) + j] = element(lane.a[i], j);
      for (int i = 0; i < 2; ++i) b[t * W + 4 * W * i + j][g] = element(lane.b[i], j);
    }
  }
}

// Element i of a lane's accumulators: row g + 8 (i / 2), column 2 t + i % 2.
// Real tensor cores add in an order that is not documented; nothing may depend on this one.
void DoMmaBF16(void* const* payloads) {
  float a[16][16], b[16][8];
  Gather<2>(payloads, a, b, BF16);
  for (int l = 0; l < 32; ++l) {
    MmaLane& lane = *static_cast<MmaLane*>(payloads[l]);
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + 8 * (i / 2), column = l % 4 * 2 + i % 2;
      float sum = lane.c[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      lane.c[i] = sum;
    }
  }
}

void DoMmaS8(void* const* payloads) {
  int a[16][32], b[32][8];
  Gather<4>(payloads, a, b, S8);
  for (int l = 0; l < 32; ++l) {
    MmaLane& lane = *static_cast<MmaLane*>(payloads[l]);
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + 8 * (i / 2), column = l % 4 * 2 + i % 2;
      for (int k = 0; k < 32; ++k) lane.sums[i] += a[row][k] * b[k][column];
    }
  }
}

}  // namespace

void DoWarpOp(::simt::WarpOp op, unsigned mask, void* const* payloads) {
  using enum ::simt::WarpOp;
  switch (op) {
    case kShuffle:
      return DoShuffle(mask, payloads);
    case kBallot:
      return DoBallot(mask, payloads);
    case kSync:
      return;
    case kLoadMatrix:
      return DoLoadMatrix(false, payloads);
    case kLoadMatrixTransposed:
      return DoLoadMatrix(true, payloads);
    case kMmaBF16:
      return DoMmaBF16(payloads);
    case kMmaS8:
      return DoMmaS8(payloads);
  }
}

}  // namespace clamor::simt
