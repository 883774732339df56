// Gradients of the products of matmul.h, by its rule: each call for one shape of weights is the same call.
// That of the input is such a product itself. That of the weights is one sum over all rows: its bits are a
// function of the padded number of rows too.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// Of weights [n, k] in bf16, both multiples of 8; dy: [PaddedRows(rows), n] bf16. All arrays begin at
// multiples of 256 bytes. Algorithms are chosen when they are needed first: not while a graph is captured.
// One thread at a time.
class GradientPlans {
 public:
  GradientPlans();
  ~GradientPlans();
  GradientPlans(const GradientPlans&) = delete;

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

  std::unique_ptr<Library> library_;
  // By n, k, and the rows of a weight gradient; 0: that of the input.
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::unique_ptr<Plan>> plans_;
};

}  // namespace clamor::kernels::cuda
