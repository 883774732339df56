#include "services/cli/text_score.h"

#include <algorithm>

#include "kernels/top_k.h"
#include "model/kv_cache.h"

namespace clamor::cli {
namespace {

constexpr int32_t kChunk = 64;  // rows of logits held at once: 64 * vocabulary floats

}  // namespace

TextScore ScoreText(const Transformer& model, std::span<const int32_t> ids, kernels::ThreadPool& pool,
                    kernels::KvFormat kv) {
  const auto count = static_cast<int32_t>(ids.size());
  const int32_t vocab = model.config().vocab_size;
  KvCache cache(model.config(), KvCache::PagesFor(count), kv);
  KvLease lease;
  cache.Grow(lease, count);  // the cache was made for it
  Activations scratch;
  Batch batch;
  TextScore score;
  std::vector<float> best(kChunk), log_sum_exp(kChunk);
  for (int32_t begin = 0; begin + 1 < count; begin += kChunk) {
    const int32_t rows = std::min(kChunk, count - 1 - begin);
    batch.Clear();
    batch.extra.reserve(static_cast<size_t>(rows));
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t i = begin + r;
      batch.tokens.push_back(ids[i]);
      batch.positions.push_back(i);
      batch.slots.push_back(lease.Slot(i));
      batch.extra.push_back(lease.Slot(i));
      batch.attention.push_back({lease.pages().data(), i, &batch.extra.back(), 1});
      batch.logit_rows.push_back(r);
    }
    model.Forward(batch, cache, scratch, pool);
    score.best.resize(begin + rows);
    kernels::TopK(scratch.logits.data(), vocab, rows, vocab, 1, score.best.data() + begin, best.data(),
                  log_sum_exp.data(), pool);
    for (int32_t r = 0; r < rows; ++r) {
      const float* logits = scratch.logits.data() + static_cast<size_t>(r) * vocab;
      score.logprobs.push_back(static_cast<double>(logits[ids[begin + r + 1]]) - log_sum_exp[r]);
    }
  }
  return score;
}

}  // namespace clamor::cli
