// One product of the forward pass, y = x * w^T + bias, with what training needs of it: gradients, and
// low-rank adapters.
//
// Tested by tests/model/train/training_pass_test.cc.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/thread_pool.h"

namespace clamor {

// A parameter and where its gradient is added up. Borrowed.
struct Trained {
  const float* value = nullptr;  // null: the model has none
  float* gradient = nullptr;     // null: frozen
};

// Adds scale * x * a^T * b^T to a product (LoRA, arXiv 2106.09685). a: [rank, k], b: [n, rank].
struct LowRank {
  int64_t rank = 0;
  float scale = 1;
  Trained a, b;
};

class Linear {
 public:
  Linear() = default;
  // The weights themselves are trained. weight: [n, k] row-major; bias: [n] or absent. Call Pack before use
  // and whenever the weights have changed.
  Linear(int64_t n, int64_t k, Trained weight, Trained bias);
  // The weights are frozen and only `adapter` is trained. `weights` (and `bias`, [n] or null) must outlive
  // this.
  Linear(const kernels::PackedMatrix* weights, const float* bias, LowRank adapter, kernels::ThreadPool& pool);

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  // Bytes held besides the arrays that are borrowed.
  static int64_t PackedBytes(int64_t n, int64_t k, kernels::DType stored, int64_t rank);

  void Pack(kernels::ThreadPool& pool);

  // x: [rows, k], y: [rows, n], overwritten.
  void Forward(const kernels::PackedRows& x, float* y, kernels::ThreadPool& pool);
  // x: that of Forward; dy: [rows, n]. Adds to the gradients of what is trained. dx: [rows, k], overwritten,
  // or null.
  void Backward(const kernels::PackedRows& x, const kernels::PackedRows& dy, float* dx,
                kernels::ThreadPool& pool);

 private:
  const kernels::PackedMatrix& forward() const { return frozen_ != nullptr ? *frozen_ : packed_; }
  // scale * x * w^T, [rows, rank], until the next call.
  const kernels::PackedRows& Inner(const kernels::PackedRows& x, const kernels::PackedMatrix& w,
                                   kernels::ThreadPool& pool);

  int64_t n_ = 0, k_ = 0;
  Trained weight_, bias_;
  const float* frozen_bias_ = nullptr;
  const kernels::PackedMatrix* frozen_ = nullptr;
  kernels::PackedMatrix packed_;      // [n, k], unless frozen
  kernels::PackedMatrix transposed_;  // [k, n]
  LowRank adapter_;
  kernels::PackedMatrix a_, a_transposed_, b_, b_transposed_;
  std::vector<float> inner_;  // [rows, rank]
  kernels::PackedRows packed_inner_;
};

}  // namespace clamor
