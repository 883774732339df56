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

// cuBLASLt's matrices are column-major: w is seen as [k, n] and transposed, x as [k, rows], y as [n, rows].
struct MatMulPlans::Plan {
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t w, x, y;
  cublasLtMatmulAlgo_t algorithm;

  ~Plan() {
    cublasLtMatmulDescDestroy(product);
    for (const cublasLtMatrixLayout_t layout : {w, x, y}) cublasLtMatrixLayoutDestroy(layout);
  }
};

MatMulPlans::MatMulPlans(Numerics numerics) : numerics_(numerics), library_(std::make_unique<Library>()) {
  CheckLt(cublasLtCreate(&library_->handle), "cublasLtCreate", 0, 0);
  if (numerics_ == Numerics::kExact) return;
  constexpr size_t kWorkspace = size_t{32} << 20;
  if (GotMemory(cudaMalloc(&workspace_, kWorkspace))) {
    workspace_bytes_ = kWorkspace;
  } else {  // then algorithms do without
    workspace_ = nullptr;
  }
}
MatMulPlans::~MatMulPlans() {
  cublasLtDestroy(library_->handle);
  if (workspace_ != nullptr) Check(cudaFree(workspace_), "freeing");
}

std::unique_ptr<MatMulPlans::Plan> MatMulPlans::Make(int64_t n, int64_t k, int64_t rows) const {
  auto plan = std::make_unique<Plan>();
  CheckLt(cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description", n, k);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
  CheckLt(cublasLtMatrixLayoutCreate(&plan->w, CUDA_R_16BF, k, n, k), "a layout", n, k);
  CheckLt(cublasLtMatrixLayoutCreate(&plan->x, CUDA_R_16BF, k, rows, k), "a layout", n, k);
  CheckLt(cublasLtMatrixLayoutCreate(&plan->y, CUDA_R_32F, n, rows, n), "a layout", n, k);

  const bool exact = numerics_ == Numerics::kExact;
  cublasLtMatmulPreference_t preference;
  CheckLt(cublasLtMatmulPreferenceCreate(&preference), "a preference", n, k);
  const uint32_t reductions = exact ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_MASK;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                       sizeof(reductions));
  const uint64_t workspace = workspace_bytes_;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                       sizeof(workspace));
  cublasLtMatmulHeuristicResult_t candidates[8];
  int found = 0;
  CheckLt(cublasLtMatmulAlgoGetHeuristic(library_->handle, plan->product, plan->w, plan->x, plan->y, plan->y,
                                         preference, 8, candidates, &found),
          "the choice of an algorithm", n, k);
  cublasLtMatmulPreferenceDestroy(preference);
  for (int i = 0; i < found; ++i) {
    int32_t split = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&candidates[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                         sizeof(split), nullptr);
    if (exact && split > 1) continue;
    plan->algorithm = candidates[i].algo;
    return plan;
  }
  CheckLt(CUBLAS_STATUS_NOT_SUPPORTED, "an algorithm that does not split k", n, k);
  return plan;
}

void MatMulPlans::Prepare(int64_t n, int64_t k) {
  if (numerics_ == Numerics::kFast) return;
  std::unique_ptr<Plan>& plan = plans_[{n, k, kRowBlock}];
  if (plan == nullptr) plan = Make(n, k, kRowBlock);
}

void MatMulPlans::MatMul(const uint16_t* x, int64_t rows, const uint16_t* w, int64_t n, int64_t k, float* y,
                         Stream stream) {
  if (rows == 0) return;
  const bool exact = numerics_ == Numerics::kExact;
  std::unique_ptr<Plan>& plan = plans_[{n, k, exact ? kRowBlock : rows}];
  if (plan == nullptr && exact) CheckLt(CUBLAS_STATUS_INVALID_VALUE, "a product without Prepare()", n, k);
  if (plan == nullptr) plan = Make(n, k, rows);
  const int64_t blocks = exact ? PaddedRows(rows) / kRowBlock : 1;
  SetBatches(plan->w, blocks, 0);  // the same weights for each
  SetBatches(plan->x, blocks, kRowBlock * k);
  SetBatches(plan->y, blocks, kRowBlock * n);
  const float one = 1.0f, zero = 0.0f;
  CheckLt(cublasLtMatmul(library_->handle, plan->product, &one, w, plan->w, x, plan->x, &zero, y, plan->y, y,
                         plan->y, &plan->algorithm, workspace_, workspace_bytes_, stream),
          "a product", n, k);
}

}  // namespace clamor::kernels::cuda
