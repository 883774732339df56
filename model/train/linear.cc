#include "model/train/linear.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/matmul_backward.h"
#include "model/activations.h"

namespace clamor {
namespace {

using kernels::DType;
using kernels::PackedMatrix;

void PackBoth(const float* weight, PackedMatrix& packed, PackedMatrix& transposed,
              kernels::ThreadPool& pool) {
  packed.PackRows(0, packed.n(), weight, DType::kF32, pool);
  transposed.PackTransposed(0, transposed.k(), weight, DType::kF32, pool);
}

// [k, n], held as `packed` is.
PackedMatrix Transposed(const PackedMatrix& packed, kernels::ThreadPool& pool) {
  constexpr int64_t kRows = 64;
  PackedMatrix transposed(packed.k(), packed.n(), packed.stored());
  std::vector<float> rows(kRows * packed.k());
  for (int64_t first = 0; first < packed.n(); first += kRows) {
    const int64_t count = std::min(kRows, packed.n() - first);
    pool.ParallelFor(count, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) packed.UnpackRow(first + i, rows.data() + i * packed.k());
    });
    transposed.PackTransposed(first, count, rows.data(), DType::kF32, pool);
  }
  return transposed;
}

}  // namespace

Linear::Linear(int64_t n, int64_t k, Trained weight, Trained bias)
    : n_(n),
      k_(k),
      weight_(weight),
      bias_(bias),
      packed_(n, k, DType::kF32),
      transposed_(k, n, DType::kF32) {}

Linear::Linear(const PackedMatrix* weights, const float* bias, LowRank adapter, kernels::ThreadPool& pool)
    : n_(weights->n()),
      k_(weights->k()),
      frozen_bias_(bias),
      frozen_(weights),
      transposed_(Transposed(*weights, pool)),
      adapter_(adapter) {
  if (adapter_.rank == 0) return;
  a_ = PackedMatrix(adapter_.rank, k_, DType::kF32);
  a_transposed_ = PackedMatrix(k_, adapter_.rank, DType::kF32);
  b_ = PackedMatrix(n_, adapter_.rank, DType::kF32);
  b_transposed_ = PackedMatrix(adapter_.rank, n_, DType::kF32);
}

int64_t Linear::PackedBytes(int64_t n, int64_t k, DType stored, int64_t rank) {
  const int64_t matrix = n * k * static_cast<int64_t>(kernels::DTypeSize(stored));
  return 2 * matrix + 2 * rank * (n + k) * static_cast<int64_t>(sizeof(float));
}

void Linear::Pack(kernels::ThreadPool& pool) {
  if (frozen_ == nullptr) {
    PackBoth(weight_.value, packed_, transposed_, pool);
  } else if (adapter_.rank > 0) {
    PackBoth(adapter_.a.value, a_, a_transposed_, pool);
    PackBoth(adapter_.b.value, b_, b_transposed_, pool);
  }
}

void Linear::Forward(const float* x, int64_t rows, float* y, kernels::ThreadPool& pool) {
  kernels::MatMul(x, k_, rows, forward(), frozen_ != nullptr ? frozen_bias_ : bias_.value, y, n_, pool);
  if (adapter_.rank == 0) return;
  float* inner = Room(inner_, rows * adapter_.rank);
  const auto added = std::make_unique_for_overwrite<float[]>(rows * n_);
  kernels::MatMul(x, k_, rows, a_, nullptr, inner, adapter_.rank, pool);
  kernels::Scale(inner, adapter_.scale, rows * adapter_.rank, pool);
  kernels::MatMul(inner, adapter_.rank, rows, b_, nullptr, added.get(), n_, pool);
  kernels::Add(y, added.get(), rows * n_, y, pool);
}

void Linear::Backward(const float* x, const float* dy, int64_t rows, float* dx, kernels::ThreadPool& pool) {
  if (dx != nullptr) kernels::MatMul(dy, n_, rows, transposed_, nullptr, dx, k_, pool);
  if (weight_.gradient != nullptr) {
    kernels::AddWeightGradient(dy, n_, x, k_, rows, n_, k_, weight_.gradient, pool);
  }
  if (bias_.gradient != nullptr) kernels::AddBiasGradient(dy, n_, rows, n_, bias_.gradient, pool);
  if (adapter_.rank == 0) return;
  const int64_t rank = adapter_.rank;
  float* inner = Room(inner_, rows * rank);
  float* d_inner = Room(d_inner_, rows * rank);
  kernels::MatMul(x, k_, rows, a_, nullptr, inner, rank, pool);
  kernels::Scale(inner, adapter_.scale, rows * rank, pool);
  kernels::AddWeightGradient(dy, n_, inner, rank, rows, n_, rank, adapter_.b.gradient, pool);
  kernels::MatMul(dy, n_, rows, b_transposed_, nullptr, d_inner, rank, pool);
  kernels::Scale(d_inner, adapter_.scale, rows * rank, pool);
  kernels::AddWeightGradient(d_inner, rank, x, k_, rows, rank, k_, adapter_.a.gradient, pool);
  if (dx == nullptr) return;
  const auto added = std::make_unique_for_overwrite<float[]>(rows * k_);
  kernels::MatMul(d_inner, rank, rows, a_transposed_, nullptr, added.get(), k_, pool);
  kernels::Add(dx, added.get(), rows * k_, dx, pool);
}

}  // namespace clamor
