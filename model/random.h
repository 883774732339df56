// Random numbers that are the same everywhere: 64 bits of state, no hidden seed, cheap to derive anew.
//
// Tested by tests/model/train/random_test.cc.
#pragma once

#include <cstdint>

namespace clamor {

// The next value of a SplitMix64 sequence (Steele et al., OOPSLA 2014).
inline uint64_t NextRandom(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// A number below `n`. By remainder: a value's probability is off by less than 2^-64, which no draw of ours
// can show. REQUIRES: n > 0.
inline uint64_t RandomBelow(uint64_t& state, uint64_t n) { return NextRandom(state) % n; }

// A state to draw from that shares nothing visible with those of other triples, such as (seed, epoch,
// sample). Two triples that differ only in `c` never get the same state.
inline uint64_t MixSeed(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t state = a;
  state = NextRandom(state) ^ b;
  state = NextRandom(state) ^ c;
  return NextRandom(state);
}

}  // namespace clamor
