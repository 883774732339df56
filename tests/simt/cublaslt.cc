// D = alpha op(A) op(B) + beta C as cuBLASLt does it, on the CPU. What the real one refuses ends the process
// with the reason: dimensions that do not fit, a leading dimension below the rows, addresses or leading
// dimensions that are not multiples of 16 bytes, a workspace too small. What it cannot see is checked as
// well: that matrices lie in live buffers, and that nothing races with the product.
//
// The real one promises the same bits only for the same call. So here the order of summation depends on all
// that it may depend on there: the number of rows and columns, the algorithm, leading dimensions, the
// workspace, and the alignment of each matrix. Whoever wants equal bits must pin every one of them.
#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/simt/memory.h"
#include "tests/simt/report.h"
#include "tests/simt/streams.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  int transposed[2] = {CUBLAS_OP_N, CUBLAS_OP_N};  // A, B
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  int64_t rows, columns, leading;
  int32_t batches = 1;
  int64_t batch_offset = 0;  // elements
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
};

namespace {

using namespace clamor::simt;

using Layout = cublasLtMatrixLayoutOpaque_t;

// What an algorithm is, inside its opaque bytes.
struct Algorithm {
  uint64_t id, split_k, workspace;
};
Algorithm Read(const cublasLtMatmulAlgo_t& algo) { return {algo.data[0], algo.data[1], algo.data[2]}; }

int64_t ElementBytes(const Layout& l) { return l.type == CUDA_R_32F ? 4 : 2; }

std::string WrongLayout(char name, const Layout& l) {
  const std::string matrix = std::string("matrix ") + name + " (" + std::to_string(l.rows) + " x " +
                             std::to_string(l.columns) + ", leading dimension " + std::to_string(l.leading) +
                             ") ";
  if (l.leading < l.rows) return matrix + "has a leading dimension below its rows";
  if (l.leading * ElementBytes(l) % 16 != 0)
    return matrix + "has a leading dimension that is no multiple of 16 bytes";
  if (l.batches > 1 && l.batch_offset * ElementBytes(l) % 16 != 0) {
    return matrix + "has a batch offset that is no multiple of 16 bytes";
  }
  return "";
}

struct Shape {
  int64_t m, n, k;
};

// Empty if the product is one that an algorithm could do.
std::string WrongProduct(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& b,
                         const Layout& c, const Layout& d, Shape& shape) {
  const Layout* const all[] = {&a, &b, &c, &d};
  for (int i = 0; i < 4; ++i) {
    if (std::string wrong = WrongLayout("ABCD"[i], *all[i]); !wrong.empty()) return wrong;
    if (all[i]->batches != a.batches) return "the matrices differ in batch count";
  }
  const bool ta = desc.transposed[0] == CUBLAS_OP_T, tb = desc.transposed[1] == CUBLAS_OP_T;
  shape = {ta ? a.columns : a.rows, tb ? b.rows : b.columns, ta ? a.rows : a.columns};
  if ((tb ? b.columns : b.rows) != shape.k || d.rows != shape.m || d.columns != shape.n ||
      c.rows != shape.m || c.columns != shape.n) {
    return "the dimensions of A, B, C and D do not fit";
  }
  if (a.type != CUDA_R_16BF || b.type != CUDA_R_16BF || d.type != CUDA_R_32F || c.type != CUDA_R_32F) {
    return "only bf16 times bf16 into fp32 is known here";
  }
  return "";
}

float Element(const std::byte* matrix, const Layout& l, int64_t row, int64_t column) {
  uint16_t bits;
  std::memcpy(&bits, matrix + 2 * (column * l.leading + row), 2);
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// The order in which k products are added up: blocks of it, shuffled.
std::vector<int64_t> SummationOrder(int64_t k, std::initializer_list<uint64_t> depends_on) {
  std::vector<uint32_t> salt;
  for (const uint64_t v : depends_on)
    salt.insert(salt.end(), {static_cast<uint32_t>(v), static_cast<uint32_t>(v >> 32)});
  std::seed_seq seed(salt.begin(), salt.end());
  std::mt19937 random(seed);
  std::vector<int64_t> blocks;
  for (int64_t i = 0; i < k; i += 8) blocks.push_back(i);
  std::shuffle(blocks.begin(), blocks.end(), random);
  std::vector<int64_t> order;
  for (const int64_t begin : blocks) {
    for (int64_t i = begin; i < std::min(k, begin + 8); ++i) order.push_back(i);
  }
  return order;
}

uint64_t Alignment(const void* p) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  return std::min<uint64_t>(256, address & -address);
}

// Everything of a call, copied when it was made.
struct Product {
  cublasLtMatmulDescOpaque_t desc;
  Layout a_layout, b_layout, c_layout, d_layout;
  Algorithm algorithm;
  float alpha, beta;
  const std::byte *a, *b, *c;
  std::byte* d;
  void* workspace;
  size_t workspace_bytes;
  Shape shape;
};

void AccessMatrix(const std::byte* p, const Layout& l, Access access, char name, OperationId id) {
  for (int32_t batch = 0; batch < l.batches; ++batch) {
    for (int64_t column = 0; column < l.columns; ++column) {
      const std::byte* const at = p + (batch * l.batch_offset + column * l.leading) * ElementBytes(l);
      const auto wrong = AccessDevice(at, l.rows * ElementBytes(l), access, {.operation = id}, 0);
      if (wrong) {
        Fail(Describe(id) + (access == Access::kRead ? ", reads" : ", writes") + " column " +
             std::to_string(column) + " of matrix " + name + ", " + *wrong);
      }
    }
  }
}

void Multiply(const Product& p, OperationId id) {
  AccessMatrix(p.a, p.a_layout, Access::kRead, 'A', id);
  AccessMatrix(p.b, p.b_layout, Access::kRead, 'B', id);
  if (p.beta != 0.0f) AccessMatrix(p.c, p.c_layout, Access::kRead, 'C', id);
  AccessMatrix(p.d, p.d_layout, Access::kWrite, 'D', id);
  if (p.algorithm.workspace > 0) {
    const auto wrong = AccessDevice(p.workspace, p.algorithm.workspace, Access::kWrite, {.operation = id}, 0);
    if (wrong) Fail(Describe(id) + ", writes its workspace, " + *wrong);
  }
  const std::vector<int64_t> order = SummationOrder(
      p.shape.k, {static_cast<uint64_t>(p.shape.m), static_cast<uint64_t>(p.shape.n), p.algorithm.id,
                  static_cast<uint64_t>(p.a_layout.leading), static_cast<uint64_t>(p.b_layout.leading),
                  static_cast<uint64_t>(p.d_layout.leading), p.workspace_bytes, Alignment(p.a),
                  Alignment(p.b), Alignment(p.d)});
  const bool ta = p.desc.transposed[0] == CUBLAS_OP_T, tb = p.desc.transposed[1] == CUBLAS_OP_T;
  for (int32_t batch = 0; batch < p.a_layout.batches; ++batch) {
    const std::byte* const a = p.a + 2 * batch * p.a_layout.batch_offset;
    const std::byte* const b = p.b + 2 * batch * p.b_layout.batch_offset;
    for (int64_t j = 0; j < p.shape.n; ++j) {
      for (int64_t i = 0; i < p.shape.m; ++i) {
        float sum = 0.0f;
        for (const int64_t k : order) {
          sum += (ta ? Element(a, p.a_layout, k, i) : Element(a, p.a_layout, i, k)) *
                 (tb ? Element(b, p.b_layout, j, k) : Element(b, p.b_layout, k, j));
        }
        const auto at = [&](const Layout& l) { return 4 * (batch * l.batch_offset + j * l.leading + i); };
        sum *= p.alpha;
        if (p.beta != 0.0f) {
          float before;
          std::memcpy(&before, p.c + at(p.c_layout), 4);
          sum += p.beta * before;
        }
        std::memcpy(p.d + at(p.d_layout), &sum, 4);
      }
    }
  }
}

template <class T>
cublasStatus_t Set(T& field, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

size_t cublasLtGetVersion() { return 0; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  return Set(desc->transposed[attribute == CUBLASLT_MATMUL_DESC_TRANSB], value, bytes);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t leading_dimension) {
  *layout = new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), leading_dimension};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return Set(layout->batches, value, bytes);
  return Set(layout->batch_offset, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return Set(preference->workspace, value, bytes);
  return Set(preference->reductions, value, bytes);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

// As the real one does for few rows, prefers to split k where it is allowed to.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  Shape shape;
  if (const std::string wrong = WrongProduct(*desc, *a, *b, *c, *d, shape); !wrong.empty()) {
    Fail("cublasLtMatmulAlgoGetHeuristic at " + PlaceOf(__builtin_return_address(0)) + ": " + wrong);
  }
  for (const Algorithm algorithm :
       {Algorithm{12, 4, 1 << 16}, Algorithm{11, 1, 1 << 12}, Algorithm{10, 1, 0}}) {
    if (*found == wanted || algorithm.workspace > preference->workspace) continue;
    if (algorithm.split_k > 1 && preference->reductions == CUBLASLT_REDUCTION_SCHEME_NONE) continue;
    cublasLtMatmulHeuristicResult_t& result = results[*found];
    result = {};
    result.algo.data[0] = algorithm.id;
    result.algo.data[1] = algorithm.split_k;
    result.algo.data[2] = algorithm.workspace;
    if (cublasLtMatmulAlgoCheck(handle, desc, a, b, c, d, &result.algo, &result) == CUBLAS_STATUS_SUCCESS)
      ++*found;
  }
  return *found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void* value, size_t bytes, size_t* written) {
  const Algorithm algorithm = Read(*algo);
  const int32_t v =
      static_cast<int32_t>(attribute == CUBLASLT_ALGO_CONFIG_ID ? algorithm.id : algorithm.split_k);
  if (bytes != sizeof(v)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(value, &v, sizeof(v));
  if (written != nullptr) *written = sizeof(v);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  Shape shape;
  if (!WrongProduct(*desc, *a, *b, *c, *d, shape).empty()) return CUBLAS_STATUS_INVALID_VALUE;
  result->algo = *algo;
  result->workspaceSize = Read(*algo).workspace;
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  const void* const from = __builtin_return_address(0);
  CheckStream(stream, "cublasLtMatmul", from);
  Product p = {.desc = *desc,
               .a_layout = *a_layout,
               .b_layout = *b_layout,
               .c_layout = *c_layout,
               .d_layout = *d_layout,
               .algorithm = {},
               .alpha = *static_cast<const float*>(alpha),
               .beta = *static_cast<const float*>(beta),
               .a = static_cast<const std::byte*>(a),
               .b = static_cast<const std::byte*>(b),
               .c = static_cast<const std::byte*>(c),
               .d = static_cast<std::byte*>(d),
               .workspace = workspace,
               .workspace_bytes = workspace_bytes,
               .shape = {}};
  std::string wrong = WrongProduct(p.desc, p.a_layout, p.b_layout, p.c_layout, p.d_layout, p.shape);
  if (algo != nullptr) p.algorithm = Read(*algo);
  if (algo == nullptr)
    p.algorithm = {.id = 1 + static_cast<uint64_t>(p.shape.n), .split_k = 1, .workspace = 0};
  for (const void* matrix : {a, b, c, static_cast<const void*>(d)}) {
    if (Alignment(matrix) < 16) wrong = "a matrix does not begin at a multiple of 16 bytes";
    if (!IsDeviceAddress(matrix)) wrong = "a matrix is not in device memory";
  }
  if (p.algorithm.workspace > workspace_bytes) {
    wrong = "the algorithm needs a workspace of " + std::to_string(p.algorithm.workspace) +
            " bytes, but has " + std::to_string(workspace_bytes);
  }
  if (!wrong.empty()) Fail("cublasLtMatmul at " + PlaceOf(from) + ": " + wrong);
  Submit(stream, {.operation = {.what = "cublasLtMatmul", .issued_at = from},
                  .run = [p](OperationId id) { Multiply(p, id); }});
  return CUBLAS_STATUS_SUCCESS;
}
