#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/engine/engine_bench.h"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "model/kv_cache.h"

namespace clamor {
namespace {

constexpr int32_t kChunk = 256;  // tokens of the text read at once

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Bytes of this process that are in memory and belong to no file.
int64_t AnonymousBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kib = 0;
  while (status >> word) {
    if (word == "RssAnon:") status >> kib;
  }
  return kib * 1024;
}

// A text of `context` tokens in the cache, and steps after it.
class Text {
 public:
  Text(const LoadedModel& model, int32_t context, int32_t most_rows)
      : model_(*model.transformer),
        pool_(model.threads),
        cache_(model_.config(), KvCache::PagesFor(context + most_rows), model.kv_format),
        context_(context) {
    cache_.Grow(pages_, context + most_rows);  // the cache was made for it
    for (int32_t begin = 0; begin < context; begin += kChunk) {
      Forward(begin, std::min(kChunk, context - begin), /*logits=*/false);
    }
  }

  // Seconds of a step that verifies `rows` nodes.
  double Step(int32_t rows) {
    const absl::Time begin = absl::Now();
    Forward(context_, rows, /*logits=*/true);
    return absl::ToDoubleSeconds(absl::Now() - begin);
  }

 private:
  void Forward(int32_t begin, int32_t rows, bool logits) {
    batch_.Clear();
    for (int32_t i = 0; i < rows; ++i) {
      batch_.tokens.push_back(static_cast<int32_t>(random_() % model_.config().vocab_size));
      batch_.positions.push_back(begin + i);
      batch_.slots.push_back(pages_.Slot(begin + i));
      batch_.attention.push_back({.pages = pages_.pages().data(), .prefix = begin + i + 1});
      if (logits) batch_.logit_rows.push_back(i);
    }
    model_.Forward(batch_, cache_, scratch_, pool_);
  }

  const Transformer& model_;
  kernels::ThreadPool pool_;
  KvCache cache_;
  KvLease pages_;
  const int32_t context_;
  std::mt19937 random_{1};
  Batch batch_;
  Activations scratch_;
};

}  // namespace

absl::StatusOr<nlohmann::ordered_json> Steps(const BenchFlags& flags, const LoadedModel& model,
                                             const Prompts&) {
  const int32_t most_rows = *std::max_element(flags.rows.begin(), flags.rows.end());
  const double weights = static_cast<double>(model.transformer->weights().bytes());
  std::printf("%s weights, %.1f MiB; %s, %d threads, medians of %d rounds\n\n", model.stored_as.c_str(),
              weights / (1 << 20), std::string(kernels::CpuTargetName(kernels::ActiveCpuTarget())).c_str(),
              model.threads, flags.rounds);
  std::printf("%8s %5s %10s %9s %12s\n", "context", "rows", "ms", "c(rows)", "weights GB/s");
  nlohmann::ordered_json steps = nlohmann::ordered_json::array();
  nlohmann::ordered_json caches = nlohmann::ordered_json::array();
  for (const int32_t context : flags.contexts) {
    if (context + most_rows > model.transformer->max_positions()) {
      return absl::InvalidArgumentError(absl::StrCat("--contexts: ", context, " and ", most_rows,
                                                     " rows exceed the model's context of ",
                                                     model.transformer->max_positions()));
    }
    const int64_t before = AnonymousBytes();
    Text text(model, context, most_rows);
    const int64_t predicted = KvCache::PagesFor(context + most_rows) *
                              KvCache::BytesPerPage(model.transformer->config(), model.kv_format);
    caches.push_back({{"context", context},
                      {"kv", std::string(kernels::KvFormatName(model.kv_format))},
                      {"predicted_bytes", predicted},
                      {"grown_bytes", AnonymousBytes() - before}});
    std::vector<std::vector<double>> seconds(flags.rows.size());
    for (int round = -1; round < flags.rounds; ++round) {  // the first warms up
      for (size_t i = 0; i < seconds.size(); ++i) {
        const double took = text.Step(flags.rows[i]);
        if (round >= 0) seconds[i].push_back(took);
      }
    }
    for (size_t i = 0; i < seconds.size(); ++i) {
      const double median = Median(seconds[i]), ratio = median / Median(seconds[0]);
      std::printf("%8d %5d %10.2f %9.2f %12.1f\n", context, flags.rows[i], 1e3 * median, ratio,
                  weights / median * 1e-9);
      steps.push_back({{"context", context}, {"rows", flags.rows[i]}, {"seconds", median}, {"c", ratio}});
    }
  }
  std::printf("\n%8s %5s %14s %24s\n", "context", "kv", "predicted MiB", "grown MiB (and scratch)");
  for (const auto& cache : caches) {
    std::printf("%8d %5s %14.1f %24.1f\n", cache["context"].get<int32_t>(),
                cache["kv"].get<std::string>().c_str(), cache["predicted_bytes"].get<double>() / (1 << 20),
                cache["grown_bytes"].get<double>() / (1 << 20));
  }
  return nlohmann::ordered_json{{"weights", model.stored_as},
                                {"threads", model.threads},
                                {"weight_bytes", weights},
                                {"steps", steps},
                                {"caches", caches}};
}

}  // namespace clamor
