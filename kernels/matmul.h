// Dense products with packed weights: y[r, n] = bias[n] + sum over k of x[r, k] * w[n, k].
//
// Numerics: each output is one fp32 fused multiply-add chain in k order that starts from 0; the bias is added
// last. The result of a row therefore depends on that row and the weights alone: not on the number of rows,
// on threads, on the CPU target or on how rows are blocked.
//
// Tested by tests/kernels/matmul_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/packed_rows.h"
#include "kernels/thread_pool.h"

namespace clamor::kernels {

enum class DType : uint8_t { kF32, kBF16, kF16 };

inline size_t DTypeSize(DType t) { return t == DType::kF32 ? 4 : 2; }

// Weights [n, k] in panels of 16 output columns, k-major inside a panel: fp32 [n/16][k][16], bf16
// [n/16][k/2][16][2]. The last panel (and an odd last k of bf16) is padded with zeros. Immutable once packed;
// move-only.
class PackedMatrix {
 public:
  PackedMatrix() = default;  // empty: n() == 0
  // Room for n x k weights held as `stored`, kF32 or kBF16; contents are zero. REQUIRES: n > 0, k > 0.
  PackedMatrix(int64_t n, int64_t k, DType stored);
  PackedMatrix(PackedMatrix&&) noexcept = default;
  PackedMatrix& operator=(PackedMatrix&&) noexcept = default;

  // Writes rows [row, row + rows) from a row-major [rows, k] array of type `type`, converting as needed (to
  // bf16: round to nearest even). Rows of several tensors may be packed one below the other: that is how q, k
  // and v become one product. Distinct row ranges may be packed by the pool's threads at once.
  void PackRows(int64_t row, int64_t rows, const void* source, DType type, ThreadPool& pool);

  // The same for columns: row i of a row-major [count, n] array becomes the weights of k = first_k + i. So a
  // matrix [k, n] is packed transposed, as the gradient of a product's input needs it. Not from two threads
  // at once.
  void PackTransposed(int64_t first_k, int64_t count, const void* source, DType type, ThreadPool& pool);

  // The weight at (row, col) as fp32; slow, for embedding look-up and tests.
  float At(int64_t row, int64_t col) const;
  // Copies row `row` as k fp32 values.
  void UnpackRow(int64_t row, float* out) const;

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  DType stored() const { return stored_; }
  size_t bytes() const { return bytes_; }
  const void* data() const { return data_.get(); }  // 64-byte aligned

 private:
  struct Free {
    size_t bytes;
    void operator()(void* p) const;
  };
  int64_t n_ = 0, k_ = 0;
  size_t bytes_ = 0;
  DType stored_ = DType::kF32;
  std::unique_ptr<void, Free> data_;
};

// x: [rows, k], row stride `x_stride` floats; y: [rows, w.n()], row stride `y_stride` floats, overwritten;
// bias: [n] or null. Any number of rows, 0 included. x and y must not overlap.
void MatMul(const float* x, size_t x_stride, int64_t rows, const PackedMatrix& w, const float* bias, float* y,
            size_t y_stride, ThreadPool& pool);
// The same of rows already packed: x.k() == w.k().
void MatMul(const PackedRows& x, const PackedMatrix& w, const float* bias, float* y, size_t y_stride,
            ThreadPool& pool);

}  // namespace clamor::kernels
