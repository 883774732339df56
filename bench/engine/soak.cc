#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <list>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/engine/engine_bench.h"
#include "bench/engine/stream.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

class Counts final : public StepObserver {
 public:
  void OnStep(const StepReport& report) override {
    preemptions += report.preemptions;
    tokens += report.emitted_tokens;
  }
  void OnAccepted(int32_t) override {}
  int64_t preemptions = 0, tokens = 0;
};

double ResidentMiB() {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

struct Running {
  Stream stream;
  uint64_t handle = 0;
  absl::Time begin;
};

}  // namespace

absl::StatusOr<nlohmann::ordered_json> Soak(const BenchFlags& flags, const LoadedModel& model,
                                            const Prompts& prompts) {
  constexpr size_t kInFlight = 24;
  constexpr absl::Duration kStalled = absl::Minutes(10);
  Counts counts;
  const EngineOptions options{.threads = model.threads, .kv_tokens = flags.kv_tokens, .max_sequences = 8};
  CLAMOR_ASSIGN_OR_RETURN(const auto engine, Engine::Create(model.transformer.get(), model.tokenizer.get(),
                                                            nullptr, &counts, options));
  std::mt19937 random(1);
  const auto below = [&random](size_t n) { return random() % n; };
  std::list<Running> running;
  int64_t finished = 0, cancelled = 0, refused = 0;
  nlohmann::ordered_json samples = nlohmann::ordered_json::array();
  const absl::Time begin = absl::Now(), end = begin + absl::Minutes(flags.minutes);
  absl::Time next_sample = begin;
  double early = 0, late = 0;  // the most resident memory: in the first tenth, after it
  while (absl::Now() < end || !running.empty()) {
    const absl::Time now = absl::Now();
    if (now < end && running.size() < kInFlight && below(3) == 0) {
      Running& r = running.emplace_back();
      r.begin = now;
      Request request{.tenant = absl::StrCat("tenant-", below(4)),
                      .prompt_ids = prompts[below(prompts.size())],
                      .max_tokens = 1 + static_cast<int32_t>(below(flags.max_tokens)),
                      .priority = static_cast<Priority>(below(3))};
      if (below(2)) request.sampling = {.temperature = 0.8f, .seed = random()};
      auto handle = engine->Submit(std::move(request), &r.stream);
      if (handle.ok()) {
        r.handle = *handle;
      } else if (running.pop_back(), absl::IsInvalidArgument(handle.status())) {
        ++refused;  // longer than the whole cache
      } else {
        return handle.status();
      }
    }
    if (!running.empty() && below(40) == 0) {
      auto it = running.begin();
      std::advance(it, below(running.size()));
      engine->Cancel(it->handle);
    }
    engine->Step();
    for (auto it = running.begin(); it != running.end();) {
      if (now - it->begin > kStalled) return absl::InternalError("a request has not ended in ten minutes");
      if (it->stream.finished()) {
        ++(it->stream.reason() == FinishReason::kCancelled ? cancelled : finished);
        it = running.erase(it);
      } else {
        ++it;
      }
    }
    if (now >= next_sample) {
      const double mib = ResidentMiB(), minutes = absl::ToDoubleMinutes(now - begin);
      double& most = minutes < 0.1 * flags.minutes ? early : late;
      most = std::max(most, mib);
      samples.push_back({{"minutes", minutes}, {"resident_mib", mib}, {"tokens", counts.tokens}});
      std::fprintf(stderr, "\r%.1f min  %.0f MiB  %lld answered  %lld cancelled  %lld preemptions ", minutes,
                   mib, static_cast<long long>(finished), static_cast<long long>(cancelled),
                   static_cast<long long>(counts.preemptions));
      next_sample = now + absl::Seconds(5);
    }
  }
  engine->Step();
  const int64_t lost = engine->Load().kv_pages_used;
  std::printf(
      "\n%lld answered, %lld cancelled, %lld refused, %lld preemptions, %lld tokens; pages lost: %lld; "
      "resident "
      "memory at most %.1f MiB in the first tenth, %.1f MiB after it\n",
      static_cast<long long>(finished), static_cast<long long>(cancelled), static_cast<long long>(refused),
      static_cast<long long>(counts.preemptions), static_cast<long long>(counts.tokens),
      static_cast<long long>(lost), early, late);
  if (lost > 0) return absl::InternalError(absl::StrCat(lost, " pages were lost"));
  if (late > 1.1 * early)
    return absl::InternalError(absl::StrCat("memory grew from ", early, " to ", late, " MiB"));
  return nlohmann::ordered_json{{"answered", finished},        {"cancelled", cancelled},
                                {"refused", refused},          {"preemptions", counts.preemptions},
                                {"tokens", counts.tokens},     {"pages_lost", lost},
                                {"resident_mib_early", early}, {"resident_mib_late", late},
                                {"samples", samples}};
}

}  // namespace clamor
