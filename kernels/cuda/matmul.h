// Products of rows with weights in bf16, by cuBLASLt, such that a row's result does not depend on the other
// rows.
//
// cuBLASLt promises the same bits only for the same call. So every call is the same: rows go in blocks of
// kRowBlock, as a batch of equal products, by one algorithm for each shape of weights that is chosen once,
// does not split k and uses no workspace. That costs next to nothing: what a product of few rows takes is the
// reading of its weights. That is kExact. kFast promises nothing: rows as they come, the algorithm that
// cuBLASLt likes best for so many, k split if it will.
//
// Tested by tests/kernels/cuda/step_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

inline constexpr int64_t kRowBlock = 64;

constexpr int64_t PaddedRows(int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock * kRowBlock; }

enum class Numerics : uint8_t { kExact, kFast };

// One thread at a time, on the device that was current when it was made.
class MatMulPlans {
 public:
  explicit MatMulPlans(Numerics numerics = Numerics::kExact);
  ~MatMulPlans();
  MatMulPlans(const MatMulPlans&) = delete;

  // Chooses the algorithm for weights of [n, k], both multiples of 8. To be called before a graph is
  // captured; kFast chooses when it first sees so many rows.
  void Prepare(int64_t n, int64_t k);

  // y = x w^T. x: [PaddedRows(rows), k] bf16, with something finite in the surplus rows; w: [n, k] bf16; y:
  // [PaddedRows(rows), n] fp32. All of them begin at multiples of 256 bytes. REQUIRES: Prepare(n, k).
  void MatMul(const uint16_t* x, int64_t rows, const uint16_t* w, int64_t n, int64_t k, float* y,
              Stream stream);

 private:
  struct Library;
  struct Plan;

  std::unique_ptr<Plan> Make(int64_t n, int64_t k, int64_t rows) const;

  const Numerics numerics_;
  std::unique_ptr<Library> library_;
  void* workspace_ = nullptr;  // kFast only; may stay null
  size_t workspace_bytes_ = 0;
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::unique_ptr<Plan>> plans_;  // by n, k, rows of a block
};

}  // namespace clamor::kernels::cuda
