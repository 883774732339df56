// Products of rows with weights in bf16, by cuBLASLt, such that a row's result does not depend on the other
// rows.
//
// cuBLASLt promises the same bits only for the same call. So every call is the same: rows go in blocks of
// kRowBlock, as a batch of equal products, by one algorithm for each shape of weights that is chosen once,
// does not split k and uses no workspace. That costs next to nothing: what a product of few rows takes is the
// reading of its weights.
//
// Gradients follow the same rule, but that of weights is one sum over all rows: its bits are a function of
// the padded number of rows too.
//
// Tested by tests/kernels/cuda/step_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

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

  // The gradients of that product. Not while a graph is captured: algorithms are chosen when they are needed
  // first. dy: [PaddedRows(rows), n] bf16.
  // dx = dy w. dx: [PaddedRows(rows), k] fp32; dy holds something finite in the surplus rows.
  void InputGradient(const uint16_t* dy, int64_t rows, const uint16_t* w, int64_t n, int64_t k, float* dx,
                     Stream stream);
  // dw += dy^T x. x: [PaddedRows(rows), k] bf16; dw: [n, k] fp32; dy holds zeros in the surplus rows, x
  // something finite.
  void AddWeightGradient(const uint16_t* dy, const uint16_t* x, int64_t rows, int64_t n, int64_t k, float* dw,
                         Stream stream);

 private:
  struct Library;
  struct Plan;
  enum class Product : uint8_t { kForward, kInputGradient, kWeightGradient };

  // rows: of x and y in one call.
  Plan& PlanFor(Product product, int64_t n, int64_t k, int64_t rows);

  std::unique_ptr<Library> library_;
  std::map<std::tuple<Product, int64_t, int64_t, int64_t>, std::unique_ptr<Plan>> plans_;
};

}  // namespace clamor::kernels::cuda
