#include "kernels/cuda/edit_logits.h"
#include "kernels/cuda/gpu.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__device__ inline float Penalized(const SequenceEdits& e, float logit, int32_t times) {
  if (e.repetition != 1.0f) logit = logit > 0.0f ? logit / e.repetition : logit * e.repetition;
  if (times == 0) return logit;
  return logit - (e.presence + e.frequency * static_cast<float>(times));
}

__device__ inline int CountIn(const int32_t* path, int length, int32_t token) {
  int times = 0;
  for (int i = 0; i < length; ++i) times += path[i] == token;
  return times;
}

__device__ inline bool IsCounted(const TokenCount* counts, int n, int32_t token) {
  int low = 0, high = n;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (counts[middle].token < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < n && counts[low].token == token;
}

// One block to a row. Within a list no token comes twice, so that no two threads edit one logit.
__global__ void __launch_bounds__(kThreads) EditLogitsKernel(EditLogitsArgs a) {
  GPU_SHARED(int32_t[kMaxNodes], path);
  const int thread = static_cast<int>(threadIdx.x);
  const AttentionRow row = a.step_rows[a.which[blockIdx.x]];
  const SequenceEdits e = a.sequences[row.sequence];
  float* const logits = a.logits + int64_t{blockIdx.x} * a.stride;
  const uint64_t guesses = row.ancestors & ~uint64_t{1};
  const int length = __popcll(guesses);
  if (thread < kMaxNodes && (guesses >> thread & 1)) {
    path[__popcll(guesses & ((uint64_t{1} << thread) - 1))] = a.tokens[row.tree + thread];
  }
  __syncthreads();

  const TokenCount* const counts = a.counts + e.first_count;
  for (int i = thread; i < e.counts; i += kThreads) {
    const TokenCount count = counts[i];
    logits[count.token] = Penalized(e, logits[count.token], count.times + CountIn(path, length, count.token));
  }
  if (thread < length) {
    const int32_t token = path[thread];
    const bool first = CountIn(path, thread, token) == 0;
    if (first && !IsCounted(counts, e.counts, token))
      logits[token] = Penalized(e, logits[token], CountIn(path, length, token));
  }
  __syncthreads();
  for (int i = thread; i < e.biases; i += kThreads) {
    const LogitBias b = a.biases[e.first_bias + i];
    logits[b.token] = b.bias == -INFINITY ? b.bias : logits[b.token] + b.bias;
  }
  __syncthreads();
  if (length >= e.tokens_before_end) return;
  for (int i = thread; i < e.ends; i += kThreads) logits[a.ends[e.first_end + i]] = -INFINITY;
}

}  // namespace

void EditLogits(const EditLogitsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.rows)), .threads = dim3(kThreads), .stream = stream},
              EditLogitsKernel, args);
}

}  // namespace clamor::kernels::cuda
