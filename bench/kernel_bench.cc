// Speed of the kernels at the shapes of a 0.5B model (hidden 896, inner 4864, vocabulary 151936, 14 query and
// 2 key heads of 64). Weights are rotated through more memory than the caches hold, as in a real step, where
// each is read once. Time is wall time: the pool's threads are the point. bench/README.md has the command and
// a table.

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/cpu_target.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "kernels/top_k.h"
#include "kernels/tree_attention.h"

namespace clamor::kernels {
namespace {

std::vector<float> RandomFloats(size_t n) {
  std::minstd_rand random(1);
  std::vector<float> v(n);
  for (float& x : v) x = std::uniform_real_distribution<float>(-1.0f, 1.0f)(random);
  return v;
}

// n x k weights, enough copies to exceed any cache.
const std::vector<PackedMatrix>& RotatedWeights(int64_t n, int64_t k, Storage stored) {
  constexpr size_t kBytes = size_t{768} << 20;
  static std::vector<PackedMatrix> copies;  // of the shape asked for last: the machine need not hold them all
  if (copies.empty() || copies[0].n() != n || copies[0].k() != k || copies[0].stored() != stored) {
    copies.clear();
    ThreadPool pool(2);
    const std::vector<float> values = RandomFloats(n * k);
    do {
      copies.emplace_back(n, k, stored);
      copies.back().PackRows(0, n, values.data(), DType::kF32, pool);
    } while (copies.size() < 2 || copies.size() * copies[0].bytes() < kBytes);
  }
  return copies;
}

// GB/s of weights read, GFLOP/s of useful work.
void BM_MatMul(benchmark::State& state, Storage stored, int64_t n, int64_t k) {
  const int64_t rows = state.range(0);
  ThreadPool pool(static_cast<int>(state.range(1)));
  const std::vector<PackedMatrix>& weights = RotatedWeights(n, k, stored);
  const std::vector<float> x = RandomFloats(rows * k);
  std::vector<float> y(rows * n);
  static size_t next = 0;  // goes on where the last repetition ended, whose weights may be cached
  for (auto _ : state) {
    next = (next + 1) % weights.size();
    MatMul(x.data(), k, rows, weights[next], nullptr, y.data(), n, pool);
  }
  using benchmark::Counter;
  const double calls = static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(1e-9 * calls * weights[0].bytes(), Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(2e-9 * calls * rows * n * k, Counter::kIsRate);
}

constexpr int kHeads = 14, kKvHeads = 2, kHeadDim = 64;

// Tiles of random keys or values, more than any cache holds, in huge pages as model/kv_cache.cc has them. Any
// number of pages of them can be taken for a layer.
std::byte* RotatedTiles(KvFormat format, size_t bytes) {
  static const auto memory = static_cast<std::byte*>([bytes] {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) std::abort();
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
  }());
  static std::optional<KvFormat> holds;
  if (holds == format) return memory;
  constexpr int kPages = 512;
  const KvLayer some = {memory, memory, kKvHeads, kHeadDim, format};
  std::vector<int32_t> slots(kPages * kPageSize);
  std::iota(slots.begin(), slots.end(), 0);
  const std::vector<float> values = RandomFloats(slots.size() * kKvHeads * kHeadDim);
  ThreadPool pool(2);
  StoreKv(values.data(), kKvHeads * kHeadDim, values.data(), kKvHeads * kHeadDim,
          static_cast<int64_t>(slots.size()), slots.data(), some, pool);
  const size_t filled = some.TileAt(kPages, 0);
  for (size_t at = filled; at < bytes; at += filled) {
    std::memcpy(memory + at, memory, std::min(filled, bytes - at));
  }
  holds = format;
  return memory;
}

// One layer's attention: `rows` nodes of a draft chain of at most 16 below a context whose pages lie in no
// order. GB/s of keys and values read, if each is read once.
void BM_Attention(benchmark::State& state, KvFormat format) {
  constexpr size_t kBytes = size_t{768} << 20;
  const int rows = static_cast<int>(state.range(0)), context = static_cast<int>(state.range(1));
  ThreadPool pool(static_cast<int>(state.range(2)));
  std::byte* const tiles = RotatedTiles(format, kBytes);
  const int pages = (context + rows + kPageSize) / kPageSize;
  std::vector<int32_t> table(pages), extras(rows);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::minstd_rand(1));
  for (int i = 0; i < rows; ++i)
    extras[i] = table[(context + i) / kPageSize] * kPageSize + (context + i) % kPageSize;
  std::vector<AttentionRow> attention_rows;
  for (int i = 0; i < rows; ++i) {
    const int depth = i % 16 + 1;
    attention_rows.push_back({table.data(), context, extras.data() + i + 1 - depth, depth});
  }
  const std::vector<float> q = RandomFloats(size_t{1} * rows * kHeads * kHeadDim);
  std::vector<float> out(q.size());
  KvLayer layer = {tiles, tiles, kKvHeads, kHeadDim, format};
  const size_t half = layer.TileAt(pages, 0);
  static size_t next = 0;  // goes on where the last repetition ended
  for (auto _ : state) {
    next = (next + 1) % (kBytes / (2 * half));
    layer.keys = tiles + 2 * half * next;
    layer.values = layer.keys + half;
    TreeAttention(q.data(), kHeads * kHeadDim, attention_rows, kHeads, 0.125f, 0, layer, out.data(),
                  kHeads * kHeadDim, pool);
  }
  using benchmark::Counter;
  const double calls = static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(1e-9 * calls * 2 * half * context / (pages * kPageSize), Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(4e-9 * calls * rows * context * kHeads * kHeadDim, Counter::kIsRate);
}

void BM_TopK(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const int k = static_cast<int>(state.range(1));
  constexpr int64_t kVocabulary = 151936;
  ThreadPool pool(static_cast<int>(state.range(2)));
  const std::vector<float> logits = RandomFloats(rows * kVocabulary);
  std::vector<int32_t> ids(rows * k);
  std::vector<float> values(rows * k), log_sum_exp(rows);
  for (auto _ : state) {
    TopK(logits.data(), kVocabulary, rows, kVocabulary, k, ids.data(), values.data(), log_sum_exp.data(),
         pool);
  }
  state.SetItemsProcessed(state.iterations() * rows * kVocabulary);
}

void BM_SiluGate(benchmark::State& state) {
  const int64_t rows = state.range(0);
  constexpr int64_t kInner = 4864;
  ThreadPool pool(static_cast<int>(state.range(1)));
  const std::vector<float> gate_up = RandomFloats(rows * 2 * kInner);
  std::vector<float> out(rows * kInner);
  for (auto _ : state) SiluGate(gate_up.data(), rows, kInner, out.data(), pool);
  state.SetItemsProcessed(state.iterations() * rows * kInner);
}

void BM_RmsNorm(benchmark::State& state) {
  const int64_t rows = state.range(0);
  constexpr int64_t kHidden = 896;
  ThreadPool pool(static_cast<int>(state.range(1)));
  const std::vector<float> x = RandomFloats(rows * kHidden), weight = RandomFloats(kHidden);
  std::vector<float> y(rows * kHidden);
  for (auto _ : state) RmsNorm(x.data(), rows, kHidden, weight.data(), 1e-6f, y.data(), pool);
  state.SetItemsProcessed(state.iterations() * rows * kHidden);
}

void BM_RopeTable(benchmark::State& state) {
  const std::vector<double> frequencies(64, 0.37);
  for (auto _ : state) benchmark::DoNotOptimize(RopeTable(frequencies, state.range(0)));
}

void BM_PoolRun(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) pool.Run([](int) {});
}

void Register() {
  struct Shape {
    const char* name;
    int64_t n, k;
  };
  for (const Shape& s : {Shape{"up", 4864, 896}, Shape{"down", 896, 4864}, Shape{"head", 151936, 896}}) {
    for (Storage stored : {Storage::kF32, Storage::kBF16, Storage::kF16, Storage::kI8, Storage::kI4}) {
      const std::string name = "MatMul/" + std::string(StorageName(stored)) + "/" + s.name;
      benchmark::RegisterBenchmark(name.c_str(), BM_MatMul, stored, s.n, s.k)
          ->ArgNames({"rows", "threads"})
          ->ArgsProduct({{1, 4, 8, 16, 64, 512}, {1, 2}})
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
  const auto us = [](benchmark::internal::Benchmark* b) { b->UseRealTime()->Unit(benchmark::kMicrosecond); };
  for (KvFormat format : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8}) {
    benchmark::RegisterBenchmark(("Attention/" + std::string(KvFormatName(format))).c_str(), BM_Attention,
                                 format)
        ->ArgNames({"rows", "context", "threads"})
        ->ArgsProduct({{1, 16, 64}, {128, 1024, 8192}, {1, 2}})
        ->Apply(us);
  }
  benchmark::RegisterBenchmark("TopK", BM_TopK)
      ->ArgNames({"rows", "k", "threads"})
      ->ArgsProduct({{1, 64}, {8, 64}, {1, 2}})
      ->Apply(us);
  benchmark::RegisterBenchmark("SiluGate", BM_SiluGate)
      ->ArgNames({"rows", "threads"})
      ->ArgsProduct({{1, 64}, {1, 2}})
      ->Apply(us);
  benchmark::RegisterBenchmark("RmsNorm", BM_RmsNorm)
      ->ArgNames({"rows", "threads"})
      ->ArgsProduct({{1, 64}, {1, 2}})
      ->Apply(us);
  benchmark::RegisterBenchmark("RopeTable", BM_RopeTable)
      ->Arg(131072)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("PoolRun", BM_PoolRun)->DenseRange(1, 2)->UseRealTime();
}

}  // namespace
}  // namespace clamor::kernels

int main(int argc, char** argv) {
  if (const absl::Status status = clamor::kernels::SetCpuTargetFromEnvironment(); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  clamor::kernels::Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
