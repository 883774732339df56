// What the Highway files offer to the operators: each function once per CPU target, all with the same bits.
// They check nothing and know no threads; the operators one folder up split the work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/adamw.h"
#include "kernels/causal_attention.h"
#include "kernels/cpu_target.h"
#include "kernels/matmul.h"
#include "kernels/quantized.h"
#include "kernels/tree_attention.h"

namespace clamor::kernels {

template <typename T>
struct PerTarget {
  T by_target[3];  // scalar, AVX2, AVX-512: the order of CpuTarget
  T Active() const { return by_target[static_cast<int>(ActiveCpuTarget())]; }
};

// The most rows of x that the product's inner loop keeps in registers: against one panel of weights, and
// against several.
extern const PerTarget<int> kMaxTileRows, kWideTileRows;

// `rows` rows split into the fewest near-equal blocks of at most `limit`.
struct RowBlocks {
  RowBlocks(int64_t rows, int64_t limit) : rows(rows), count((rows + limit - 1) / limit) {}
  int64_t begin(int64_t block) const { return rows * block / count; }
  int64_t size(int64_t block) const { return begin(block + 1) - begin(block); }

  int64_t rows;
  int64_t count;
};

// Sixteen columns each, as PackedMatrix lays them out.
struct Panels {
  const void* data;
  int64_t n;  // columns
  int64_t k;
  Storage stored;
};

struct MatMulJob {
  const float* x;    // as PackedRows has it, from the first row on
  int64_t x_rows;    // of all of x
  RowBlocks blocks;  // of at most kMaxTileRows, or if wide, kWideTileRows
  Panels w;
  const float* bias;  // [n] or null
  float* y;           // [rows, n]
  size_t y_stride;
  bool wide;  // several panels at a time, 16-bit ones widened once for all row blocks
};
// Computes the output columns of panels [begin, end).
extern const PerTarget<void (*)(const MatMulJob& job, int64_t begin, int64_t end)> kMatMulPanels;

// Quantises a group of sixteen columns, values[k * 16 + column], as int8 or int4.
extern const PerTarget<void (*)(const float* values, Storage stored, ColumnGroup& out)> kQuantizeWeights;

struct QuantizeJob {
  const float* x;  // [rows, k]
  size_t x_stride;
  int64_t rows, k;
  int zero_point;  // of the weights to come
  RowGroup* out;   // [GroupsFor(k)][rows]
};
// Quantises groups [begin, end) of all rows.
extern const PerTarget<void (*)(const QuantizeJob& job, int64_t begin, int64_t end)> kQuantizeRows;

struct QuantizedJob {
  const RowGroup* x;  // [GroupsFor(w.k)][rows]
  int64_t rows;
  Panels w;           // int8 or int4
  const float* bias;  // [n] or null
  float* y;           // [rows, n]
  size_t y_stride;
};
// Computes the output columns of panels [begin, end).
void MultiplyQuantizedPanels(const QuantizedJob& job, int64_t begin, int64_t end);

struct WeightGradientJob {
  const float *dy, *x;  // as PackedRows has them: n and k columns
  int64_t rows, n, k;
  float* dw;  // [n, k]
};
// Adds to the columns of chunks [begin, end) of x.
extern const PerTarget<void (*)(const WeightGradientJob& job, int64_t begin, int64_t end)>
    kWeightGradientPanels;

// Some rows with equal `pages`, and one key head with all query heads that read it.
struct AttentionTask {
  int row, row_count;
  int kv_head;
};
struct AttentionJob {
  const float* q;
  size_t q_stride;
  std::span<const AttentionRow> rows;
  int heads_per_key;  // query heads that read one key head
  float scale;
  int32_t window;
  const KvLayer& layer;
  float* out;
  size_t out_stride;

  // The logical positions that a row sees: [begin, end).
  struct Positions {
    int begin, end;
  };
  Positions Sees(int row) const {
    const int end = rows[row].prefix + rows[row].extra_count;
    return {.begin = window > 0 && end > window ? end - window : 0, .end = end};
  }
};

// What a chunk of keys leaves of one query: [head_dim, padded to sixteens] sums of weight * value, [16] sums
// of weights, [16] times the maximum.
inline size_t AttentionPartSize(int head_dim) { return (head_dim + 15) / 16 * 16 + 32; }

// Computes the parts of all queries of the task, row by row, from the positions of one chunk.
extern const PerTarget<void (*)(const AttentionJob& job, const AttentionTask& task, int chunk, float* parts)>
    kAttendChunk;
// Folds those parts into `folded`, likewise. To be called for each chunk in order; a row's last one writes
// its output.
extern const PerTarget<void (*)(const AttentionJob& job, const AttentionTask& task, int chunk,
                                const float* parts, float* folded)>
    kFoldChunk;

// A text and one of its key heads.
struct CausalTask {
  int64_t first_row;
  int length;
  int kv_head;
};
struct CausalJob {
  const float* qkv;
  const CausalShape& shape;
  float* out = nullptr;          // forward
  const float* d_out = nullptr;  // backward
  float* d_qkv = nullptr;
};
extern const PerTarget<void (*)(const CausalJob&job, const CausalTask&task)> kAttendText, kAttendTextBackward;

// Elementwise, for one row or range; the public headers say what they compute.
extern const PerTarget<void (*)(const float* x, int64_t n, const float* weight, float eps, float* y)>
    kRmsNorm;
extern const PerTarget<void (*)(const float* x, const float* y, int64_t n, float* out)> kAdd;
extern const PerTarget<void (*)(const float* gate, const float* up, int64_t n, float* out)> kSiluGate;
extern const PerTarget<float (*)(float x)> kExp;

// cos and sin of position * frequencies[0..half).
extern const PerTarget<void (*)(double position, const double* frequencies, int half, float* cos, float* sin)>
    kCosSin;
// Rotates one head by `direction` times the angle, 1 or -1.
extern const PerTarget<void (*)(float* x, const float* cos, const float* sin, float direction, int half)>
    kRotate;

// One row; log_sum_exp may be null.
extern const PerTarget<void (*)(const float* logits, int64_t n, int k, int32_t* ids, float* values,
                                float* log_sum_exp)>
    kTopK;

// Of training. kSoftmax: x = scale * softmax(x) in place; returns the log of the sum of exponentials.
extern const PerTarget<float (*)(const float* x, int64_t n, float eps)> kNormScale;
extern const PerTarget<void (*)(const float* x, float scale, const float* dy, int64_t n, float* dweight)>
    kAddNormWeightGradient;
extern const PerTarget<void (*)(const float* x, float scale, int64_t n, const float* weight, float* dy)>
    kRmsNormBackward;
extern const PerTarget<void (*)(float* gate, float* up, const float* d_out, int64_t n)> kSiluGateBackward;
extern const PerTarget<float (*)(float* x, int64_t n, float scale)> kSoftmax;
extern const PerTarget<void (*)(const AdamWStep& step, const float* gradients, float* parameters,
                                float* first, float* second, int64_t n)>
    kAdamW;
extern const PerTarget<float (*)(const float* x, int64_t n)> kSumOfSquares;

}  // namespace clamor::kernels
