// Products of rows with weights in bf16, by cuBLASLt, such that a row's result does not depend on the other
// rows.
//
// cuBLASLt promises the same bits only for the same call. So every call is the same: rows go in blocks of
// kRowBlock, as a batch of equal products, by one algorithm for each shape of weights that is chosen once,
// does not split k and uses no workspace. That costs next to nothing: what a product of few rows takes is the
// reading of its weights.
//
// Tested by tests/kernels/cuda/step_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

inline constexpr int64_t kRowBlock = 64;

constexpr int64_t PaddedRows(int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock * kRowBlock; }

// One thread at a time.
class MatMulPlans {
 public:
  MatMulPlans();
  ~MatMulPlans();

  // Chooses the algorithm for weights of [n, k], both multiples of 8. To be called before a graph is
  // captured.
  void Prepare(int64_t n, int64_t k);

  // y = x w^T. x: [PaddedRows(rows), k] bf16, with something finite in the surplus rows; w: [n, k] bf16; y:
  // [PaddedRows(rows), n] fp32. All of them begin at multiples of 256 bytes. REQUIRES: Prepare(n, k).
  void MatMul(const uint16_t* x, int64_t rows, const uint16_t* w, int64_t n, int64_t k, float* y,
              Stream stream);

 private:
  struct Library;
  struct Plan;

  std::unique_ptr<Library> library_;
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<Plan>> plans_;  // by n, k
};

}  // namespace clamor::kernels::cuda
