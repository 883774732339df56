// What kernels/cuda and model/cuda take on a GPU, a line for each; tests/gpu/run.sh lays them beside what
// bench/roofline.py expects. Built against the emulator (cuda_bench_emulated) all of it runs once, and times
// are
// "-".
//
//   cuda_bench kernels SHAPE          kernel SHAPE WEIGHTS NAME ROWS SECONDS; SHAPE: 0.5B, 8B or tiny
//   cuda_bench steps MODEL WEIGHTS    step WEIGHTS ROWS SECONDS
//   cuda_bench answers MODEL WEIGHTS  answers WEIGHTS NODES TOKENS FORWARDS SECONDS; NODES: 0 or auto
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/quantized_matmul.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/silu_gate.h"
#include "kernels/cuda/step_io.h"
#include "kernels/cuda/top_k.h"
#include "kernels/cuda/tree_attention.h"
#include "model/cuda/device_model.h"
#include "model/cuda/step_layout.h"
#include "services/worker/engine.h"

namespace clamor {
namespace {

namespace cuda = kernels::cuda;

#ifdef CLAMOR_EMULATED
constexpr bool kEmulated = true;
constexpr std::array<int, 2> kRows = {1, 16};
constexpr size_t kRotated = 1 << 16;
constexpr int kContext = 200, kAnswerTokens = 6;
#else
constexpr bool kEmulated = false;
constexpr std::array<int, 7> kRows = {1, 8, 16, 32, 64, 128, 256};
constexpr size_t kRotated = size_t{1}
                            << 30;  // of weights, so that no cache holds them from one run to the next
constexpr int kContext = 1024, kAnswerTokens = 200;
#endif

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "cuda_bench: %s\n", why.c_str());
  std::exit(1);
}

std::string Time(double seconds) {
  if (kEmulated) return "-";
  char text[32];
  std::snprintf(text, sizeof(text), "%.9f", seconds);
  return text;
}

// Of one run among several that follow each other; `run` is told which.
double Seconds(const cuda::OwnedStream& stream, const std::function<void(int)>& run) {
  constexpr int kRuns = kEmulated ? 1 : 50;
  if (!kEmulated) {
    for (int i = 0; i < 5; ++i) run(i);
  }
  stream.Wait();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kRuns; ++i) run(i);
  stream.Wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / kRuns;
}

struct Shape {
  const char* name;
  int hidden, mlp, heads, kv_heads, head_dim, vocab;
};
constexpr Shape kShapes[] = {{"0.5B", 896, 4864, 14, 2, 64, 151936},
                             {"8B", 4096, 14336, 32, 8, 128, 128256},
                             {"tiny", 64, 160, 4, 2, 16, 640}};

// Zeroed memory of the device, by elements.
template <class T>
class Array {
 public:
  Array(size_t n, const cuda::OwnedStream& stream) : buffer_(n * sizeof(T), stream.get()) {
    if (buffer_.data() == nullptr) Die("the device has too little memory");
  }
  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }

 private:
  cuda::DeviceBuffer buffer_;
};

class KernelBench {
 public:
  explicit KernelBench(const Shape& shape) : s_(shape) {}

  void Run() {
    const int q = s_.heads * s_.head_dim, qkv = q + 2 * s_.kv_heads * s_.head_dim;
    for (const int bits : {16, 8, 4}) {
      Product("qkv", bits, qkv, s_.hidden);
      Product("output", bits, s_.hidden, q);
      Product("gate, up", bits, 2 * s_.mlp, s_.hidden);
      Product("down", bits, s_.hidden, s_.mlp);
      if (bits > 4) Product("head", bits, s_.vocab, s_.hidden);
    }
    for (const int rows : kRows) Others(rows);
  }

 private:
  void Print(const char* weights, const char* name, int rows, double seconds) const {
    std::printf("kernel\t%s\t%s\t%s\t%d\t%s\n", s_.name, weights, name, rows, Time(seconds).c_str());
  }

