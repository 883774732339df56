// A checksum against damage and mix-ups; not against someone who looks for collisions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace clamor::retrieval {

inline uint64_t Checksum(std::span<const std::byte> bytes, uint64_t seed = 0) {
  uint64_t sum = seed ^ bytes.size();
  for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, std::min(bytes.size() - i, sizeof(word)));
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    sum ^= sum >> 32;
  }
  return sum;
}

inline uint64_t TokenChecksum(std::span<const uint32_t> tokens) { return Checksum(std::as_bytes(tokens)); }

}  // namespace clamor::retrieval
