#include "services/cli/train_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "model/train/linear.h"
#include "model/train/parameters.h"
#include "model/train/training_pass.h"

namespace clamor::cli {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

int64_t NumberIn(const char* path) {
  std::ifstream file(path);
  std::string word;
  int64_t value;
  return file >> word && absl::SimpleAtoi(word, &value) ? value : kUnlimited;  // "max" is no number
}

int64_t AvailableOfMachine() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib;
  std::string unit;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(file, unit);
  }
  return kUnlimited;
}

int64_t LeftOfControlGroup() {
  const int64_t limit = NumberIn("/sys/fs/cgroup/memory.max"),
                used = NumberIn("/sys/fs/cgroup/memory.current");
  return limit == kUnlimited || used == kUnlimited ? kUnlimited : std::max<int64_t>(0, limit - used);
}

int64_t Size(kernels::DType dtype) { return static_cast<int64_t>(kernels::DTypeSize(dtype)); }

}  // namespace

int64_t TrainingBytes(const TrainFlags& flags, const ModelConfig& c, const MemoryNeeds& needs) {
  const int64_t rank = flags.adapters.rank;
  const kernels::DType held = rank > 0 ? needs.stored : kernels::DType::kF32;
  const int64_t rows = std::max(needs.longest, flags.trainer.micro_tokens);
  int64_t packed = 0, trained = 0;
  const auto product = [&](int64_t n, int64_t k) {
    packed += Linear::PackedBytes(n, k, held, rank);
    trained += rank * (n + k);
  };
  for (int32_t i = 0; i < c.layers; ++i) {
    product(c.q_size() + 2 * c.kv_size(), c.hidden_size);
    product(c.hidden_size, c.q_size());
    product(2 * int64_t{c.intermediate_size}, c.hidden_size);
    product(c.hidden_size, c.intermediate_size);
  }
  packed += Linear::PackedBytes(c.vocab_size, c.hidden_size, held, 0);
  const int64_t parameters = ModelParameters(c).table.total();
  if (rank == 0) {
    trained = parameters;
    packed += 4 * flags.trainer.batch_tokens * c.hidden_size;  // the embedding's gradient, row by row
  } else {
    // The embedding, unless it is the head; what an adapter adds to a product.
    if (!c.tied_head) packed += int64_t{c.vocab_size} * c.hidden_size * Size(held);
    packed += 4 * rows * std::max<int64_t>(2 * int64_t{c.intermediate_size}, c.q_size() + 2 * c.kv_size());
  }
  constexpr int64_t kArrays = 4;  // values, gradients, two moments
  const int64_t activations = TrainingPass::Bytes(c, rows, c.max_positions, flags.trainer.recompute);
  const int64_t cache = 4 * (needs.longest + flags.evaluate_tokens) * 2 * c.layers * c.kv_size();
  const int64_t decoder = flags.evaluate_prompts > 0 ? parameters * Size(needs.written) + cache : 0;
  return packed + kArrays * 4 * trained + activations + decoder;
}

int64_t AvailableBytes() { return std::min(AvailableOfMachine(), LeftOfControlGroup()); }

absl::StatusOr<int64_t> FitMemory(TrainFlags& flags, const ModelConfig& config, const MemoryNeeds& needs) {
  const int64_t available = AvailableBytes();
  if (flags.recompute == "auto") {
    flags.trainer.recompute = TrainingBytes(flags, config, needs) > available;
  }
  const int64_t needed = TrainingBytes(flags, config, needs);
  if (needed <= available) return needed;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "training needs %.1f GiB of memory, %.1f GiB are free; a smaller --micro-tokens (now %d)%s%s helps",
      static_cast<double>(needed) / kGiB, static_cast<double>(available) / kGiB, flags.trainer.micro_tokens,
      flags.trainer.recompute ? "" : ", --recompute on", flags.adapters.rank == 0 ? " or --lora-rank" : ""));
}

}  // namespace clamor::cli
