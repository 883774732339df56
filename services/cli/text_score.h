// How likely a model finds a text.
//
// Tested by tests/services/cli/cli_test.py and eval_test.py.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kv_layer.h"
#include "kernels/thread_pool.h"
#include "model/transformer.h"

namespace clamor::cli {

// Of every token but the first.
struct TextScore {
  std::vector<double> logprobs;  // log p(ids[i + 1] | ids[0..i])
  std::vector<int32_t> best;     // the most likely token there; -1 where no logit is a number
};

// REQUIRES: at least one id, at most model.max_positions().
TextScore ScoreText(const Transformer& model, std::span<const int32_t> ids, kernels::ThreadPool& pool,
                    kernels::KvFormat kv = kernels::KvFormat::kF32);

}  // namespace clamor::cli
