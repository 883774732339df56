// Rows of activations in the layout in which products read them: sixteen elements of each row together. The
// gradient of a product's weights reads the same copy of its input as the product itself did.
//
// Threads: one writer, or many readers. Tested by tests/kernels/matmul_test.cc and matmul_backward_test.cc,
// through the products.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/scratch.h"
#include "kernels/thread_pool.h"

namespace clamor::kernels {

// Chunks of sixteen that `count` elements need.
inline int64_t SixteensFor(int64_t count) { return (count + 15) / 16; }

class PackedRows {
 public:
  // Replaces the contents by x: [rows, k], rows x_stride floats apart. Allocates only when larger than ever
  // before.
  void Pack(const float* x, size_t x_stride, int64_t rows, int64_t k, ThreadPool& pool);

  int64_t rows() const { return rows_; }
  int64_t k() const { return k_; }
  // [SixteensFor(k)][rows][16]: element i of row r is data()[(i / 16 * rows + r) * 16 + i % 16]; zeros beyond
  // the end of a row. 64-byte aligned.
  const float* data() const { return data_; }

 private:
  int64_t rows_ = 0, k_ = 0;
  float* data_ = nullptr;
  Scratch memory_;
};

}  // namespace clamor::kernels
