#include "services/content_check.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace clamor {

uint64_t ContentCheck::Add(const v1::WorkerServiceStreamGenerateResponse& event) {
  Mix(static_cast<uint64_t>(event.event_case()));
  if (event.has_started()) {
    const v1::Started& started = event.started();
    Mix(started.request_id());
    Mix(started.seed());
    Mix(started.model());
    Mix(started.model_revision());
    for (const uint64_t tokens : {started.prompt_tokens(), started.cached_tokens(), started.max_tokens()})
      Mix(tokens);
  } else if (event.has_delta()) {
    Mix(event.delta());
  } else if (event.has_finished()) {
    const v1::Finished& finished = event.finished();
    const v1::Usage& usage = finished.usage();
    Mix(static_cast<uint64_t>(finished.reason()));
    Mix(finished.matched_stop());
    for (const uint64_t tokens : {usage.prompt_tokens(), usage.completion_tokens(), usage.cached_tokens()})
      Mix(tokens);
  }
  return sum_;
}

void ContentCheck::Mix(const v1::Delta& delta) {
  Mix(delta.first_token_index());
  Mix(delta.first_text_byte());
  Mix(static_cast<uint64_t>(delta.token_ids_size()));
  for (const uint32_t id : delta.token_ids()) Mix(uint64_t{id});
  Mix(delta.text());
  for (const int source : delta.sources()) Mix(static_cast<uint64_t>(source));
  for (const v1::TokenLogprobs& logprobs : delta.logprobs()) {
    Mix(logprobs.logprob());
    for (const v1::TokenLogprob& top : logprobs.top()) {
      Mix(uint64_t{top.token_id()});
      Mix(top.logprob());
    }
  }
}

// Each step can be undone, so that two words that differ leave sums that differ.
void ContentCheck::Mix(uint64_t word) {
  sum_ = (sum_ ^ word) * 0x9e3779b97f4a7c15;
  sum_ ^= sum_ >> 32;
}

void ContentCheck::Mix(const std::string& bytes) {
  Mix(uint64_t{bytes.size()});
  for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, std::min(bytes.size() - i, sizeof(word)));
    Mix(word);
  }
}

void ContentCheck::Mix(float number) { Mix(uint64_t{std::bit_cast<uint32_t>(number)}); }

}  // namespace clamor
