// Tokens drawn from a text, as MSN training corrupts its inputs: they fill places that no source filled.
#pragma once

#include <cstdint>
#include <span>

#include "model/random.h"

namespace clamor {

// A token of `text`, each place equally likely. REQUIRES: text is not empty.
inline int32_t NoiseToken(std::span<const int32_t> text, uint64_t& state) {
  return text[RandomBelow(state, text.size())];
}

}  // namespace clamor
