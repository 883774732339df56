// Dense products with packed weights: y[r, n] = bias[n] + sum over k of x[r, k] * w[n, k].
//
// Numerics: each output is one fp32 fused multiply-add chain in k order that starts from 0; the bias is added
// last. With int8 and int4 weights x is quantised too, and the chain goes over groups of 32: sum =
// fma(float(dot product of the group, in integers), x scale * weight scale, sum); kernels/quantized.h defines
// the groups, and says why a row of x with an infinity or a NaN becomes NaN. The result of a row therefore
// depends on that row and the weights alone: not on the number of rows, on threads, on the CPU target or on
// how rows are blocked.
//
// Tested by tests/kernels/matmul_test.cc and tests/kernels/quantized_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "kernels/packed_rows.h"
#include "kernels/thread_pool.h"

namespace clamor::kernels {

// Elements of an array in memory or in a file.
enum class DType : uint8_t { kF32, kBF16, kF16 };

inline size_t DTypeSize(DType t) { return t == DType::kF32 ? 4 : 2; }

// How a PackedMatrix holds its weights.
enum class Storage : uint8_t { kF32, kBF16, kF16, kI8, kI4 };

std::string_view StorageName(Storage stored);  // "fp32", "bf16", "fp16", "int8", "int4"

// Weights [n, k] in panels of 16 output columns, k-major inside a panel: fp32 [n/16][k][16], bf16
// [n/16][k/2][16][2], fp16 [n/16][k/2][2][16], int8 and int4 as kernels/quantized.h says. The last panel (and
// an odd last k of 16 bits) is padded with zeros. Immutable once packed; move-only.
class PackedMatrix {
 public:
  PackedMatrix() = default;  // empty: n() == 0
  // Room for n x k weights held as `stored`; contents are zero. REQUIRES: n > 0, k > 0.
  PackedMatrix(int64_t n, int64_t k, Storage stored);
  // What bytes() of such a matrix is.
  static size_t BytesFor(int64_t n, int64_t k, Storage stored);
  PackedMatrix(PackedMatrix&&) noexcept = default;
  PackedMatrix& operator=(PackedMatrix&&) noexcept = default;

  // Writes rows [row, row + rows) from a row-major [rows, k] array of type `type`, converting as needed (to
  // bf16 and fp16: round to nearest even; to int8 and int4: kernels/quantized.h). Rows of several tensors may
  // be packed one below the other: that is how q, k and v become one product. Distinct row ranges may be
  // packed by the pool's threads at once.
  void PackRows(int64_t row, int64_t rows, const void* source, DType type, ThreadPool& pool);

  // The same for columns: row i of a row-major [count, n] array becomes the weights of k = first_k + i. So a
  // matrix [k, n] is packed transposed, as the gradient of a product's input needs it. Not from two threads
  // at once. REQUIRES: stored() is neither kI8 nor kI4, whose groups may not come in pieces.
  void PackTransposed(int64_t first_k, int64_t count, const void* source, DType type, ThreadPool& pool);

  // The panels as bytes, [bytes()], for whoever fills them with what data() of such a matrix was: they are
  // the same on every CPU target. Any bytes are safe to compute with, though the results may mean nothing.
  char* panels() { return static_cast<char*>(data_.get()); }

  // The weight at (row, col) as fp32; slow, for embedding look-up and tests.
  float At(int64_t row, int64_t col) const;
  // Copies row `row` as k fp32 values.
  void UnpackRow(int64_t row, float* out) const;

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  Storage stored() const { return stored_; }
  size_t bytes() const { return bytes_; }
  const void* data() const { return data_.get(); }  // 64-byte aligned

 private:
  struct Free {
    size_t bytes;
    void operator()(void* p) const;
  };
  int64_t n_ = 0, k_ = 0;
  size_t bytes_ = 0;
  Storage stored_ = Storage::kF32;
  std::unique_ptr<void, Free> data_;
};

// x: [rows, k], row stride `x_stride` floats; y: [rows, w.n()], row stride `y_stride` floats, overwritten;
// bias: [n] or null. Any number of rows, 0 included. x and y must not overlap.
void MatMul(const float* x, size_t x_stride, int64_t rows, const PackedMatrix& w, const float* bias, float* y,
            size_t y_stride, ThreadPool& pool);
// The same of rows already packed, as training needs it. REQUIRES: x.k() == w.k(); w is neither kI8 nor kI4.
void MatMul(const PackedRows& x, const PackedMatrix& w, const float* bias, float* y, size_t y_stride,
            ThreadPool& pool);

}  // namespace clamor::kernels
