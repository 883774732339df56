// The suffix store at size: appends with lookups beside them, a kill, start-up, lookups cold and warm.
//
//   store_bench [--tokens 1000000] [--real 0.5] [--model deploy/demo-model] [--folder F] [--output F.json]
//   [--check] [--part ingest|measure] [--pause MS] [--no-read-ahead]
//
// A child ingests `tokens` tokens, of which at most the share `real` is text found on this machine
// (/usr/share, /usr/include, /usr/lib/python3), tokenised, and the rest variations of it. Every 50th document
// is held out; once a fifth is in, a thread asks for what follows contexts in those, again and again, or with
// a pause between any two (a processor that has slept a few milliseconds takes twice as long for the next
// lookup). Then the child goes on appending until it is killed by SIGKILL: the part `ingest`. The part
// `measure` opens what is left with nothing of it in the page cache, compares it with what was acknowledged,
// and asks again with the files out of the page cache (cold), then with what that brought in (getting warm),
// then with all of them in it (warm).
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/store/corpus.h"
#include "nlohmann/json.hpp"
#include "retrieval/suffix_store.h"

namespace clamor::retrieval {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
constexpr size_t kBatch = 200;

struct Flags {
  size_t tokens = 1'000'000;
  double real = 0.5;
  std::string model = "deploy/demo-model", folder, output;
  std::string part = "all";
  unsigned settle = 2, pause = 0;
  bool check = false, read_ahead = true;
};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double ThreadMicros() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

// Of all threads, in seconds.
double ProcessSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// A line of /proc/self/status, in MiB: VmRSS, or VmHWM for the most so far.
double MemoryMib(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":")) return std::stod(line.substr(name.size() + 1)) / 1024;
  }
  return 0;
}

// Times of lookups; the processor time beside the wall clock, which on a machine with other work says little.
struct Times {
  std::vector<double> wall, processor;
  double matched = 0, nodes = 0, right = 0;

  void Ask(const SuffixStore& store, const Namespace& ns, const std::vector<uint32_t>& document, size_t end) {
    const auto context = std::span(document).subspan(end - 64, 64);
    const auto start = Clock::now();
    const double thread_start = ThreadMicros();
    const auto trie = store.Draft(ns, context, {});
    processor.push_back(ThreadMicros() - thread_start);
    wall.push_back(SecondsSince(start) * 1e6);
    matched += trie.ok() ? trie->match_length : 0;
    nodes += trie.ok() ? static_cast<double>(trie->nodes.size()) : 0;
    right += trie.ok() ? static_cast<double>(Right(*trie, std::span(document).subspan(end))) : 0;
  }
  // How many tokens of what really follows the trie has.
  static size_t Right(const Trie& trie, std::span<const uint32_t> following) {
    size_t depth = 0;
    int32_t at = -1;
    for (int32_t i = 0; i < static_cast<int32_t>(trie.nodes.size()) && depth < following.size(); ++i) {
      if (trie.nodes[i].parent != at || trie.nodes[i].token != following[depth]) continue;
      at = i;
      ++depth;
    }
    return depth;
  }
  Json Report(const char* when) {
    if (wall.empty()) return nullptr;
    std::sort(wall.begin(), wall.end());
    std::sort(processor.begin(), processor.end());
    const size_t count = wall.size(), p50 = count / 2, p99 = count * 99 / 100;
    std::printf(
        "%7zu lookups %-14s p50 %6.1f p99 %7.1f us; processor p50 %6.1f p99 %6.1f max %7.1f us; match "
        "%.1f, %.1f nodes, %.2f tokens right\n",
        count, when, wall[p50], wall[p99], processor[p50], processor[p99], processor.back(), matched / count,
        nodes / count, right / count);
    std::fflush(stdout);
    return {{"lookups", when},
            {"count", count},
            {"p50_us", wall[p50]},
            {"p99_us", wall[p99]},
            {"processor_p50_us", processor[p50]},
            {"processor_p99_us", processor[p99]},
            {"processor_max_us", processor.back()},
            {"match_tokens", matched / static_cast<double>(count)},
            {"nodes", nodes / static_cast<double>(count)},
            {"right_tokens", right / static_cast<double>(count)}};
  }
};

