// The order of places in a text: by the tokens before them, read backwards, then newest first (segment.h).
//
// REQUIRES of both: every position has a token of its document before it, and each document follows an end
// mark.
#pragma once

#include <cstdint>
#include <span>

#include "retrieval/key_codec.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {

inline constexpr uint32_t kEndMark = ~0u;  // greater than every token

// A position with the two tokens before it, which decide most comparisons without a look at the text.
struct Place {
  uint64_t key;
  uint32_t position;
};

inline Place MakePlace(std::span<const uint32_t> text, uint32_t position) {
  return {uint64_t{text[position - 1]} << 32 | text[position - 2], position};
}

struct PlaceLess {
  std::span<const uint32_t> text;

  bool operator()(const Place& a, const Place& b) const {
    if (a.key != b.key) return a.key < b.key;
    bool ended = static_cast<uint32_t>(a.key) == kEndMark;
    for (uint32_t i = 3; !ended && i <= kMaxMatch; ++i) {
      const uint32_t x = text[a.position - i], y = text[b.position - i];
      if (x != y) return x < y;
      ended = x == kEndMark;
    }
    return a.position > b.position;
  }
};

}  // namespace clamor::retrieval
