// Sorts the places of a text: the slow part of building a segment.
//
// DESCRIPTION. O(n log n) whatever the text: a document that repeats one token costs no more than another.
// Memory: 16 bytes per place, 4 per token of the text, while it runs.
//
// IMPLEMENTATION. Prefix doubling (Manber and Myers 1993, with the groups of Larsson and Sadakane 1999), read
// backwards. First places are sorted by as many tokens before them as make a key (place_order.h). Then, round
// by round, each group of places with equal tokens so far is split by the rank of the places that many tokens
// earlier, which doubles how many tell them apart, up to kMaxMatch; what is equal then stays as it was put:
// newest first. Ranks change between rounds only, so that the order ends exactly there.
//
// Tested by tests/retrieval/place_sort_test.cc, against std::sort.
#pragma once

#include <cstdint>
#include <span>

#include "retrieval/token_text.h"

namespace clamor::retrieval {

// Puts `places`, positions in `text` in any order, into place order (place_order.h). REQUIRES: text.size() is
// at most 2^30, and every position of a place's document that has a token before it is in `places`.
void SortPlaces(const TokenText& text, std::span<uint32_t> places);

}  // namespace clamor::retrieval
