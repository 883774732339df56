#include "kernels/cuda/accept.h"
#include "kernels/cuda/gpu.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// The first child of `node` with the token, or -1. Lanes look at different rows.
__device__ inline int FindChild(const AcceptArgs& a, const StepTree& tree, int node, int32_t token,
                                int lane) {
  for (int begin = 0; begin < tree.nodes; begin += 32) {
    const int i = begin + lane;
    const bool is = i < tree.nodes && a.parents[tree.first + i] == node && a.tokens[tree.first + i] == token;
    const unsigned found = __ballot_sync(~0u, is);
    if (found != 0) return begin + __ffs(static_cast<int>(found)) - 1;
  }
  return -1;
}

// One warp to a tree.
__global__ void __launch_bounds__(32) AcceptKernel(AcceptArgs a) {
  const int lane = static_cast<int>(threadIdx.x);
  const StepTree tree = a.trees[blockIdx.x];
  Accepted& accepted = a.accepted[blockIdx.x];
  int count = 0;
  int32_t next = -1;
  for (int node = tree.nodes > 0 ? 0 : -1; node >= 0; node = FindChild(a, tree, node, next, lane)) {
    if (lane == 0) accepted.nodes[count] = node;
    ++count;
    next = a.drawn[tree.first + node];
  }
  if (lane == 0) {
    accepted.count = count;
    accepted.next = next;
  }
}

// One block to a tree, key head and layer. All is read before anything is written: the places may overlap.
__global__ void __launch_bounds__(kThreads) CommitKvKernel(CommitKvArgs a) {
  GPU_DYNAMIC_SHARED(uint4, staged);  // [count][keys, values][chunks]
  const StepTree tree = a.trees[blockIdx.x];
  const Accepted& accepted = a.accepted[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), chunks = a.head_dim / 8;
  const KvPages layer = a.layers[blockIdx.z];
  const int all = accepted.count * 2 * chunks;

  for (int i = static_cast<int>(threadIdx.x); i < all; i += kThreads) {
    const int node = i / (2 * chunks), part = i / chunks % 2, chunk = i % chunks;
    const uint16_t* const from = part == 0 ? layer.keys : layer.values;
    const int slot = a.slots[tree.first + accepted.nodes[node]];
    gpu::StoreVector(
        staged + i, gpu::LoadVector<uint4>(from + KvElement(slot, head, a.kv_heads, a.head_dim) + 8 * chunk));
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < all; i += kThreads) {
    const int position = tree.prefix + i / (2 * chunks), part = i / chunks % 2, chunk = i % chunks;
    uint16_t* const to = part == 0 ? layer.keys : layer.values;
    const int page = a.page_table[int64_t{tree.sequence} * a.pages_per_sequence + position / kPageTokens];
    const int slot = page * kPageTokens + position % kPageTokens;
    gpu::StoreVector(to + KvElement(slot, head, a.kv_heads, a.head_dim) + 8 * chunk,
                     gpu::LoadVector<uint4>(staged + i));
  }
}

}  // namespace

void Accept(const AcceptArgs& args, Stream stream) {
  if (args.tree_count == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.tree_count)), .threads = dim3(32), .stream = stream},
              AcceptKernel, args);
}

void CommitKv(const CommitKvArgs& args, Stream stream) {
  if (args.tree_count == 0) return;
  const size_t shared = size_t{2} * kMaxNodes * args.head_dim * sizeof(uint16_t);
  Check(cudaFuncSetAttribute(CommitKvKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared)),
        "shared memory for moving keys and values");
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.tree_count), args.kv_heads, args.layer_count),
               .threads = dim3(kThreads),
               .shared_bytes = shared,
               .stream = stream},
              CommitKvKernel, args);
}

}  // namespace clamor::kernels::cuda
