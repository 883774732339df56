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
using kernels::PackedRows;
using kernels::Storage;

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
      packed_(n, k, Storage::kF32),
      transposed_(k, n, Storage::kF32) {}

Linear::Linear(const PackedMatrix* weights, const float* bias, LowRank adapter, kernels::ThreadPool& pool)
    : n_(weights->n()),
      k_(weights->k()),
      frozen_bias_(bias),
      frozen_(weights),
      transposed_(Transposed(*weights, pool)),
      adapter_(adapter) {
  if (adapter_.rank == 0) return;
  a_ = PackedMatrix(adapter_.rank, k_, Storage::kF32);
  a_transposed_ = PackedMatrix(k_, adapter_.rank, Storage::kF32);
  b_ = PackedMatrix(n_, adapter_.rank, Storage::kF32);
  b_transposed_ = PackedMatrix(adapter_.rank, n_, Storage::kF32);
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

void Linear::Forward(const PackedRows& x, float* y, kernels::ThreadPool& pool) {
  kernels::MatMul(x, forward(), frozen_ != nullptr ? frozen_bias_ : bias_.value, y, n_, pool);
  if (adapter_.rank == 0) return;
  const auto added = std::make_unique_for_overwrite<float[]>(x.rows() * n_);
  kernels::MatMul(Inner(x, a_, pool), b_, nullptr, added.get(), n_, pool);
  kernels::Add(y, added.get(), x.rows() * n_, y, pool);
}

void Linear::Backward(const PackedRows& x, const PackedRows& dy, float* dx, kernels::ThreadPool& pool) {
  if (dx != nullptr) kernels::MatMul(dy, transposed_, nullptr, dx, k_, pool);
  if (weight_.gradient != nullptr) kernels::AddWeightGradient(dy, x, weight_.gradient, pool);
  if (bias_.gradient != nullptr) kernels::AddBiasGradient(dy, bias_.gradient, pool);
  if (adapter_.rank == 0) return;
  kernels::AddWeightGradient(dy, Inner(x, a_, pool), adapter_.b.gradient, pool);
  const PackedRows& d_inner = Inner(dy, b_transposed_, pool);
  kernels::AddWeightGradient(d_inner, x, adapter_.a.gradient, pool);
  if (dx == nullptr) return;
  const auto added = std::make_unique_for_overwrite<float[]>(x.rows() * k_);
  kernels::MatMul(d_inner, a_transposed_, nullptr, added.get(), k_, pool);
  kernels::Add(dx, added.get(), x.rows() * k_, dx, pool);
}

const PackedRows& Linear::Inner(const PackedRows& x, const PackedMatrix& w, kernels::ThreadPool& pool) {
  const int64_t rank = adapter_.rank;
  float* inner = Room(inner_, x.rows() * rank);
  kernels::MatMul(x, w, nullptr, inner, rank, pool);
  kernels::Scale(inner, adapter_.scale, x.rows() * rank, pool);
  packed_inner_.Pack(inner, rank, x.rows(), rank, pool);
  return packed_inner_;
}

}  // namespace clamor
