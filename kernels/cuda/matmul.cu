#include <cublasLt.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/matmul.h"

namespace clamor::kernels::cuda {
namespace {

void CheckLt(cublasStatus_t status, const char* what, int64_t n, int64_t k) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "cuda: %s for weights of [%lld, %lld]: cuBLASLt status %d\n", what,
               static_cast<long long>(n), static_cast<long long>(k), static_cast<int>(status));
  std::abort();
}

void SetBatches(cublasLtMatrixLayout_t layout, int64_t batches, int64_t offset) {
  const int32_t count = static_cast<int32_t>(batches);
  cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count));
  cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset,
                                   sizeof(offset));
}

}  // namespace

struct MatMulPlans::Library {
  cublasLtHandle_t handle;
};

// cuBLASLt's matrices are column-major: w is seen as [k, n], x as [k, rows], y as [n, rows]. `left` and
// `right` are its A and B, in the order that each product needs.
struct MatMulPlans::Plan {
  const int64_t n, k;  // of the weights
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t left, right, result;
  cublasLtMatmulAlgo_t algorithm;

  Plan(bool left_transposed, bool right_transposed, int64_t n, int64_t k) : n(n), k(k) {
    CheckLt(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description", n, k);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    if (left_transposed)
      cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    if (right_transposed)
      cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSB, &transposed, sizeof(transposed));
  }
  ~Plan() {
    cublasLtMatmulDescDestroy(product);
    for (const cublasLtMatrixLayout_t layout : {left, right, result}) cublasLtMatrixLayoutDestroy(layout);
  }

  // The first that neither splits k nor needs a workspace.
  void ChooseAlgorithm(cublasLtHandle_t handle);
  // Of `batches` equal products, one behind the other, whose matrices are that many elements apart.
  void Run(cublasLtHandle_t handle, int64_t batches, int64_t left_offset, int64_t right_offset,
           int64_t result_offset, const uint16_t* a, const uint16_t* b, bool add, float* y, Stream stream);
};

void MatMulPlans::Plan::ChooseAlgorithm(cublasLtHandle_t handle) {
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
  for (int i = 0; i < found; ++i) {
    int32_t split = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&candidates[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                         sizeof(split), nullptr);
    if (split > 1) continue;
    algorithm = candidates[i].algo;
    return;
  }
  CheckLt(CUBLAS_STATUS_NOT_SUPPORTED, "an algorithm that does not split k", n, k);
}

void MatMulPlans::Plan::Run(cublasLtHandle_t handle, int64_t batches, int64_t left_offset,
                            int64_t right_offset, int64_t result_offset, const uint16_t* a, const uint16_t* b,
                            bool add, float* y, Stream stream) {
  SetBatches(left, batches, left_offset);
  SetBatches(right, batches, right_offset);
  SetBatches(result, batches, result_offset);
  const float one = 1.0f, before = add ? 1.0f : 0.0f;
  CheckLt(cublasLtMatmul(handle, product, &one, a, left, b, right, &before, y, result, y, result, &algorithm,
                         nullptr, 0, stream),
          "a product", n, k);
}

MatMulPlans::MatMulPlans() : library_(std::make_unique<Library>()) {
  CheckLt(cublasLtCreate(&library_->handle), "cublasLtCreate", 0, 0);
}
MatMulPlans::~MatMulPlans() { cublasLtDestroy(library_->handle); }

MatMulPlans::Plan& MatMulPlans::PlanFor(Product product, int64_t n, int64_t k, int64_t rows) {
  std::unique_ptr<Plan>& plan = plans_[{product, n, k, rows}];
  if (plan != nullptr) return *plan;
  const auto layout = [&](cublasLtMatrixLayout_t& to, cudaDataType_t type, int64_t columns, int64_t size) {
    CheckLt(cublasLtMatrixLayoutCreate(&to, type, size, columns, size), "a layout", n, k);
  };
  switch (product) {
    case Product::kForward:  // w^T x
      plan = std::make_unique<Plan>(true, false, n, k);
      layout(plan->left, CUDA_R_16BF, n, k);
      layout(plan->right, CUDA_R_16BF, rows, k);
      layout(plan->result, CUDA_R_32F, rows, n);
      break;
    case Product::kInputGradient:  // w dy
      plan = std::make_unique<Plan>(false, false, n, k);
      layout(plan->left, CUDA_R_16BF, n, k);
      layout(plan->right, CUDA_R_16BF, rows, n);
      layout(plan->result, CUDA_R_32F, rows, k);
      break;
    case Product::kWeightGradient:  // x dy^T
      plan = std::make_unique<Plan>(false, true, n, k);
      layout(plan->left, CUDA_R_16BF, rows, k);
      layout(plan->right, CUDA_R_16BF, rows, n);
      layout(plan->result, CUDA_R_32F, n, k);
      break;
  }
  plan->ChooseAlgorithm(library_->handle);
  return *plan;
}

void MatMulPlans::Prepare(int64_t n, int64_t k) { PlanFor(Product::kForward, n, k, kRowBlock); }

void MatMulPlans::MatMul(const uint16_t* x, int64_t rows, const uint16_t* w, int64_t n, int64_t k, float* y,
                         Stream stream) {
  if (rows == 0) return;
  const auto prepared = plans_.find({Product::kForward, n, k, kRowBlock});
  if (prepared == plans_.end()) CheckLt(CUBLAS_STATUS_INVALID_VALUE, "a product without Prepare()", n, k);
  prepared->second->Run(library_->handle, PaddedRows(rows) / kRowBlock, /*left_offset=*/0, kRowBlock * k,
                        kRowBlock * n, w, x, /*add=*/false, y, stream);
}

void MatMulPlans::InputGradient(const uint16_t* dy, int64_t rows, const uint16_t* w, int64_t n, int64_t k,
                                float* dx, Stream stream) {
  if (rows == 0) return;
  PlanFor(Product::kInputGradient, n, k, kRowBlock)
      .Run(library_->handle, PaddedRows(rows) / kRowBlock, /*left_offset=*/0, kRowBlock * n, kRowBlock * k, w,
           dy, /*add=*/false, dx, stream);
}

void MatMulPlans::AddWeightGradient(const uint16_t* dy, const uint16_t* x, int64_t rows, int64_t n, int64_t k,
                                    float* dw, Stream stream) {
  if (rows == 0) return;
  PlanFor(Product::kWeightGradient, n, k, PaddedRows(rows))
      .Run(library_->handle, /*batches=*/1, 0, 0, 0, x, dy, /*add=*/true, dw, stream);
}

}  // namespace clamor::kernels::cuda
