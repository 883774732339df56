// `clamor score`: how likely the model finds a text, token by token.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "kernels/top_k.h"
#include "model/kv_cache.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/prompt.h"

namespace clamor::cli {
namespace {

constexpr int32_t kChunk = 64;  // rows of logits held at once: 64 * vocabulary floats

struct Flags {
  ModelOptions model;
  PromptFlags prompt;
};

// log p(ids[i + 1] | ids[0..i]) for every i but the last.
std::vector<double> LogProbabilities(const LoadedModel& loaded, const std::vector<int32_t>& ids,
                                     kernels::ThreadPool& pool) {
  const Transformer& model = *loaded.transformer;
  const auto count = static_cast<int32_t>(ids.size());
  const int32_t vocab = model.config().vocab_size;
  KvCache cache(model.config(), KvCache::PagesFor(count), loaded.kv_format);
  KvLease lease;
  cache.Grow(lease, count);  // the cache was made for it
  Activations scratch;
  Batch batch;
  std::vector<double> logprobs;
  for (int32_t begin = 0; begin + 1 < count; begin += kChunk) {
    const int32_t end = std::min(begin + kChunk, count - 1);
    batch.Clear();
    batch.extra.reserve(static_cast<size_t>(end - begin));
    for (int32_t i = begin; i < end; ++i) {
      batch.tokens.push_back(ids[i]);
      batch.positions.push_back(i);
      batch.slots.push_back(lease.Slot(i));
      batch.extra.push_back(lease.Slot(i));
      batch.attention.push_back({lease.pages().data(), i, &batch.extra.back(), 1});
      batch.logit_rows.push_back(i - begin);
    }
    model.Forward(batch, cache, scratch, pool);
    for (int32_t i = begin; i < end; ++i) {
      const float* logits = scratch.logits.data() + static_cast<size_t>(i - begin) * vocab;
      int32_t best_id;
      float best, log_sum_exp;
      kernels::TopK(logits, vocab, 1, vocab, 1, &best_id, &best, &log_sum_exp, pool);
      logprobs.push_back(static_cast<double>(logits[ids[i + 1]]) - log_sum_exp);
    }
  }
  return logprobs;
}

absl::Status Score(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const Prompt prompt, ReadPrompt(flags.prompt));
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadModelWithProgress(flags.model, /*quiet=*/true));
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodePrompt(model, prompt));
  if (static_cast<int64_t>(ids.size()) > model.transformer->max_positions()) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", ids.size(), " tokens, the context ",
                                                   model.transformer->max_positions()));
  }
  kernels::ThreadPool pool(model.threads);
  const std::vector<double> logprobs = LogProbabilities(model, ids, pool);

  nlohmann::ordered_json values = nlohmann::ordered_json::array({nullptr});
  double sum = 0;
  for (double logprob : logprobs) {
    values.push_back(logprob);
    sum += logprob;
  }
  nlohmann::ordered_json perplexity;  // of one token: none
  if (!logprobs.empty()) perplexity = std::exp(-sum / static_cast<double>(logprobs.size()));
  std::printf(
      "%s\n",
      nlohmann::ordered_json{{"ids", ids}, {"logprobs", values}, {"perplexity", perplexity}}.dump().c_str());
  return absl::OkStatus();
}

}  // namespace

void AddScore(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("score", "Log-probability of each token of a text, as JSON");
  AddModelFlags(*verb, flags->model)->required();
  AddPromptFlags(*verb, flags->prompt, /*with_chat=*/false);
  verb->callback([flags, &run] { run = [flags] { return Score(*flags); }; });
}

}  // namespace clamor::cli
