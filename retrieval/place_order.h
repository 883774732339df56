// The order of places in a text: by the tokens before them, read backwards, then newest first (segment.h).
//
// REQUIRES of both: every position has a token of its document before it, and each document follows an end
// mark.
#pragma once

#include <cstdint>

#include "retrieval/segment.h"
#include "retrieval/token_text.h"

namespace clamor::retrieval {

// A position with the codes of the two tokens before it, which decide most comparisons without a look at the
// text.
struct Place {
  uint64_t key;
  uint32_t position;
};

inline Place MakePlace(const TokenText& text, uint32_t position) {
  return {uint64_t{text.Code(position - 1)} << 32 | text.Code(position - 2), position};
}

struct PlaceLess {
  const TokenText& text;

  bool operator()(const Place& a, const Place& b) const {
    if (a.key != b.key) return a.key < b.key;
    bool ended = static_cast<uint32_t>(a.key) == text.end_code();
    for (uint32_t i = 3; !ended && i <= kMaxMatch; ++i) {
      const uint32_t x = text.Code(a.position - i), y = text.Code(b.position - i);
      if (x != y) return x < y;
      ended = x == text.end_code();
    }
    return a.position > b.position;
  }
};

}  // namespace clamor::retrieval
