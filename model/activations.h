// Scratch of one forward pass, grown to the largest batch seen and then reused.
#pragma once

#include <cstdint>
#include <vector>

namespace clamor {

// Grows `v` to `count` floats, never shrinks: a steady step allocates nothing.
inline float* Room(std::vector<float>& v, int64_t count) {
  if (static_cast<int64_t>(v.size()) < count) v.resize(count);
  return v.data();
}

struct Activations {
  std::vector<float> hidden;     // [rows, hidden] residual stream
  std::vector<float> normed;     // [rows, hidden]
  std::vector<float> qkv;        // [rows, q_size + 2 * kv_size]
  std::vector<float> attention;  // [rows, q_size]
  std::vector<float> projected;  // [rows, hidden] output of o_proj and down_proj
  std::vector<float> gate_up;    // [rows, 2 * intermediate]
  std::vector<float> gated;      // [rows, intermediate]
  std::vector<float> selected;   // [logit rows, hidden]
  std::vector<float> logits;     // [logit rows, vocab]
};

}  // namespace clamor