const Namespace kNs{"bench", "f0"};

// What the child tells its parent; it is shared memory, so that a kill loses nothing of it.
struct Shared {
  std::atomic<uint64_t> documents, tokens;  // acknowledged
  std::atomic<bool> ingested;
};

[[noreturn]] void Fail(const absl::Status& status) {
  std::cerr << status << "\n";
  _exit(1);
}

// Runs until it is killed.
void Ingest(const Flags& flags, Shared& shared) {
  auto files = TokenizerFiles::Read(flags.model);
  if (!files.ok()) Fail(files.status());
  auto tokenizer = Tokenizer::Load(*files);
  if (!tokenizer.ok()) Fail(tokenizer.status());
  auto store = SuffixStore::Open({.path = flags.folder, .max_bytes_per_tenant = uint64_t{1} << 50});
  if (!store.ok()) Fail(store.status());
  Corpus corpus(tokenizer->get(), static_cast<uint64_t>(static_cast<double>(flags.tokens) * flags.real),
                flags.folder + ".text");
  std::mutex held_out;  // guards that of the corpus
  double busy = 0, slowest = 0;
  size_t next_id = 0;
  auto append_batch = [&] {
    std::vector<std::vector<uint32_t>> texts;
    std::vector<std::string> ids;
    std::vector<Document> batch;
    uint64_t tokens = 0;
    for (size_t i = 0; i < kBatch; ++i) {
      {
        const std::lock_guard lock(held_out);
        texts.push_back(corpus.Next());
      }
      if (texts.back().empty()) Fail(absl::NotFoundError("there is no text on this machine"));
      ids.push_back(std::to_string(next_id++));
      tokens += texts.back().size();
    }
    for (size_t i = 0; i < kBatch; ++i) batch.push_back({ids[i], texts[i]});
    const auto start = Clock::now();
    if (const auto appended = (*store)->AppendBatch(kNs, batch); !appended.ok()) Fail(appended.status());
    busy += SecondsSince(start);
    slowest = std::max(slowest, SecondsSince(start));
    shared.documents += kBatch;
    shared.tokens += tokens;
  };

  Times times;
  std::atomic<bool> stop{false};
  std::thread asker([&] {
    std::mt19937_64 random(3);
    while (!stop) {
      const bool early = shared.tokens < flags.tokens / 5;
      std::this_thread::sleep_for(std::chrono::milliseconds(early ? 1 : flags.pause));
      if (early) continue;
      std::vector<uint32_t> document;
      {
        const std::lock_guard lock(held_out);
        if (!corpus.held_out.empty()) document = corpus.held_out[random() % corpus.held_out.size()];
      }
      if (!document.empty()) times.Ask(**store, kNs, document, 64 + random() % (document.size() - 64));
    }
  });
  const auto start = Clock::now();
  const double process_start = ProcessSeconds();
  for (size_t printed = 0; shared.tokens < flags.tokens;) {
    append_batch();
    if (shared.tokens / 10'000'000 == printed) continue;
    printed = shared.tokens / 10'000'000;
    std::printf("%4zu M tokens after %.0f s, %.0f MiB resident\n", printed * 10, SecondsSince(start),
                MemoryMib("VmRSS"));
    std::fflush(stdout);
  }
  stop = true;
  asker.join();
  const double seconds = SecondsSince(start), processor = ProcessSeconds() - process_start;
  const Stats stats = (*store)->GetStats();
  const auto tokens = static_cast<double>(stats.tokens);
  std::printf(
      "%.1f M tokens, %.0f %% real text; appended at %.0f tokens/s (%.0f with making the text; %.0f per "
      "second of "
      "processor for all of it), slowest batch of %zu %.0f ms; %llu segments, most resident %.0f MiB\n",
      tokens / 1e6, 100 * static_cast<double>(corpus.real()) / tokens, tokens / busy, tokens / seconds,
      tokens / processor, kBatch, slowest * 1e3, static_cast<unsigned long long>(stats.segments),
      MemoryMib("VmHWM"));
  const Json report = {{"tokens", stats.tokens},
                       {"real_tokens", corpus.real()},
                       {"appended_tokens_per_second", tokens / busy},
                       {"tokens_per_processor_second", tokens / processor},
                       {"slowest_batch_seconds", slowest},
                       {"segments", stats.segments},
                       {"most_resident_mib", MemoryMib("VmHWM")},
                       {"lookups", {times.Report("during appends")}}};
  Json questions = Json::array();
  for (const auto& document : corpus.held_out) questions.push_back(document);
  std::ofstream(flags.folder + ".report.json") << report;
  std::ofstream(flags.folder + ".questions.json") << questions;
  shared.ingested = true;
  for (;;) append_batch();
}

