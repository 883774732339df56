// Many streams at once through a gateway, some of them of clients that do not read; relay.py runs it.
//
//     relay_bench --server HOST:PORT [--streams 1000] [--stalled 64] [--seconds 20] [--pid PID]
//
// The worker behind it is replay_worker, whose texts say when they were sent: from that, how long each token
// was on its way. All streams share one connection. Prints one JSON object: what came in --seconds, how long
// it took, what processor time the process PID needed for it, how much memory it had before and after, and
// what became of the streams that were not read.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "bench/serving/stamp.h"
#include "nlohmann/json.hpp"
#include "services/cli/bench_histogram.h"
#include "services/cli/bench_load.h"
#include "services/cli/bench_stream.h"
#include "services/cli/connection.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

using cli::LoadClock;
using cli::TimeHistogram;
using nlohmann::ordered_json;

struct Flags {
  std::string server;
  int32_t streams = 1000, stalled = 64, pid = 0;
  double opening = 4, settling = 3, seconds = 20;
  uint32_t max_tokens = 500'000;
  int32_t window = 65536;
};

// What the reading streams get while it is measured.
class Window {
 public:
  void Open() { open_ = true; }
  void Close() { open_ = false; }

  void Add(const v1::Delta& delta, LoadClock::time_point& last) {
    const LoadClock::time_point now = LoadClock::now();
    const LoadClock::time_point before = std::exchange(last, now);
    if (!open_ || before == LoadClock::time_point()) return;
    const std::optional<double> on_its_way = SecondsSinceStamp(delta.text(), now);
    absl::MutexLock lock(&mu_);
    tokens_ += delta.token_ids_size();
    ++messages_;
    if (on_its_way) way_.Add(*on_its_way);
    gap_.Add(std::chrono::duration<double>(now - before).count());
  }

  ordered_json Json(double seconds) const {
    const auto times = [](const TimeHistogram& t) {
      return ordered_json{{"p50", t.Quantile(0.5)}, {"p99", t.Quantile(0.99)}, {"max", t.max()}};
    };
    absl::MutexLock lock(&mu_);
    return {{"seconds", seconds},
            {"tokens", tokens_},
            {"tokens_per_second", static_cast<double>(tokens_) / seconds},
            {"tokens_per_message", static_cast<double>(tokens_) / static_cast<double>(messages_)},
            {"on_its_way", times(way_)},
            {"between_messages", times(gap_)}};
  }

 private:
  std::atomic<bool> open_ = false;
  mutable absl::Mutex mu_;
  int64_t tokens_ = 0, messages_ = 0;
  TimeHistogram way_, gap_;
};

// The streams that are open, and how those ended that have.
class Streams {
 public:
  void Open(v1::GenerationService::Stub* stub, bool reads, uint32_t max_tokens, Window* window) {
    v1::StreamGenerateRequest request;
    request.mutable_token_ids()->add_ids(1);
    request.mutable_options()->set_max_tokens(max_tokens);
    cli::StreamPlan plan{.request = std::move(request), .due = LoadClock::now(), .reads = reads};
    plan.on_delta = [window, last = std::make_shared<LoadClock::time_point>()](const v1::Delta& delta) {
      window->Add(delta, *last);
    };
    cli::LoadStream* stream = cli::LoadStream::Make(
        stub, std::move(plan), [this](cli::LoadStream* ended, const cli::StreamResult& result) {
          absl::MutexLock lock(&mu_);
          const auto it = open_.find(ended);
          const absl::string_view reason = ReasonOf(result.status);
          std::string end =
              reason.empty() ? absl::StatusCodeToString(result.status.code()) : std::string(reason);
          ++ends_[absl::StrCat(it->second ? "read" : "stalled", cancelling_ ? " until the end" : "", ": ",
                               end)];
          open_.erase(it);
        });
    {
      absl::MutexLock lock(&mu_);
      open_.emplace(stream, reads);
    }
    stream->Start();
  }

  void CancelAll() {
    absl::MutexLock lock(&mu_);
    cancelling_ = true;
    for (const auto& [stream, reads] : open_) stream->Cancel();
    const auto none = [this] { return open_.empty(); };
    mu_.Await(absl::Condition(&none));
  }

  int64_t CountOpen(bool reads) const {
    absl::MutexLock lock(&mu_);
    return std::count_if(open_.begin(), open_.end(), [reads](const auto& s) { return s.second == reads; });
  }

  ordered_json Ends() const {
    absl::MutexLock lock(&mu_);
    return ends_;
  }

 private:
  mutable absl::Mutex mu_;
  std::unordered_map<cli::LoadStream*, bool> open_;  // whether it reads
  std::map<std::string, int64_t> ends_;
  bool cancelling_ = false;
};

// Of another process: user and system time, in seconds.
double ProcessorSecondsOf(int32_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double ResidentMib(int32_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/statm"));
  double all = 0, resident = 0;
  in >> all >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

int Run(const Flags& flags) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, flags.window);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // or it grows
  const auto channel = cli::Connect(flags.server, {}, arguments);
  if (!channel.ok()) {
    std::cerr << "relay_bench: " << channel.status().message() << "\n";
    return 1;
  }
  const auto stub = v1::GenerationService::NewStub(*channel);
  Window window;
  Streams streams;
  ordered_json report = {{"server", flags.server}, {"streams", flags.streams}, {"stalled", flags.stalled}};
  const bool watch = flags.pid > 0;
  if (watch) report["rss_mib_before"] = ResidentMib(flags.pid);
  for (int32_t i = 0; i < flags.streams; ++i) {
    const bool reads = i >= flags.stalled;
    streams.Open(stub.get(), reads, flags.max_tokens, &window);
    absl::SleepFor(absl::Seconds(flags.opening / flags.streams));
  }
  absl::SleepFor(absl::Seconds(flags.settling));
  const double own = cli::ProcessorSeconds(), processor = watch ? ProcessorSecondsOf(flags.pid) : 0;
  const absl::Time begin = absl::Now();
  window.Open();
  absl::SleepFor(absl::Seconds(flags.seconds));
  window.Close();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  report.update(window.Json(seconds));
  report["client_cpu"] = (cli::ProcessorSeconds() - own) / seconds;
  if (watch) {
    report["cpu_seconds"] = ProcessorSecondsOf(flags.pid) - processor;
    report["rss_mib"] = ResidentMib(flags.pid);
  }
  report["open_reading"] = streams.CountOpen(true);
  report["open_stalled"] = streams.CountOpen(false);
  streams.CancelAll();
  absl::SleepFor(absl::Seconds(1));
  if (watch) report["rss_mib_after"] = ResidentMib(flags.pid);
  report["ends"] = streams.Ends();
  std::cout << report.dump() << "\n";
  return 0;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Many streams at once through a gateway");
  app.add_option("--server", flags.server)->required();
  app.add_option("--streams", flags.streams)->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--stalled", flags.stalled, "Of these, whose client does not read")->capture_default_str();
  app.add_option("--opening", flags.opening, "Seconds over which they open")->capture_default_str();
  app.add_option("--settling", flags.settling, "Seconds between that and the measurement")
      ->capture_default_str();
  app.add_option("--seconds", flags.seconds)->capture_default_str();
  app.add_option("--max-tokens", flags.max_tokens, "Of an answer; it is cancelled at the end")
      ->capture_default_str();
  app.add_option("--window", flags.window, "Bytes of a stream that may be sent ahead of its reads")
      ->capture_default_str();
  app.add_option("--pid", flags.pid, "Process whose processor time and memory are told");
  CLI11_PARSE(app, argc, argv);
  return Run(flags);
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
