// A TokenText with memory of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "retrieval/token_text.h"

namespace clamor::retrieval {

class PackedTokens {
 public:
  // `tokens` may have end marks.
  explicit PackedTokens(std::span<const uint32_t> tokens) : dictionary_(tokens.begin(), tokens.end()) {
    dictionary_.push_back(0);  // at least two entries
    dictionary_.push_back(kEndMark);
    std::ranges::sort(dictionary_);
    dictionary_.erase(std::ranges::unique(dictionary_).begin(), dictionary_.end());
    bytes_.resize(TokenText::Bytes(dictionary_.size(), tokens.size()));
    text_ = TokenText(dictionary_, bytes_, static_cast<uint32_t>(tokens.size()));
    for (uint32_t i = 0; i < tokens.size(); ++i) {
      const auto entry = std::ranges::lower_bound(dictionary_, tokens[i]);
      text_.Set(i, static_cast<uint32_t>(entry - dictionary_.begin()));
    }
  }
  PackedTokens(const PackedTokens&) = delete;

  const TokenText& text() const { return text_; }
  std::span<const uint32_t> dictionary() const { return dictionary_; }

 private:
  std::vector<uint32_t> dictionary_;
  std::vector<std::byte> bytes_;
  TokenText text_;
};

}  // namespace clamor::retrieval
