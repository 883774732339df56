// Makes the checksums of a segment file fit its content, whatever that is: what a hostile file would have.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "retrieval/checksum.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {

inline void SealSegmentFile(std::string& bytes) {
  constexpr size_t kHeader = 48, kTableSum = 32, kBodySum = 40;
  if (bytes.size() < kHeader) return;
  auto field = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return uint64_t{value};
  };
  auto put = [&](size_t at, uint64_t sum) { std::memcpy(bytes.data() + at, &sum, sizeof(sum)); };
  auto part = [&](uint64_t begin, uint64_t end) {
    const uint64_t size = bytes.size();
    return std::as_bytes(std::span(bytes))
        .subspan(std::min(begin, size), std::min(end, size) - std::min(begin, size));
  };
  const uint64_t prefix = field(8), documents = field(12), order = field(20), dictionary = field(24);
  const uint64_t text = kHeader + (prefix + 7) / 8 * 8 + documents * 24 + (dictionary + 1) / 2 * 8 +
                        (order + Segment::kSignSpan - 1) / Segment::kSignSpan * 8;
  uint64_t sum = 0;
  for (uint64_t at = text; at < bytes.size(); at += 1 << 20) sum = Checksum(part(at, at + (1 << 20)), sum);
  put(kBodySum, sum);
  put(kTableSum, 0);
  put(kTableSum, Checksum(part(kHeader, text), Checksum(part(0, kHeader))));
}

}  // namespace clamor::retrieval
