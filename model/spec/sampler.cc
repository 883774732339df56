#include "model/spec/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/elementwise.h"

namespace clamor {
namespace {

// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

int32_t ArgMax(std::span<const float> values) {
  int32_t best = 0;
  float most = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] > most) {  // never true for NaN; the first of equals stays
      most = values[i];
      best = static_cast<int32_t>(i);
    }
  }
  return best;
}

}  // namespace

absl::Status SamplingOptions::Validate(int32_t vocab_size) const {
  if (!(temperature >= 0 && temperature <= 100)) {
    return absl::InvalidArgumentError(absl::StrCat("temperature is ", temperature, ", must be in [0, 100]"));
  }
  if (top_k < 0) return absl::InvalidArgumentError(absl::StrCat("top_k is ", top_k, ", must be at least 0"));
  if (!(top_p > 0 && top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", top_p, ", must be in (0, 1]"));
  }
  if (!(min_p >= 0 && min_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("min_p is ", min_p, ", must be in [0, 1]"));
  }
  if (!(repetition_penalty >= 0.01f && repetition_penalty <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("repetition_penalty is ", repetition_penalty, ", must be in [0.01, 100]"));
  }
  if (!(presence_penalty >= -2 && presence_penalty <= 2)) {
    return absl::InvalidArgumentError(
        absl::StrCat("presence_penalty is ", presence_penalty, ", must be in [-2, 2]"));
  }
  if (!(frequency_penalty >= -2 && frequency_penalty <= 2)) {
    return absl::InvalidArgumentError(
        absl::StrCat("frequency_penalty is ", frequency_penalty, ", must be in [-2, 2]"));
  }
  if (logit_bias.size() > kMaxBiases) {
    return absl::InvalidArgumentError(
        absl::StrCat("logit_bias holds ", logit_bias.size(), " biases, must be at most ", kMaxBiases));
  }
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0 || token >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias[", token, "] is of no token, ids must be in [0, ", vocab_size, ")"));
    }
    if (!(bias >= -100 && bias <= 100)) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias[", token, "] is ", bias, ", must be in [-100, 100]"));
    }
  }
  if (banned_token_ids.size() > kMaxBanned) {
    return absl::InvalidArgumentError(absl::StrCat("banned_token_ids holds ", banned_token_ids.size(),
                                                   " ids, must be at most ", kMaxBanned));
  }
  return CheckTokenIds("banned_token_ids", banned_token_ids, vocab_size);
}

absl::Status CheckTokenIds(absl::string_view field, std::span<const int32_t> ids, int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, "[", i, "] is ", ids[i], ", must be in [0, ", vocab_size, ")"));
    }
  }
  return absl::OkStatus();
}

float GumbelNoise(uint64_t seed, int64_t position, int32_t token) {
  const uint64_t p = static_cast<uint64_t>(position);
  const auto bits = Philox(
      {static_cast<uint32_t>(token), 0, static_cast<uint32_t>(p), static_cast<uint32_t>(p >> 32)}, seed);
  const float u = (static_cast<float>(bits[0] >> 9) + 0.5f) * 0x1p-23f;  // 23 bits: never 0 or 1
  return -kernels::Log(-kernels::Log(u));
}

int32_t Sampler::Draw(std::span<const float> logits, const SamplingOptions& options, int64_t position) {
  if (options.greedy()) return ArgMax(logits);

  scaled_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const float value = logits[i] / options.temperature;
    scaled_[i] = value == value ? value : -std::numeric_limits<float>::infinity();
  }
  const auto better = [this](int32_t a, int32_t b) {
    return scaled_[a] != scaled_[b] ? scaled_[a] > scaled_[b] : a < b;
  };
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  size_t kept = order_.size();
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < kept) {
    kept = options.top_k;
    std::nth_element(order_.begin(), order_.begin() + (kept - 1), order_.end(), better);
  }
  if (options.top_p < 1 || options.min_p > 0) {
    std::sort(order_.begin(), order_.begin() + kept, better);
    const float most = scaled_[order_[0]];
    // Both filters speak of probabilities among what top-k left; sums run in rank order, in double.
    double total = 0;
    for (size_t i = 0; i < kept; ++i) total += kernels::Exp(scaled_[order_[i]] - most);
    if (options.top_p < 1) {
      double sum = 0;
      size_t i = 0;
      while (i < kept && sum < static_cast<double>(options.top_p) * total)
        sum += kernels::Exp(scaled_[order_[i++]] - most);
      kept = std::max<size_t>(i, 1);
    }
    if (options.min_p > 0) {
      while (kept > 1 && kernels::Exp(scaled_[order_[kept - 1]] - most) < options.min_p) --kept;
    }
  }

  int32_t best = order_[0];
  float most = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < kept; ++i) {
    const int32_t token = order_[i];
    const float value = scaled_[token] + GumbelNoise(options.seed, position, token);
    if (value > most || (value == most && token < best)) {
      most = value;
      best = token;
    }
  }
  return best;
}

}  // namespace clamor
