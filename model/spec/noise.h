// Tokens drawn from a text, as MSN training corrupts its inputs: they fill places that no source filled.
#pragma once

#include <cstdint>
#include <span>

namespace clamor {

// The next value of a SplitMix64 sequence (Steele et al., OOPSLA 2014).
inline uint64_t NextRandom(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// A token of `text`, each place equally likely. REQUIRES: text is not empty.
inline int32_t NoiseToken(std::span<const int32_t> text, uint64_t& state) {
  return text[NextRandom(state) % text.size()];
}

}  // namespace clamor
