#include <cublasLt.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_backward.h"

namespace clamor::kernels::cuda {
namespace {

void CheckLt(cublasStatus_t status, const char* what, int64_t n, int64_t k) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "cuda: %s for the gradients of [%lld, %lld]: cuBLASLt status %d\n", what,
               static_cast<long long>(n), static_cast<long long>(k), static_cast<int>(status));
  std::abort();
}

void SetBatches(cublasLtMatrixLayout_t layout, int64_t batches, int64_t offset) {
  const int32_t count = static_cast<int32_t>(batches);
  cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count));
  cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset,
                                   sizeof(offset));
}

// The first that neither splits k nor needs a workspace.
cublasLtMatmulAlgo_t ChooseAlgorithm(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                     cublasLtMatrixLayout_t left, cublasLtMatrixLayout_t right,
                                     cublasLtMatrixLayout_t result, int64_t n, int64_t k) {
  cublasLtMatmulPreference_t preference;
  CheckLt(cublasLtMatmulPreferenceCreate(&preference), "a preference", n, k);
  const uint32_t whole = CUBLASLT_REDUCTION_SCHEME_NONE;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole,
                                       sizeof(whole));
  const uint64_t workspace = 0;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                       sizeof(workspace));
  cublasLtMatmulHeuristicResult_t candidates[8];
  int found = 0;
  CheckLt(cublasLtMatmulAlgoGetHeuristic(handle, product, left, right, result, result, preference, 8,
                                         candidates, &found),
          "the choice of an algorithm", n, k);
  cublasLtMatmulPreferenceDestroy(preference);
  int chosen = 0;
  for (; chosen < found; ++chosen) {
    int32_t split = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&candidates[chosen].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                         sizeof(split), nullptr);
    if (split <= 1) break;
  }
  if (chosen == found) CheckLt(CUBLAS_STATUS_NOT_SUPPORTED, "an algorithm that does not split k", n, k);
  return candidates[chosen].algo;
}

}  // namespace

struct GradientPlans::Library {
  cublasLtHandle_t handle;
};

// cuBLASLt's matrices are column-major: w is seen as [k, n], x as [k, rows], dy as [n, rows].
struct GradientPlans::Plan {
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t left, right, result;
  cublasLtMatmulAlgo_t algorithm;

  // Matrices of `left_columns` columns of k, `right_columns` of n, and results of `columns` of k.
  Plan(cublasLtHandle_t handle, int64_t n, int64_t k, int64_t left_columns, int64_t right_columns,
       bool right_transposed, int64_t columns) {
    CheckLt(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description", n, k);
    const cublasOperation_t operation = right_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSB, &operation, sizeof(operation));
    CheckLt(cublasLtMatrixLayoutCreate(&left, CUDA_R_16BF, k, left_columns, k), "a layout", n, k);
    CheckLt(cublasLtMatrixLayoutCreate(&right, CUDA_R_16BF, n, right_columns, n), "a layout", n, k);
    CheckLt(cublasLtMatrixLayoutCreate(&result, CUDA_R_32F, k, columns, k), "a layout", n, k);
    algorithm = ChooseAlgorithm(handle, product, left, right, result, n, k);
  }
  ~Plan() {
    cublasLtMatmulDescDestroy(product);
    for (const cublasLtMatrixLayout_t layout : {left, right, result}) cublasLtMatrixLayoutDestroy(layout);
  }

  void Run(cublasLtHandle_t handle, const uint16_t* a, const uint16_t* b, float before, float* y,
           Stream stream) const {
    const float one = 1.0f;
    CheckLt(cublasLtMatmul(handle, product, &one, a, left, b, right, &before, y, result, y, result,
                           &algorithm, nullptr, 0, stream),
            "a product", 0, 0);
  }
};

GradientPlans::GradientPlans() : library_(std::make_unique<Library>()) {
  CheckLt(cublasLtCreate(&library_->handle), "cublasLtCreate", 0, 0);
}
GradientPlans::~GradientPlans() {
  plans_.clear();
  cublasLtDestroy(library_->handle);
}

void GradientPlans::InputGradient(const uint16_t* dy, int64_t rows, const uint16_t* w, int64_t n, int64_t k,
                                  float* dx, Stream stream) {
  if (rows == 0) return;
  std::unique_ptr<Plan>& plan = plans_[{n, k, 0}];
  if (plan == nullptr) {
    plan =
        std::make_unique<Plan>(library_->handle, n, k, n, kRowBlock, /*right_transposed=*/false, kRowBlock);
  }
  const int64_t blocks = PaddedRows(rows) / kRowBlock;
  SetBatches(plan->left, blocks, 0);  // the same weights for each
  SetBatches(plan->right, blocks, kRowBlock * n);
  SetBatches(plan->result, blocks, kRowBlock * k);
  plan->Run(library_->handle, w, dy, /*before=*/0.0f, dx, stream);
}

void GradientPlans::AddWeightGradient(const uint16_t* dy, const uint16_t* x, int64_t rows, int64_t n,
                                      int64_t k, float* dw, Stream stream) {
  if (rows == 0) return;
  const int64_t padded = PaddedRows(rows);
  std::unique_ptr<Plan>& plan = plans_[{n, k, padded}];
  if (plan == nullptr) {
    plan = std::make_unique<Plan>(library_->handle, n, k, padded, padded, /*right_transposed=*/true, n);
  }
  plan->Run(library_->handle, x, dy, /*before=*/1.0f, dw, stream);
}

}  // namespace clamor::kernels::cuda
