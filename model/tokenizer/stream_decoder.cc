#include <utility>

#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/tokenizer_rep.h"

namespace clamor {

// The decoder's own chain of stages: Decode runs the same one over the whole.
struct StreamDecoder::State {
  const Tokenizer* tokenizer;
  bool skip_specials;
  std::string out;  // what the chain let go of and no call has returned yet
  std::unique_ptr<Decoder::Stage> chain;
};

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, bool skip_specials)
    : state_(new State{tokenizer, skip_specials, "", nullptr}) {
  state_->chain = tokenizer->rep_->decoder.NewChain(&state_->out);
}

StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::Add(int32_t id) {
  const std::string* token = state_->tokenizer->rep_->TokenText(id, state_->skip_specials);
  if (token == nullptr) return "";
  state_->chain->Push(*token, /*ends_token=*/true);
  return std::exchange(state_->out, "");
}

std::string StreamDecoder::Finish() {
  state_->chain->Finish();
  return std::exchange(state_->out, "");
}

}  // namespace clamor