  void Product(const char* name, int bits, int64_t n, int64_t k) {
    const int64_t most = cuda::PaddedRows(kRows.back());
    const size_t bytes =
        bits == 16 ? n * k * 2 : cuda::QuantizedValueBytes(n, k, bits) + cuda::QuantizedScaleBytes(n, k);
    const size_t step = (bytes + 255) / 256 * 256, copies = std::max<size_t>(1, kRotated / step);
    const Array<std::byte> weights(step * copies, stream_);
    const Array<uint16_t> x(most * k, stream_);
    const Array<float> y(most * n, stream_), scales(cuda::GroupCount(k) * most, stream_);
    const Array<int8_t> rounded(most * cuda::GroupCount(k) * kernels::kGroup, stream_);
    cuda::MatMulPlans plans;
    if (bits == 16) plans.Prepare(n, k);
    for (const int rows : kRows) {
      const double seconds = Seconds(stream_, [&](int i) {
        std::byte* const w = weights.data() + i % copies * step;
        if (bits == 16) {
          plans.MatMul(x.data(), rows, reinterpret_cast<uint16_t*>(w), n, k, y.data(), stream_.get());
          return;
        }
        const cuda::QuantizedRows quantised = {rounded.data(), scales.data()};
        cuda::QuantizeRows(x.data(), rows, k, quantised, stream_.get());
        uint8_t* const values = reinterpret_cast<uint8_t*>(w);
        cuda::QuantizedMatMul(
            quantised, rows,
            {.values = values,
             .scales = reinterpret_cast<uint16_t*>(values + cuda::QuantizedValueBytes(n, k, bits)),
             .scale_stride = n,
             .n = n,
             .k = k,
             .bits = bits},
            y.data(), stream_.get());
      });
      Print(bits == 16 ? "bf16" : bits == 8 ? "int8" : "int4", name, rows, seconds);
    }
  }

