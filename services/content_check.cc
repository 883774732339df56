#include "services/content_check.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace clamor {
namespace {

uint64_t Bits(float number) { return std::bit_cast<uint32_t>(number); }
uint64_t Bits(double number) { return std::bit_cast<uint64_t>(number); }

}  // namespace

uint64_t ContentCheck::Add(const v1::WorkerServiceStreamGenerateResponse& event) {
  Mix({static_cast<uint64_t>(event.event_case())});
  if (event.has_started()) Mix(event.started());
  if (event.has_delta()) Mix(event.delta());
  if (event.has_finished()) Mix(event.finished());
  return sum_;
}

void ContentCheck::Mix(const v1::Started& started) {
  Mix(started.request_id());
  Mix(started.model());
  Mix(started.model_revision());
  Mix({started.seed(), started.prompt_tokens(), started.cached_tokens(), started.choice(),
       started.max_tokens(), started.resumable()});
}

void ContentCheck::Mix(const v1::Delta& delta) {
  Mix({delta.first_token_index(), delta.first_text_byte(), delta.choice()});
  Mix(delta.text());
  Mix(delta.token_ids());
  Mix(delta.sources());
  for (const v1::TokenLogprobs& logprobs : delta.logprobs()) {
    Mix({Bits(logprobs.logprob()), static_cast<uint64_t>(logprobs.top_size())});
    for (const v1::TokenLogprob& top : logprobs.top()) Mix({top.token_id(), Bits(top.logprob())});
  }
  for (const v1::TracedTree& tree : delta.trees()) {
    Mix({tree.first_token_index()});
    Mix(tree.token_ids());
    Mix(tree.parents());
    Mix(tree.sources());
    Mix(tree.accepted());
  }
  // What came later than the checksum shows only where it is set: sums of older workers hold.
  if (delta.text_bytes_size() > 0) Mix(delta.text_bytes());
}

void ContentCheck::Mix(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  const v1::Timings& timings = finished.timings();
  const v1::SpeculationStats& speculation = finished.speculation();
  const v1::AcceptedBySource& accepted = speculation.accepted();
  Mix(finished.matched_stop());
  Mix({static_cast<uint64_t>(finished.reason()), finished.choice(), finished.session_version()});
  Mix({usage.prompt_tokens(), usage.completion_tokens(), usage.cached_tokens()});
  Mix({Bits(timings.queue_seconds()), Bits(timings.prefill_seconds()), Bits(timings.decode_seconds())});
  Mix({speculation.forwards(), speculation.draft_nodes()});
  Mix({accepted.jacobi(), accepted.context(), accepted.store(), accepted.adjacency(), accepted.recycled(),
       accepted.noise()});
}

// Each step can be undone, so that two words that differ leave sums that differ.
void ContentCheck::Mix(std::initializer_list<uint64_t> words) {
  for (const uint64_t word : words) {
    sum_ = (sum_ ^ word) * 0x9e3779b97f4a7c15;
    sum_ ^= sum_ >> 32;
  }
}

void ContentCheck::Mix(const std::string& bytes) {
  Mix({bytes.size()});
  for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, std::min(bytes.size() - i, sizeof(word)));
    Mix({word});
  }
}

}  // namespace clamor
