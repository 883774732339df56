#include "services/cli/bench_load.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace clamor::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(200);  // how long an interruption may go unnoticed

LoadClock::duration Span(double seconds) {
  return std::chrono::duration_cast<LoadClock::duration>(std::chrono::duration<double>(seconds));
}

double SecondsBetween(LoadClock::time_point from, LoadClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

double ProcessorSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Guarded by the generator's lock, but for what is constant.
struct LoadGenerator::Phase {
  const PhaseOptions& options;
  const std::atomic<bool>& stop;
  const absl::FunctionRef<void(const PhaseProgress&)> progress;
  const LoadClock::time_point begin;  // of what counts
  const LoadClock::time_point end;    // of what is sent
  PhaseFigures figures;
  int64_t sent = 0;  // that count
  bool cut = false;  // what ends now was ended
  LoadClock::time_point shown = {};
};

LoadGenerator::LoadGenerator(const std::vector<std::shared_ptr<grpc::Channel>>& channels, NextRequest next,
                             uint64_t seed)
    : next_request_(std::move(next)), chance_(seed) {
  for (const auto& channel : channels) stubs_.push_back(v1::GenerationService::NewStub(channel));
}

PhaseFigures LoadGenerator::Run(const PhaseOptions& options, const std::atomic<bool>& stop,
                                absl::FunctionRef<void(const PhaseProgress&)> progress) {
  const LoadClock::time_point begin = LoadClock::now() + Span(options.warmup_seconds);
  Phase phase{.options = options,
              .stop = stop,
              .progress = progress,
              .begin = begin,
              .end = begin + Span(options.seconds),
              .figures = PhaseFigures::Over(options.seconds, begin)};
  const double processor = ProcessorSeconds();
  SendWhileDue(phase);
  const double sent_for = SecondsBetween(begin, std::min(LoadClock::now(), phase.end));
  Drain(phase);
  PhaseFigures& figures = phase.figures;
  figures.rate = options.rate;
  figures.concurrency = options.rate > 0 ? 0 : options.concurrency;
  figures.seconds = std::max(0.0, sent_for);
  figures.complete = !stop;
  figures.client_cpu_seconds = ProcessorSeconds() - processor;
  return std::move(figures);
}

void LoadGenerator::SendWhileDue(Phase& phase) {
  const PhaseOptions& options = phase.options;
  std::exponential_distribution<double> gap(options.rate > 0 ? options.rate : 1);
  LoadClock::time_point due = LoadClock::now();
  while (!phase.stop && due < phase.end && (options.requests == 0 || phase.sent < options.requests)) {
    {
      absl::MutexLock lock(&mu_);
      if (options.rate > 0) {
        if (const auto wait = due - LoadClock::now(); wait > LoadClock::duration::zero()) {
          Tick(phase, absl::FromChrono(wait),
               absl::Condition(
                   +[](const std::atomic<bool>* stop) { return stop->load(); }, &phase.stop));
          continue;
        }
        if (open_.size() >= static_cast<size_t>(options.most_open)) {
          phase.figures.skipped += due >= phase.begin;
          due += Span(gap(chance_));
          continue;
        }
      } else {
        const size_t most = static_cast<size_t>(std::min(options.concurrency, options.most_open));
        const auto room = [this, most]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return open_.size() < most; };
        if (!room()) {
          Tick(phase, absl::FromChrono(phase.end - LoadClock::now()), absl::Condition(&room));
          due = LoadClock::now();
          continue;
        }
        due = LoadClock::now();
      }
    }
    Send(phase, due);
    if (options.rate > 0) due += Span(gap(chance_));
  }
}

void LoadGenerator::Send(Phase& phase, LoadClock::time_point due) {
  LoadStream* stream = LoadStream::Make(
      stubs_[next_stub_].get(), next_request_(due), [this, &phase](LoadStream* ended, StreamResult result) {
        absl::MutexLock lock(&mu_);
        if (result.due >= phase.begin) {
          phase.figures.Add(result, OutcomeOf(result, phase.cut), phase.options.objectives);
        }
        open_.erase(ended);
      });
  next_stub_ = (next_stub_ + 1) % stubs_.size();
  phase.sent += due >= phase.begin;
  {
    absl::MutexLock lock(&mu_);
    open_.insert(stream);
  }
  stream->Start();
}

void LoadGenerator::Drain(Phase& phase) {
  const LoadClock::time_point patience = LoadClock::now() + Span(phase.options.patience_seconds);
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return open_.empty(); };
  absl::MutexLock lock(&mu_);
  while (!none() && !phase.stop && LoadClock::now() < patience) {
    Tick(phase, absl::FromChrono(patience - LoadClock::now()), absl::Condition(&none));
  }
  phase.cut = true;
  for (LoadStream* stream : open_) stream->Cancel();
  mu_.Await(absl::Condition(&none));
}

// Waits, but not for long, and shows how far it is.
void LoadGenerator::Tick(Phase& phase, absl::Duration wait, absl::Condition until) {
  mu_.AwaitWithTimeout(until, std::clamp(wait, absl::ZeroDuration(), kTick));
  const LoadClock::time_point now = LoadClock::now();
  if (now - phase.shown < std::chrono::milliseconds(200)) return;
  phase.shown = now;
  phase.progress({.seconds = SecondsBetween(phase.begin, now),
                  .of_seconds = phase.options.seconds,
                  .open = static_cast<int64_t>(open_.size()),
                  .counts = phase.figures.all});
}

}  // namespace clamor::cli