// Takes the store's files out of the page cache, as far as the system does.
void ForgetFiles(const std::string& folder) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const int fd = open(entry.path().c_str(), O_RDONLY);
    if (fd < 0) continue;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
}

// Brings them into the page cache, as far as it has room for them.
void ReadFiles(const std::string& folder) {
  std::vector<char> piece(1 << 20);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    while (file.read(piece.data(), static_cast<std::streamsize>(piece.size()))) continue;
  }
}

// Ingests in a child and kills it. Leaves the store, the report so far and the questions.
bool IngestAndKill(const Flags& flags) {
  auto* shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const pid_t child = fork();
  if (child == 0) Ingest(flags, *shared);
  while (!shared->ingested && waitpid(child, nullptr, WNOHANG) == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  if (!shared->ingested) return false;
  std::this_thread::sleep_for(std::chrono::milliseconds(700));  // in the middle of appends
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  std::filesystem::remove(flags.folder + ".text");
  Json report = Json::parse(std::ifstream(flags.folder + ".report.json"));
  report["acknowledged_documents"] = shared->documents.load();
  report["acknowledged_tokens"] = shared->tokens.load();
  std::ofstream(flags.folder + ".report.json") << report;
  return true;
}

// Opens the store and asks. False if something is lost.
bool Measure(const Flags& flags, Json& report) {
  ForgetFiles(flags.folder);
  auto start = Clock::now();
  const double process_start = ProcessSeconds();
  // What a start reads ahead is mapped, and not forgotten.
  auto store =
      SuffixStore::Open({.path = flags.folder,
                         .max_bytes_per_tenant = uint64_t{1} << 50,
                         .read_ahead_bytes = flags.read_ahead ? StoreOptions().read_ahead_bytes : 0});
  if (!store.ok()) Fail(store.status());
  const double open_seconds = SecondsSince(start), open_processor = ProcessSeconds() - process_start;
  const Stats stats = (*store)->GetStats();
  const auto documents = report["acknowledged_documents"].get<uint64_t>();
  std::printf(
      "open after kill -9, out of the page cache: %.2f s, processor %.2f s; %llu documents, %llu "
      "acknowledged\n",
      open_seconds, open_processor, static_cast<unsigned long long>(stats.documents),
      static_cast<unsigned long long>(documents));
  if (stats.documents < documents || stats.tokens < report["acknowledged_tokens"].get<uint64_t>()) {
    std::fprintf(stderr, "documents are lost\n");
    return false;
  }
  const auto questions =
      Json::parse(std::ifstream(flags.folder + ".questions.json")).get<std::vector<std::vector<uint32_t>>>();
  // Until what the kill interrupted is merged, as far as that goes in 20 tries.
  for (uint64_t segments = 0, tries = 0; segments != (*store)->GetStats().segments && tries < 20; ++tries) {
    segments = (*store)->GetStats().segments;
    std::this_thread::sleep_for(std::chrono::seconds(flags.settle));
  }
  ForgetFiles(flags.folder);
  std::mt19937_64 random(4);
  for (const auto& [when, count] : {std::pair("cold", 1000), {"getting warm", 20000}, {"warm", 20000}}) {
    if (when == std::string_view("warm")) ReadFiles(flags.folder);
    Times times;
    for (int i = 0; i < count && !questions.empty(); ++i) {
      const auto& document = questions[random() % questions.size()];
      times.Ask(**store, kNs, document, 64 + random() % (document.size() - 64));
    }
    report["lookups"].push_back(times.Report(when));
  }
  const Stats last = (*store)->GetStats();
  const double bytes = static_cast<double>(last.bytes_on_disk) / static_cast<double>(last.tokens);
  std::printf("%.1f M tokens, %llu segments, %.1f bytes/token on disk, %.0f MiB resident, most %.0f\n",
              static_cast<double>(last.tokens) / 1e6, static_cast<unsigned long long>(last.segments), bytes,
              MemoryMib("VmRSS"), MemoryMib("VmHWM"));
  report["open_seconds"] = open_seconds;
  report["open_processor_seconds"] = open_processor;
  report["bytes_per_token"] = bytes;
  report["resident_mib"] = MemoryMib("VmRSS");
  if (flags.check) {
    start = Clock::now();
    if (const absl::Status sound = (*store)->CheckIntegrity(); !sound.ok()) Fail(sound);
    std::printf("integrity holds, checked in %.1f s; most resident %.0f MiB\n", SecondsSince(start),
                MemoryMib("VmHWM"));
  }
  return true;
}

int Run(const Flags& flags) {
  if (flags.part != "measure" && !IngestAndKill(flags)) return 1;
  if (flags.part == "ingest") return 0;
  Json report = Json::parse(std::ifstream(flags.folder + ".report.json"));
  if (!Measure(flags, report)) return 1;
  if (flags.output.empty()) return 0;
  return std::ofstream(flags.output) << report.dump(1) << "\n" ? 0 : 1;
}

}  // namespace
}  // namespace clamor::retrieval