  // All but products, for a tree of so many rows behind a context.
  void Others(int rows) {
    const int64_t q = s_.heads * s_.head_dim, kv = s_.kv_heads * s_.head_dim, qkv = q + 2 * kv;
    const int trees = (rows + cuda::kMaxNodes - 1) / cuda::kMaxNodes, of_tree = rows / trees;
    const int pages = (kContext + cuda::kMaxNodes) / cuda::kPageTokens + 1;
    const int64_t slots = int64_t{trees} * pages * cuda::kPageTokens;
    const int64_t cached = slots + RoundedRows(rows) + cuda::kPageTokens;
    Batch batch;
    std::vector<std::vector<int32_t>> tables(trees), paths(trees);
    for (int t = 0; t < trees; ++t) {
      tables[t].resize(pages);
      std::iota(tables[t].begin(), tables[t].end(), t * pages);
      for (int i = 0; i < of_tree; ++i) paths[t].push_back(t * pages * cuda::kPageTokens + kContext + i);
      for (int i = 0; i < of_tree; ++i) {  // one path
        batch.tokens.push_back(i % s_.vocab);
        batch.positions.push_back(kContext + i);
        batch.slots.push_back(paths[t][i]);
        batch.attention.push_back(
            {.pages = tables[t].data(), .prefix = kContext, .extra = paths[t].data(), .extra_count = i + 1});
        batch.logit_rows.push_back(t * of_tree + i);
      }
    }
    StepWriter writer(slots, s_.heads / s_.kv_heads, trees);
    const StepShape shape = writer.ShapeOf(batch);
    const StepPlaces places(shape);
    cuda::StepInputs inputs(places.bytes);
    if (!inputs.ok()) Die("the device has too little memory");
    writer.Write(batch, shape, inputs.Next());
    inputs.Upload(places.bytes, stream_.get());
    const auto ints = [&](size_t at) { return reinterpret_cast<const int32_t*>(inputs.device() + at); };
    const int64_t n = shape.rows;

    const Array<uint16_t> table(int64_t{s_.vocab} * s_.hidden, stream_), normed(n * s_.hidden, stream_),
        heads(n * q, stream_), out(n * q, stream_), gated(n * s_.mlp, stream_), keys(cached * kv, stream_),
        values(cached * kv, stream_);
    const Array<float> hidden(n * s_.hidden, stream_), addend(n * s_.hidden, stream_),
        norm(s_.hidden, stream_), projected(n * qkv, stream_), gate_up(n * 2 * s_.mlp, stream_),
        logits(n * s_.vocab, stream_), rope((kContext + cuda::kMaxNodes) * s_.head_dim, stream_),
        workspace(cuda::TreeAttentionWorkspace(n, s_.heads, s_.head_dim, shape.pages_per_sequence), stream_),
        best(n * 21, stream_);
    const cuda::KvPages cache = {keys.data(), values.data(), s_.kv_heads, s_.head_dim};

    Print("bf16", "embedding", rows, Seconds(stream_, [&](int) {
            cuda::Embed(table.data(), ints(places.tokens), n, s_.hidden, hidden.data(), stream_.get());
          }));
    Print("-", "norms", rows, Seconds(stream_, [&](int) {
            cuda::AddRmsNorm({.hidden = hidden.data(),
                              .addend = addend.data(),
                              .which = nullptr,
                              .weight = norm.data(),
                              .eps = 1e-6f,
                              .rows = n,
                              .n = s_.hidden,
                              .y = normed.data()},
                             stream_.get());
          }));
    Print("-", "rope, kv", rows, Seconds(stream_, [&](int) {
            cuda::RopeKv({.qkv = projected.data(),
                          .q_norm = nullptr,
                          .k_norm = nullptr,
                          .eps = 1e-6f,
                          .cos = rope.data(),
                          .sin = rope.data(),
                          .positions = ints(places.positions),
                          .slots = ints(places.slots),
                          .rows = n,
                          .heads = s_.heads,
                          .q = heads.data(),
                          .kv = cache},
                         stream_.get());
          }));
    Print("-", "attention", rows, Seconds(stream_, [&](int) {
            cuda::TreeAttention(
                {.q = heads.data(),
                 .rows = reinterpret_cast<const cuda::AttentionRow*>(inputs.device() + places.attention),
                 .tiles = reinterpret_cast<const cuda::AttentionTile*>(inputs.device() + places.tiles),
                 .page_table = ints(places.page_table),
                 .slots = ints(places.slots),
                 .row_count = n,
                 .tile_count = n,
                 .pages_per_sequence = shape.pages_per_sequence,
                 .heads = s_.heads,
                 .scale = 0.1f,
                 .window = 0,
                 .kv = cache,
                 .workspace = workspace.data(),
                 .out = out.data()},
                stream_.get());
          }));
    Print("-", "silu", rows, Seconds(stream_, [&](int) {
            cuda::SiluGate(gate_up.data(), n, s_.mlp, gated.data(), stream_.get());
          }));
    Print("-", "top-k", rows, Seconds(stream_, [&](int) {
            float* const at = best.data();
            cuda::TopK({.logits = logits.data(),
                        .stride = s_.vocab,
                        .rows = n,
                        .n = s_.vocab,
                        .k = 10,
                        .ids = reinterpret_cast<int32_t*>(at),
                        .values = at + 10 * n,
                        .log_sum_exp = at + 20 * n},
                       stream_.get());
          }));
  }

  const Shape s_;
  const cuda::OwnedStream stream_;
};

std::unique_ptr<Model> Load(const std::string& directory, const std::string& weights) {
  const auto format = ParseWeightFormat(weights);
  if (!format.ok()) Die(std::string(format.status().message()));
  auto model = DeviceModel::Load(directory, kContext + 512, {.weights = *format}, [](uint64_t, uint64_t) {});
  if (!model.ok()) Die(std::string(model.status().message()));
  return *std::move(model);
}

