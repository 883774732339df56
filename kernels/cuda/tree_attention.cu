// Two kernels: SplitKernel multiplies the splits, TailKernel does the rest of each row and puts all together.
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/tree_attention.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = kTileThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxTail = kSplit + kMaxNodes;  // positions from F(p) to p

static_assert(kQueriesPerTile == kTile);

__device__ inline int FirstOfTail(int position) {
  const int settled = position - (kMaxNodes - 1);
  return settled <= 0 ? 0 : settled / kSplit * kSplit;
}

__device__ inline int SlotOf(const TreeAttentionArgs& a, int sequence, int position) {
  const int32_t page = a.page_table[int64_t{sequence} * a.pages_per_sequence + position / kPageTokens];
  return page * kPageTokens + position % kPageTokens;
}

// Where the part of a row, head and split begins in the workspace: the maximum, the sum of weights, then
// head_dim sums of values. The first two of all parts come first.
__device__ inline int64_t PartOf(const TreeAttentionArgs& a, int64_t row, int head, int split) {
  return (row * a.heads + head) * MaxSplits(a.pages_per_sequence) + split;
}
__device__ inline int64_t Parts(const TreeAttentionArgs& a) {
  return a.row_count * a.heads * MaxSplits(a.pages_per_sequence);
}

// ---- splits

// Fetches the keys, or the values, of kTile positions from `position` on.
template <int kDim>
__device__ inline void Fetch(const TreeAttentionArgs& a, const uint16_t* from, int sequence, int kv_head,
                             int position, SharedTile<kDim>& to) {
  FetchRows(
      position, position + kTile,
      [&](int p) { return from + KvElement(SlotOf(a, sequence, p), kv_head, a.kv.kv_heads, kDim); }, to);
}

// One block to a tile of queries, key head and split. Keys of the next kTile positions are fetched while
// weights are made, values while scores are.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) SplitKernel(TreeAttentionArgs a) {
  GPU_DYNAMIC_SHARED(SharedTile<kDim>, shared);
  SharedTile<kDim>&q = shared[0], &keys = shared[1], &values = shared[2];
  const AttentionTile tile = a.tiles[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.z),
            group = a.heads / a.kv.kv_heads;
  int end = 0;  // no row needs more than the splits before it
  for (int r = 0; r < tile.rows; ++r) {
    const int tail = FirstOfTail(a.rows[tile.first + r].position);
    end = tail > end ? tail : end;
  }
  if (split * kSplit >= end) return;
  const int sequence = a.rows[tile.first].sequence, begin = split * kSplit;

  constexpr int kChunks = kDim / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kQueriesPerTile * kChunks; i += kThreads) {
    const int query = i / kChunks, chunk = i % kChunks;
    const bool there = query < tile.rows * group;
    const int64_t row = tile.first + (there ? query / group : 0);
    const uint16_t* const from = a.q + (row * a.heads + kv_head * group + query % group) * kDim + 8 * chunk;
    gpu::CopyAsync(&q.row[query][8 * chunk], there ? from : a.q, there ? 16 : 0);
  }
  Fetch(a, a.kv.keys, sequence, kv_head, begin, keys);
  gpu::CopyCommit();
  Fetch(a, a.kv.values, sequence, kv_head, begin, values);
  gpu::CopyCommit();

  // The two queries of this lane's accumulators: rows g and g + 8 of its warp's 16.
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int64_t rows[2];
  int heads[2], lowest[2];
  bool wanted[2];
  for (int h = 0; h < 2; ++h) {
    const int query = 16 * warp + lane / 4 + 8 * h;
    const bool there = query < tile.rows * group;
    rows[h] = tile.first + (there ? query / group : 0);
    heads[h] = kv_head * group + query % group;
    const int position = a.rows[rows[h]].position;
    lowest[h] = a.window > 0 ? position - a.window + 1 : 0;
    wanted[h] = there && begin < FirstOfTail(position);
  }

  Softmax softmax;
  float sums[kDim / 8][4] = {};
  for (int i = 0; i < kSplit / kTile; ++i) {
    const bool more = i + 1 < kSplit / kTile;
    float scores[kTile / 8][4] = {};
    gpu::CopyWait<1>();
    __syncthreads();
    MultiplyRows(q, keys, scores);
    __syncthreads();
    if (more) Fetch(a, a.kv.keys, sequence, kv_head, begin + (i + 1) * kTile, keys);
    gpu::CopyCommit();
    Weigh<kDim>(
        scores, a.scale, [&](int h, int key) { return begin + i * kTile + key >= lowest[h]; }, softmax, sums);
    gpu::CopyWait<1>();
    __syncthreads();
    AddWeighted(values, scores, sums);
    __syncthreads();
    if (more) Fetch(a, a.kv.values, sequence, kv_head, begin + (i + 1) * kTile, values);
    gpu::CopyCommit();
  }
  gpu::CopyWait<0>();

  const int t = lane % 4;
  for (int h = 0; h < 2; ++h) {
    if (!wanted[h]) continue;
    const int64_t part = PartOf(a, rows[h], heads[h], split);
    if (t == 0) gpu::StoreVector(a.workspace + 2 * part, float2{softmax.maximum[h], softmax.total[h]});
    float* const to = a.workspace + 2 * Parts(a) + part * kDim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      gpu::StoreVector(to + 8 * n + 2 * t, float2{sums[n][2 * h], sums[n][2 * h + 1]});
  }
}

// ---- the tail, and all together

