// A step allocates nothing once its largest shapes have been seen, but for what grows with the texts: counted
// by replacing operator new for this whole program.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // GCC looks at one half of a pair at a time

#include <atomic>
#include <cstdlib>
#include <new>

#include "gtest/gtest.h"
#include "tests/services/worker/engine_fakes.h"

namespace {
std::atomic<int64_t> allocations = 0;
}  // namespace

void* operator new(size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  std::abort();
}
void* operator new(size_t size, std::align_val_t alignment) {
  ++allocations;
  if (void* p = std::aligned_alloc(static_cast<size_t>(alignment), (size + 63) / 64 * 64)) return p;
  std::abort();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace clamor {
namespace {

class Silent final : public TokenSink {
 public:
  void OnStarted(int32_t) override {}
  void OnDelta(const Delta& delta) override { tokens += static_cast<int64_t>(delta.token_ids.size()); }
  void OnFinished(const Finished&) override { finished = true; }
  int64_t tokens = 0;
  bool finished = false;
};

// Of one sequence, in one step, after a while.
double AllocationsOf(int sequences, int32_t nodes) {
  const Transformer& model = TinyModel("qwen2");
  auto engine =
      Engine::Create(&model, nullptr, nullptr, nullptr, {.kv_tokens = 8192, .default_nodes = nodes});
  EXPECT_TRUE(engine.ok()) << engine.status();
  std::vector<Silent> sinks(sequences);
  for (int i = 0; i < sequences; ++i) {
    Request request{.prompt_ids = {1, 2, 3, 4 + i}, .max_tokens = 400, .ignore_eos = true};
    EXPECT_TRUE((*engine)->Submit(std::move(request), &sinks[i]).ok());
  }
  for (int i = 0; i < 40; ++i) (*engine)->Step();
  constexpr int kSteps = 40;
  const int64_t before = allocations;
  for (int i = 0; i < kSteps; ++i) (*engine)->Step();
  const int64_t count = allocations - before;
  for (const Silent& sink : sinks) EXPECT_FALSE(sink.finished) << "the steps counted were not all full ones";
  return static_cast<double>(count) / kSteps / sequences;
}

TEST(SteadyStepTest, AllocatesOnlyAsTextsGrow) {
  // What is kept of a text grows with it: its pages, the index of prefixes, what drafting learns of it.
  constexpr double kGrowth = 0.5;
  for (const int sequences : {1, 4}) {
    for (const int32_t nodes : {0, 1, 8, int32_t{SpeculationOptions::kAuto}}) {
      EXPECT_LT(AllocationsOf(sequences, nodes), kGrowth) << sequences << " sequences, " << nodes << " nodes";
    }
  }
}

}  // namespace
}  // namespace clamor
