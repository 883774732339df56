#include "model/spec/answer_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace clamor {
namespace {

// Length of the longest end of `text` that `stop` begins with, `stop` itself excepted.
size_t HeldBy(std::string_view text, std::string_view stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

AnswerText::AnswerText(const Tokenizer* tokenizer, std::vector<std::string> stops, int64_t min_tokens)
    : stops_(std::move(stops)), min_tokens_(min_tokens) {
  if (tokenizer != nullptr) decoder_.emplace(tokenizer, /*skip_specials=*/true);
}

bool AnswerText::Add(int32_t id, std::string& text) {
  if (!decoder_) return false;
  ++tokens_;
  const std::string piece = decoder_->Add(id);
  newest_bytes_ = piece.size();
  return Grow(piece, text);
}

bool AnswerText::Grow(const std::string& piece, std::string& text) {
  const size_t before = held_.size();
  held_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    if (tokens_ <= min_tokens_) break;
    // Only what ends in the new piece: what was complete before has had its chance.
    if (const size_t at = held_.find(stop, before - std::min(before, stop.size() - 1)); at < first) {
      first = at;
      matched_stop_ = stop;
    }
  }
  if (first != std::string::npos) {
    text.append(held_, 0, first);
    held_.clear();
    return true;
  }
  size_t keep = 0;
  for (const std::string& stop : stops_) keep = std::max(keep, HeldBy(held_, stop));
  text.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void AnswerText::Finish(std::string& text) {
  if (!decoder_ || !matched_stop_.empty()) return;
  // The decoder's last bytes may complete a stop string; the text still ends before it.
  if (!Grow(decoder_->Finish(), text)) text += std::exchange(held_, {});
}

}  // namespace clamor
