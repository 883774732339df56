// Three kernels: D of each row and head; the gradients of keys and values, a block to a tile of keys; that of
// queries, a block to a tile of queries. The last two both recompute the weights: neither then adds to what
// another block writes.
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/causal_attention.h"

namespace clamor::kernels::cuda {
namespace {

using Args = CausalAttentionBackwardArgs;

constexpr int kWarps = kTileThreads / 32;
constexpr int kQueries = 32;  // that keys are multiplied with at a time: accumulators leave room for no more

// The row of d_qkv, from the element `offset` on.
__device__ inline float* Gradient(const Args& a, int row, int offset) {
  const CausalAttentionArgs& f = a.forward;
  return a.d_qkv + (int64_t{row} * (f.heads + 2 * f.kv.kv_heads)) * f.kv.head_dim + offset;
}

template <int kDim>
__global__ void __launch_bounds__(kTileThreads) OutputProductKernel(Args a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t at = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;  // row and head
  if (at >= a.rows * a.forward.heads) return;
  float sum = 0.0f;
  for (int d = lane; d < kDim; d += 32) {
    const uint16_t rounded = ToBF16(a.d_out[at * kDim + d]);
    a.rounded[at * kDim + d] = rounded;
    sum = fmaf(FromBF16(rounded), FromBF16(a.forward.out[at * kDim + d]), sum);
  }
  for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
  if (lane == 0) a.products[at] = sum;
}

// A score and the gradient of its weight become the weight and the gradient of the score.
__device__ inline void Derive(bool seen, float scale, float log_sum_exp, float product, float& score,
                              float& d_weight) {
  const float weight = seen ? Exp(score * scale - log_sum_exp) : 0.0f;
  score = weight;
  d_weight = weight * (d_weight - product) * scale;
}

// The sums of a warp's sixteen rows from `first` on, those before `end`, to elements `offset` and on.
template <int kDim>
__device__ inline void WriteSums(const Args& a, int first, int end, int offset,
                                 const float (&sums)[kDim / 8][4]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first + 16 * warp + lane / 4 + 8 * h;
    if (row >= end) continue;
    float* const to = Gradient(a, row, offset + 2 * (lane % 4));
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      gpu::StoreVector(to + 8 * n, float2{sums[n][2 * h], sums[n][2 * h + 1]});
  }
}

template <int kDim>
struct KeyTiles {
  SharedTile<kDim> keys, values;
  SharedTile<kDim, kQueries> q, d_out;
};

template <int kDim>
__global__ void __launch_bounds__(kTileThreads, 2) KeyGradientKernel(Args a) {
  GPU_DYNAMIC_SHARED(KeyTiles<kDim>, tiles);
  GPU_SHARED(float[2][kQueries], of_queries);  // log-sum-exp, D
  const CausalAttentionArgs& f = a.forward;
  const TextTile text = f.tiles[blockIdx.y];
  const int kv_head = static_cast<int>(blockIdx.x), group = f.heads / f.kv.kv_heads;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, t = lane % 4;
  const auto key_at = [&](int r) { return f.kv.keys + KvElement(r, kv_head, f.kv.kv_heads, kDim); };
  const auto value_at = [&](int r) { return f.kv.values + KvElement(r, kv_head, f.kv.kv_heads, kDim); };
  FetchRows(text.first, text.end, key_at, tiles->keys);
  FetchRows(text.first, text.end, value_at, tiles->values);

  // No query behind it sees a key of this tile.
  const int last_key = text.first + kTile < text.end ? text.first + kTile - 1 : text.end - 1;
  const int end = f.window > 0 && last_key + f.window < text.end ? last_key + f.window : text.end;
  float d_keys[kDim / 8][4] = {}, d_values[kDim / 8][4] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const auto row_at = [&](const uint16_t* rows, int r) {
      return rows + (int64_t{r} * f.heads + head) * kDim;
    };
    for (int first = text.first; first < end; first += kQueries) {
      FetchRows(
          first, text.end, [&](int r) { return row_at(f.q, r); }, tiles->q);
      FetchRows(
          first, text.end, [&](int r) { return row_at(a.rounded, r); }, tiles->d_out);
      gpu::CopyCommit();
      if (thread < 2 * kQueries) {
        const int query = first + thread % kQueries;
        const float* const from = thread < kQueries ? f.log_sum_exp : a.products;
        of_queries[thread / kQueries][thread % kQueries] =
            query < text.end ? from[int64_t{query} * f.heads + head] : 0.0f;
      }
      gpu::CopyWait<0>();
      __syncthreads();

      // Keys down, queries across.
      float weights[kQueries / 8][4] = {}, d_scores[kQueries / 8][4] = {};
      MultiplyRows(tiles->keys, tiles->q, weights);
      MultiplyRows(tiles->values, tiles->d_out, d_scores);
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 8 * n + 2 * t + i % 2, query = first + at;
          const int back = query - (text.first + 16 * warp + lane / 4 + i / 2 * 8);
          const bool seen = back >= 0 && (f.window == 0 || back < f.window) && query < text.end;
          Derive(seen, f.scale, of_queries[0][at], of_queries[1][at], weights[n][i], d_scores[n][i]);
        }
      }
      AddWeighted(tiles->d_out, weights, d_values);
      AddWeighted(tiles->q, d_scores, d_keys);
      __syncthreads();
    }
  }
  WriteSums<kDim>(a, text.first, text.end, (f.heads + kv_head) * kDim, d_keys);
  WriteSums<kDim>(a, text.first, text.end, (f.heads + f.kv.kv_heads + kv_head) * kDim, d_values);
}

