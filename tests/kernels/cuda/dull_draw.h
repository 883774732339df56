// Drawing by the Gumbel trick, as kernels/cuda/sample.h defines it.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/cuda/sample.h"
#include "kernels/elementwise.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels::cuda {

// Philox 4x32-10, whole.
inline std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return c;
}

inline int32_t DullDraw(const float* logits, int32_t n, const Draw& draw) {
  int32_t best = 0;
  float most = -reference::kInfinity;
  for (int32_t i = 0; i < n; ++i) {
    float value = logits[i];
    if (draw.temperature > 0) {
      const auto bits = Philox({static_cast<uint32_t>(i), 0, static_cast<uint32_t>(draw.position),
                                static_cast<uint32_t>(static_cast<uint64_t>(draw.position) >> 32)},
                               static_cast<uint32_t>(draw.seed), static_cast<uint32_t>(draw.seed >> 32));
      const float u = (static_cast<float>(bits[0] >> 9) + 0.5f) * 0x1p-23f;
      value = value / draw.temperature + -Log(-Log(u));
    }
    if (value > most) {
      most = value;
      best = i;
    }
  }
  return best;
}

}  // namespace clamor::kernels::cuda