// Of steps of one sequence behind the context: its last token and guesses, all in one path.
void Steps(const std::string& directory, const std::string& weights) {
  const std::unique_ptr<Model> model = Load(directory, weights);
  const int32_t context = std::min(kContext, model->max_positions() - kRows.back());
  if (context < 1) Die("the model's context is too short");
  KvCache cache(model->config(), KvCache::PagesFor(kContext + 512), kernels::KvFormat::kBF16);
  kernels::ThreadPool pool(1);
  auto pass = model->NewPass(cache, {.rows = kContext, .sequences = 1, .top_k = 10}, pool);
  if (!pass.ok()) Die(std::string(pass.status().message()));
  KvLease lease;
  if (!cache.Grow(lease, context + kRows.back())) Die("the cache is too small");
  const auto rows_from = [&](int32_t first, int32_t count, bool wanted) {
    Batch batch;
    for (int32_t i = first; i < first + count; ++i) {
      batch.tokens.push_back(i % 100);
      batch.positions.push_back(i);
      batch.slots.push_back(lease.Slot(i));
      batch.attention.push_back({.pages = lease.pages().data(), .prefix = i + 1});
      if (wanted) batch.logit_rows.push_back(i - first);
    }
    return batch;
  };
  (*pass)->Forward(rows_from(0, context, false));
  for (const int rows : kRows) {
    const Batch batch = rows_from(context, rows, true);
    constexpr int kRuns = kEmulated ? 1 : 30;
    for (int i = 0; i < 3 && !kEmulated; ++i) (*pass)->Forward(batch);  // the second makes a graph
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kRuns; ++i) (*pass)->Forward(batch);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::printf("step\t%s\t%d\t%s\n", weights.c_str(), rows, Time(took.count() / kRuns).c_str());
  }
}

class Ignore : public TokenSink {
 public:
  void OnDelta(const Delta& delta) override { tokens += static_cast<int64_t>(delta.token_ids.size()); }
  void OnFinished(const Finished& finished) override { forwards = finished.stats.forwards; }

  int64_t tokens = 0, forwards = 0;
};

// A text that repeats now and then, as answers do: without guesses, and with as many as pay.
void Answers(const std::string& directory, const std::string& weights) {
  const std::unique_ptr<Model> model = Load(directory, weights);
  for (const int32_t nodes : {int32_t{0}, SpeculationOptions::kAuto}) {
    auto engine = Engine::Create(model.get(), nullptr, nullptr, nullptr,
                                 {.kv_tokens = 2048,
                                  .max_sequences = 1,
                                  .kv_format = kernels::KvFormat::kBF16,
                                  .default_nodes = kEmulated && nodes != 0 ? 4 : nodes});
    if (!engine.ok()) Die(std::string(engine.status().message()));
    Request request = {.max_tokens = kAnswerTokens};
    for (int32_t i = 0; i < 32; ++i) request.prompt_ids.push_back(5 + i % 7);
    request.ignore_eos = true;
    Ignore sink;
    const auto begin = std::chrono::steady_clock::now();
    if (!(*engine)->Submit(request, &sink).ok()) Die("the request was refused");
    while ((*engine)->Step()) {
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::printf("answers\t%s\t%s\t%lld\t%lld\t%s\n", weights.c_str(), nodes == 0 ? "0" : "auto",
                static_cast<long long>(sink.tokens), static_cast<long long>(sink.forwards),
                Time(took.count()).c_str());
  }
}

int Main(const std::vector<std::string>& args) {
  if (cuda::DeviceCount() == 0) Die("there is no GPU");
  if (args.size() == 2 && args[0] == "kernels") {
    for (const Shape& shape : kShapes) {
      if (args[1] != shape.name) continue;
      KernelBench(shape).Run();
      return 0;
    }
  }
  if (args.size() == 3 && args[0] == "steps") return Steps(args[1], args[2]), 0;
  if (args.size() == 3 && args[0] == "answers") return Answers(args[1], args[2]), 0;
  Die("kernels SHAPE | steps MODEL WEIGHTS | answers MODEL WEIGHTS");
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(std::vector<std::string>(argv + 1, argv + argc)); }