// Of the tail of a row: where its keys are, in logical order.
__device__ inline void FindTail(const TreeAttentionArgs& a, const AttentionRow& row, int first,
                                int32_t* slots, int lane) {
  const int in_pages = row.prefix - first;
  for (int i = lane; i < in_pages; i += 32) slots[i] = SlotOf(a, row.sequence, first + i);
  for (int node = lane; node < kMaxNodes; node += 32) {
    if (!(row.ancestors >> node & 1)) continue;
    slots[in_pages + __popcll(row.ancestors & ((uint64_t{1} << node) - 1))] = a.slots[row.tree + node];
  }
}

__device__ inline float WarpMax(float v) {
  for (int bits = 16; bits > 0; bits /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, bits));
  return v;
}
__device__ inline float WarpSum(float v) {
  for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(~0u, v, bits);
  return v;
}

// One fma chain over the head.
template <int kDim>
__device__ inline float Score(const float* q, const uint16_t* key) {
  float score = 0.0f;
#pragma unroll 2
  for (int d = 0; d < kDim; d += 8) {
    const uint4 k = gpu::LoadVector<uint4>(key + d);
    const uint32_t pairs[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      score = fmaf(q[d + 2 * i], FromBF16(pairs[i] & 0xffff), score);
      score = fmaf(q[d + 2 * i + 1], FromBF16(pairs[i] >> 16), score);
    }
  }
  return score;
}

// One warp to a row and head: lanes go across keys for the scores, across the head for the values.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 8) TailKernel(TreeAttentionArgs a) {
  GPU_SHARED(float[kWarps][kDim], queries);
  GPU_SHARED(int32_t[kWarps][kMaxTail], all_slots);
  GPU_SHARED(float[kWarps][kMaxTail], all_weights);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t r = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y) * kWarps + warp;
  if (head >= a.heads) return;
  const int kv_head = head / (a.heads / a.kv.kv_heads);
  const AttentionRow row = a.rows[r];
  const int first = FirstOfTail(row.position), tail = row.position + 1 - first, splits = first / kSplit;
  const int unseen =
      a.window > 0 && row.position - a.window + 1 > first ? row.position - a.window + 1 - first : 0;
  int32_t* const slots = all_slots[warp];
  float* const weights = all_weights[warp];
  float* const q = queries[warp];

  for (int d = lane; d < kDim; d += 32) q[d] = FromBF16(a.q[(r * a.heads + head) * kDim + d]);
  FindTail(a, row, first, slots, lane);
  __syncwarp();

  float maximum = kMinusInfinity;
  for (int i = unseen + lane; i < tail; i += 32) {
    weights[i] = Score<kDim>(q, a.kv.keys + KvElement(slots[i], kv_head, a.kv.kv_heads, kDim)) * a.scale;
    maximum = fmaxf(maximum, weights[i]);
  }
  maximum = WarpMax(maximum);
  float total = 0.0f;
  for (int i = unseen + lane; i < tail; i += 32) {
    weights[i] = Exp(weights[i] - maximum);
    total += weights[i];
  }
  total = WarpSum(total);
  __syncwarp();

  // The greatest maximum of all parts; each part then counts by exp of its own minus that.
  const float2* const parts = reinterpret_cast<const float2*>(a.workspace) + PartOf(a, r, head, 0);
  float greatest = maximum;
  for (int s = lane; s < splits; s += 32) greatest = fmaxf(greatest, gpu::LoadVector<float2>(parts + s).x);
  greatest = WarpMax(greatest);
  float all = 0.0f;
  for (int s = lane; s < splits; s += 32) {
    const float2 part = gpu::LoadVector<float2>(parts + s);
    all = fmaf(part.y, Exp(part.x - greatest), all);
  }
  const float of_tail = Exp(maximum - greatest);
  all = fmaf(total, of_tail, WarpSum(all));

  // Dimensions lane, lane + 32, ...
  constexpr int kMine = (kDim + 31) / 32;
  float sum[kMine] = {}, own[kMine] = {};
  const float* const sums = a.workspace + 2 * Parts(a) + PartOf(a, r, head, 0) * kDim;
  for (int s = 0; s < splits; ++s) {
    const float weight = Exp(gpu::LoadVector<float2>(parts + s).x - greatest);
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      const int d = lane + 32 * j;
      if (d < kDim) sum[j] = fmaf(sums[int64_t{s} * kDim + d], weight, sum[j]);
    }
  }
  for (int i = unseen; i < tail; ++i) {
    const uint16_t* const value = a.kv.values + KvElement(slots[i], kv_head, a.kv.kv_heads, kDim);
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      const int d = lane + 32 * j;
      if (d < kDim) own[j] = fmaf(weights[i], FromBF16(value[d]), own[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    const int d = lane + 32 * j;
    if (d < kDim) a.out[(r * a.heads + head) * kDim + d] = ToBF16(fmaf(own[j], of_tail, sum[j]) / all);
  }
}

template <int kDim>
void Run(const TreeAttentionArgs& args, Stream stream) {
  const int splits = MaxSplits(args.pages_per_sequence);
  constexpr size_t kShared = 3 * sizeof(SharedTile<kDim>);
  if (splits > 0 && args.tile_count > 0) {
    Check(cudaFuncSetAttribute(SplitKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
          "shared memory for attention");
    gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.tile_count), args.kv.kv_heads, splits),
                 .threads = dim3(kThreads),
                 .shared_bytes = kShared,
                 .stream = stream},
                SplitKernel<kDim>, args);
  }
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.row_count), (args.heads + kWarps - 1) / kWarps),
               .threads = dim3(kThreads),
               .stream = stream},
              TailKernel<kDim>, args);
}

}  // namespace

void TreeAttention(const TreeAttentionArgs& args, Stream stream) {
  if (args.row_count == 0) return;
  WithHeadDim(args.kv.head_dim, [&](auto dim) { Run<dim>(args, stream); });
}

}  // namespace clamor::kernels::cuda
