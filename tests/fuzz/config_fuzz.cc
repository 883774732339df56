// config.json and generation_config.json, with a NUL between them: refused, or a model whose sizes can be
// computed with.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "absl/status/status.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t cut = std::min(bytes.find('\0'), size);
  const auto model = clamor::ParseModelDescription(bytes.substr(0, cut),
                                                   cut < size ? bytes.substr(cut + 1) : std::string_view());
  if (!model.ok()) {
    if (!absl::IsInvalidArgument(model.status())) std::abort();
    return 0;
  }
  const clamor::ModelConfig& c = model->config;
  for (const int32_t count : {c.vocab_size, c.hidden_size, c.intermediate_size, c.layers, c.heads, c.kv_heads,
                              c.head_dim, c.max_positions})
    if (count < 1) std::abort();
  // The products below would overflow, which is undefined and seen, were they not bounded.
  if (c.q_size() % c.head_dim != 0 || c.heads % c.kv_heads != 0 || c.kv_size() > c.q_size()) std::abort();
  if (static_cast<int32_t>(c.window.size()) != c.layers) std::abort();
  if (!std::isfinite(c.rms_norm_eps) || c.rms_norm_eps < 0) std::abort();
  for (const double frequency : c.rope.InverseFrequencies(c.head_dim))
    if (!std::isfinite(frequency) || frequency < 0) std::abort();
  for (const int32_t id : model->generation.eos_ids)
    if (id < 0 || id >= c.vocab_size) std::abort();
  return 0;
}
