// How much a tenant has, as quotas see it.
#pragma once

#include <cstdint>
#include <string_view>

namespace clamor::retrieval {

// Sums; differences wrap around and come back when they are added.
struct TenantCount {
  uint64_t documents = 0, tokens = 0;
  // 4 for each token of a document, 8 for its places in segments, and about what its keys take. The same on
  // every machine and after every restart, unlike what files happen to take.
  uint64_t bytes = 0;

  bool operator==(const TenantCount&) const = default;
  TenantCount& operator+=(const TenantCount& more) {
    documents += more.documents;
    tokens += more.tokens;
    bytes += more.bytes;
    return *this;
  }
  TenantCount& operator-=(const TenantCount& less) {
    documents -= less.documents;
    tokens -= less.tokens;
    bytes -= less.bytes;
    return *this;
  }
};

// Of one document.
inline TenantCount CountOf(std::string_view prefix, std::string_view id, uint32_t tokens) {
  return {
      .documents = 1, .tokens = tokens, .bytes = uint64_t{tokens} * 12 + 2 * prefix.size() + id.size() + 64};
}

}  // namespace clamor::retrieval