template <int kDim>
struct QueryTiles {
  SharedTile<kDim> q, d_out, keys, values;
};

template <int kDim>
__global__ void __launch_bounds__(kTileThreads, 2) QueryGradientKernel(Args a) {
  GPU_DYNAMIC_SHARED(QueryTiles<kDim>, tiles);
  const CausalAttentionArgs& f = a.forward;
  const TextTile text = f.tiles[blockIdx.y];
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (f.heads / f.kv.kv_heads);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32,
            t = lane % 4;
  const auto row_at = [&](const uint16_t* rows, int r) {
    return rows + (int64_t{r} * f.heads + head) * kDim;
  };
  FetchRows(
      text.first, text.end, [&](int r) { return row_at(f.q, r); }, tiles->q);
  FetchRows(
      text.first, text.end, [&](int r) { return row_at(a.rounded, r); }, tiles->d_out);

  const int query = text.first + 16 * warp + lane / 4;
  float log_sum_exp[2] = {}, product[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (query + 8 * h >= text.end) continue;
    log_sum_exp[h] = f.log_sum_exp[int64_t{query + 8 * h} * f.heads + head];
    product[h] = a.products[int64_t{query + 8 * h} * f.heads + head];
  }
  const int first_seen = f.window > 0 ? text.first + 1 - f.window : text.begin;
  int row = text.first;  // of the first key of the tile at work
  while (row > first_seen && row > text.begin) row -= kTile;

  float sums[kDim / 8][4] = {};
  for (; row <= text.first; row += kTile) {
    FetchRows(
        row, text.end, [&](int r) { return f.kv.keys + KvElement(r, kv_head, f.kv.kv_heads, kDim); },
        tiles->keys);
    FetchRows(
        row, text.end, [&](int r) { return f.kv.values + KvElement(r, kv_head, f.kv.kv_heads, kDim); },
        tiles->values);
    gpu::CopyCommit();
    gpu::CopyWait<0>();
    __syncthreads();
    float weights[kTile / 8][4] = {}, d_scores[kTile / 8][4] = {};
    MultiplyRows(tiles->q, tiles->keys, weights);
    MultiplyRows(tiles->d_out, tiles->values, d_scores);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int back = query + i / 2 * 8 - (row + 8 * n + 2 * t + i % 2);
        const bool seen = back >= 0 && (f.window == 0 || back < f.window);
        Derive(seen, f.scale, log_sum_exp[i / 2], product[i / 2], weights[n][i], d_scores[n][i]);
      }
    }
    AddWeighted(tiles->keys, d_scores, sums);
    __syncthreads();
  }
  WriteSums<kDim>(a, text.first, text.end, head * kDim, sums);
}

template <class... P>
void LaunchTiles(const Args& args, int heads, size_t shared, void (*kernel)(P...), Stream stream) {
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "shared memory for attention");
  gpu::Launch({.blocks = dim3(heads, static_cast<unsigned>(args.forward.tile_count)),
               .threads = dim3(kTileThreads),
               .shared_bytes = shared,
               .stream = stream},
              kernel, args);
}

template <int kDim>
void Run(const Args& args, Stream stream) {
  const int64_t all = args.rows * args.forward.heads;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>((all + kWarps - 1) / kWarps)),
               .threads = dim3(kTileThreads),
               .stream = stream},
              OutputProductKernel<kDim>, args);
  LaunchTiles(args, args.forward.kv.kv_heads, sizeof(KeyTiles<kDim>), KeyGradientKernel<kDim>, stream);
  LaunchTiles(args, args.forward.heads, sizeof(QueryTiles<kDim>), QueryGradientKernel<kDim>, stream);
}

}  // namespace

void CausalAttentionBackward(const CausalAttentionBackwardArgs& args, Stream stream) {
  if (args.forward.tile_count == 0) return;
  WithHeadDim(args.forward.kv.head_dim, [&](auto dim) { Run<dim>(args, stream); });
}

}  // namespace clamor::kernels::cuda