int main(int argc, char** argv) {
  clamor::retrieval::Flags flags;
  CLI::App app("The suffix store at size");
  app.add_option("--tokens", flags.tokens)->capture_default_str();
  app.add_option("--real", flags.real, "Share of real text")->capture_default_str();
  app.add_option("--model", flags.model, "Whose tokenizer")->capture_default_str();
  app.add_option("--folder", flags.folder, "Of the store; by default a temporary one");
  app.add_option("--output", flags.output, "JSON");
  app.add_option("--part", flags.part, "All, or one: what `ingest` leaves can be measured more than once")
      ->check(CLI::IsMember({"all", "ingest", "measure"}));
  app.add_option("--settle", flags.settle, "Seconds without a merge before lookups are timed")
      ->capture_default_str();
  app.add_option("--pause", flags.pause, "Milliseconds between lookups beside appends")
      ->capture_default_str();
  app.add_flag("--read-ahead,!--no-read-ahead", flags.read_ahead,
               "At the start that is measured; without: cold is cold");
  app.add_flag("--check", flags.check, "CheckIntegrity in the end");
  CLI11_PARSE(app, argc, argv);
  std::string temporary;
  if (flags.folder.empty()) {
    temporary = (std::filesystem::temp_directory_path() / "store-bench-XXXXXX").string();
    if (mkdtemp(temporary.data()) == nullptr) return 1;
    flags.folder = temporary + "/store";
  }
  const int result = clamor::retrieval::Run(flags);
  if (!temporary.empty()) std::filesystem::remove_all(temporary);
  return result;
}
