// Where the parts of a segment's block lie: for segment*.cc alone.
#pragma once

#include <cstdint>

#include "retrieval/segment.h"
#include "retrieval/segment_storage.h"
#include "retrieval/token_text.h"

namespace clamor::retrieval::layout {

inline constexpr uint32_t kMagic = 0x534d4c43;  // "CLMS"
inline constexpr uint32_t kVersion = 5;

struct Header {
  uint32_t magic, version;
  uint32_t prefix, documents, text, order, dictionary;  // sizes: bytes, then entries
  uint32_t reserved;                                    // 0
  uint64_t table_checksum, body_checksum;
};

// Where the parts of a block lie, in bytes. REQUIRES: the dictionary has at least 2 entries.
struct Layout {
  explicit Layout(const Header& header)
      : prefix(sizeof(Header)),
        documents(prefix + (uint64_t{header.prefix} + 7) / 8 * 8),
        dictionary(documents + uint64_t{header.documents} * sizeof(Segment::Document)),
        signs(dictionary + (uint64_t{header.dictionary} + 1) / 2 * 2 * sizeof(uint32_t)),
        text(signs + SignCount(header.order) * sizeof(uint64_t)),
        order(text + TokenText::Bytes(header.dictionary, header.text)),
        peaks(order + uint64_t{header.order} * sizeof(uint32_t)),
        end(peaks + SpanCount(header.order) * sizeof(uint32_t)) {}
  static uint64_t SignCount(uint64_t order) { return (order + Segment::kSignSpan - 1) / Segment::kSignSpan; }
  static uint64_t SpanCount(uint64_t order) { return (order + Segment::kSpan - 1) / Segment::kSpan; }

  uint64_t prefix, documents, dictionary, signs, text, order, peaks, end;
};

inline constexpr uint64_t kStride = 1 << 20;  // bytes between two looks at how much is in memory

inline Header& HeaderOf(const SegmentStorage& storage) { return *reinterpret_cast<Header*>(storage.data()); }

}  // namespace clamor::retrieval::layout
