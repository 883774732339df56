// Forward, one block to a tile of queries and head: keys of the next tile are fetched while weights are made,
// values while scores are.
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/causal_attention.h"

namespace clamor::kernels::cuda {
namespace {

static_assert(kTextTile == kTile);

// Fetches keys, or values, from row `first` of a text on that ends before row `end`.
template <int kDim>
__device__ inline void Fetch(const CausalAttentionArgs& a, const uint16_t* from, int kv_head, int first,
                             int end, SharedTile<kDim>& to) {
  FetchRows(
      first, end, [&](int r) { return from + KvElement(r, kv_head, a.kv.kv_heads, kDim); }, to);
}

template <int kDim>
__global__ void __launch_bounds__(kTileThreads, 2) CausalAttentionKernel(CausalAttentionArgs a) {
  GPU_DYNAMIC_SHARED(SharedTile<kDim>, shared);
  SharedTile<kDim>&q = shared[0], &keys = shared[1], &values = shared[2];
  const TextTile text = a.tiles[blockIdx.y];
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.heads / a.kv.kv_heads);
  const int first_seen = a.window > 0 ? text.first + 1 - a.window : text.begin;
  int row = text.first;  // of the first key of the tile at work
  while (row > first_seen && row > text.begin) row -= kTile;

  FetchRows(
      text.first, text.end, [&](int r) { return a.q + (int64_t{r} * a.heads + head) * kDim; }, q);
  Fetch(a, a.kv.keys, kv_head, row, text.end, keys);
  gpu::CopyCommit();
  Fetch(a, a.kv.values, kv_head, row, text.end, values);
  gpu::CopyCommit();

  // The two queries of this lane's accumulators: rows g and g + 8 of its warp's 16.
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int query = text.first + 16 * warp + lane / 4;
  Softmax softmax;
  float sums[kDim / 8][4] = {};
  for (; row <= text.first; row += kTile) {
    const bool more = row < text.first;
    float scores[kTile / 8][4] = {};
    gpu::CopyWait<1>();
    __syncthreads();
    MultiplyRows(q, keys, scores);
    __syncthreads();
    if (more) Fetch(a, a.kv.keys, kv_head, row + kTile, text.end, keys);
    gpu::CopyCommit();
    const auto seen = [&](int h, int key) {
      const int back = query + 8 * h - row - key;
      return back >= 0 && (a.window == 0 || back < a.window);
    };
    Weigh<kDim>(scores, a.scale, seen, softmax, sums);
    gpu::CopyWait<1>();
    __syncthreads();
    AddWeighted(values, scores, sums);
    __syncthreads();
    if (more) Fetch(a, a.kv.values, kv_head, row + kTile, text.end, values);
    gpu::CopyCommit();
  }
  gpu::CopyWait<0>();

  const int t = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (query + 8 * h >= text.end) continue;
    const int64_t at = int64_t{query + 8 * h} * a.heads + head;
    if (t == 0) a.log_sum_exp[at] = softmax.maximum[h] + Log(softmax.total[h]);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      gpu::StoreVector(a.out + at * kDim + 8 * n + 2 * t,
                       ToBF16Pair(sums[n][2 * h] / softmax.total[h], sums[n][2 * h + 1] / softmax.total[h]));
    }
  }
}

template <int kDim>
void Run(const CausalAttentionArgs& args, Stream stream) {
  constexpr size_t kShared = 3 * sizeof(SharedTile<kDim>);
  Check(
      cudaFuncSetAttribute(CausalAttentionKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
      "shared memory for attention");
  gpu::Launch({.blocks = dim3(args.heads, static_cast<unsigned>(args.tile_count)),
               .threads = dim3(kTileThreads),
               .shared_bytes = kShared,
               .stream = stream},
              CausalAttentionKernel<kDim>, args);
}

}  // namespace

void CausalAttention(const CausalAttentionArgs& args, Stream stream) {
  if (args.tile_count == 0) return;
  WithHeadDim(args.kv.head_dim, [&](auto dim) { Run<dim>(args, stream); });
}

}  // namespace clamor::kernels::cuda
