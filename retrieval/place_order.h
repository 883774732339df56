// The order of places in a text: by the tokens before them, read backwards, then newest first (segment.h).
//
// REQUIRES of both: every position has a token of its document before it, and each document follows an end
// mark.
#pragma once

#include <algorithm>
#include <cstdint>

#include "retrieval/segment.h"
#include "retrieval/token_text.h"

namespace clamor::retrieval {

// A position, and what decides most comparisons without a look at the text: the codes of the text.per_key()
// tokens before it, 0 behind an end mark.
struct Place {
  uint64_t key;
  uint32_t position;
  uint32_t before;  // tokens of its document
};

inline Place MakePlace(const TokenText& text, uint32_t position, uint32_t before) {
  const uint32_t all = text.per_key(), some = std::min(all, before + 1);
  return {text.Key(position, some) << (all - some) * text.width(), position, before};
}

// The same of a place that is not known to be far into its document: `before` is at most text.per_key().
inline Place MakePlace(const TokenText& text, uint32_t position) {
  uint32_t before = 0;
  while (before < text.per_key() && text.Code(position - 1 - before) != text.end_code()) ++before;
  return MakePlace(text, position, before);
}

struct PlaceLess {
  const TokenText& text;

  bool operator()(const Place& a, const Place& b) const {
    if (a.key != b.key) return a.key < b.key;
    // Equal so far, so that neither is at its end mark, or both. As many tokens as one has and the mark tell.
    const uint32_t limit = std::min({a.before + 1, b.before + 1, kMaxMatch});
    for (uint32_t known = text.per_key(); known < limit; known += text.per_key()) {
      const uint32_t some = std::min(text.per_key(), limit - known);
      const uint64_t x = text.Key(a.position - known, some), y = text.Key(b.position - known, some);
      if (x != y) return x < y;
    }
    return a.position > b.position;
  }
};

}  // namespace clamor::retrieval
