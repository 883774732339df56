// Products and embeddings of weights in int8 and int4: integers, so the bits are the CPU's.
#include "kernels/cuda/embedding.h"
#include "kernels/matmul.h"
#include "tests/kernels/cuda/conformance.h"
#include "tests/kernels/cuda/quantized_weights.h"

namespace clamor::kernels::cuda {
namespace {

template <int kBits>
Problem QuantizedProduct(Random& random, int rows) {
  const int n = 8 * random.Between(1, 9), k = 8 * random.Between(1, 20);
  const std::vector<float> x = random.BF16s(rows * k, -3, 3), w = random.BF16s(n * k);
  return {.reference =
              [=] {
                return Results{{reference::MatMulQuantized(x.data(), k, rows, w, n, k, StoredAs(kBits), {})}};
              },
          .cpu =
              [=](ThreadPool& pool) {
                PackedMatrix packed(n, k, StoredAs(kBits));
                packed.PackRows(0, n, w.data(), DType::kF32, pool);
                std::vector<float> y(rows * n);
                MatMul(x.data(), k, rows, packed, nullptr, y.data(), n, pool);
                return Results{{y}};
              },
          .device =
              [=](cudaStream_t stream, int count) {
                QuantizedWeights weights(stream, n, k, kBits);
                weights.Fill(w);
                return Results{{ProductOnDevice(stream, x, count, weights.matrix())}};
              }};
}

Problem QuantizedEmbedding(Random& random, int rows) {
  const int n = 8 * random.Between(1, 40), vocabulary = 8 * random.Between(1, 4);
  const std::vector<float> table = random.BF16s(vocabulary * n);
  const std::vector<int32_t> tokens = random.Ints(rows, 0, vocabulary - 1);
  const auto cpu = [=](ThreadPool& pool) {
    PackedMatrix packed(vocabulary, n, Storage::kI8);
    packed.PackRows(0, vocabulary, table.data(), DType::kF32, pool);
    std::vector<float> hidden;
    for (const int32_t token : tokens) {
      for (int i = 0; i < n; ++i) hidden.push_back(packed.At(token, i));
    }
    return Results{{hidden}};
  };
  return {.reference =
              [=] {
                ThreadPool pool(1);
                return cpu(pool);
              },
          .cpu = nullptr,
          .device =
              [=](cudaStream_t stream, int count) {
                QuantizedWeights weights(stream, vocabulary, n, 8);
                weights.Fill(table);
                DeviceArray<int32_t> ids(stream, First(tokens, count));
                DeviceArray<float> hidden(stream, count * n);
                Embed(weights.matrix(), ids.data(), count, hidden.data(), stream);
                return Results{{hidden.Read()}};
              }};
}

}  // namespace

std::vector<Operator> QuantizedOperators() {
  return {{"QuantizedMatMulInt8", QuantizedProduct<8>, kRowCounts},
          {"QuantizedMatMulInt4", QuantizedProduct<4>, kRowCounts},
          {"EmbedInt8", QuantizedEmbedding, kRowCounts}};
}

}  // namespace clamor::kernels::cuda
