// Speed of the suffix store: appending, lookups at rest and during appends, start-up. `store_bench [TOKENS]
// [FOLDER] [OUTPUT.json]`.
//
// The text is synthetic: phrases of 3 to 12 tokens drawn by Zipf's law from 200 thousand, over a vocabulary
// of 32 thousand. Queries are new text of the same kind.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "retrieval/suffix_store.h"

namespace clamor::retrieval {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kDocumentTokens = 500, kBatch = 200;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class TextSource {
 public:
  explicit TextSource(uint64_t seed) : random_(seed) {
    std::mt19937_64 phrases(1);
    for (auto& phrase : phrases_) {
      phrase.resize(3 + phrases() % 10);
      for (uint32_t& token : phrase) token = Zipf(phrases, 32000);
    }
  }
  std::vector<uint32_t> Next(size_t length) {
    std::vector<uint32_t> tokens;
    while (tokens.size() < length) {
      const auto& phrase = phrases_[Zipf(random_, phrases_.size())];
      tokens.insert(tokens.end(), phrase.begin(), phrase.end());
    }
    tokens.resize(length);
    return tokens;
  }

 private:
  static uint32_t Zipf(std::mt19937_64& random, size_t size) {  // rank r with probability about 1 / r
    const double uniform = std::uniform_real_distribution<>(0, std::log(static_cast<double>(size)))(random);
    return static_cast<uint32_t>(std::exp(uniform)) - 1;
  }
  std::mt19937_64 random_;
  std::vector<std::vector<uint32_t>> phrases_{200000};
};

double ThreadMicros() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

// By the clock, and by the processor time of the thread: on a machine with other work the first says little.
nlohmann::ordered_json TimeLookups(const char* when, const SuffixStore& store, const Namespace& ns,
                                   TextSource& source, int queries) {
  std::vector<double> wall, processor;
  double matched = 0, nodes = 0;
  for (int i = 0; i < queries; ++i) {
    const std::vector<uint32_t> context = source.Next(64);
    const auto start = Clock::now();
    const double thread_start = ThreadMicros();
    const auto trie = store.Draft(ns, context, {});
    processor.push_back(ThreadMicros() - thread_start);
    wall.push_back(SecondsSince(start) * 1e6);
    matched += trie.ok() ? trie->match_length : 0;
    nodes += trie.ok() ? static_cast<double>(trie->nodes.size()) : 0;
  }
  std::sort(wall.begin(), wall.end());
  std::sort(processor.begin(), processor.end());
  const size_t p50 = wall.size() / 2, p99 = wall.size() * 99 / 100;
  std::printf(
      "lookup %-15s p50 %6.1f p99 %8.1f us; processor p50 %6.1f p99 %6.1f max %7.1f us; match %.1f, %.1f "
      "nodes\n",
      when, wall[p50], wall[p99], processor[p50], processor[p99], processor.back(), matched / queries,
      nodes / queries);
  return {{"lookups", when},
          {"p50_us", wall[p50]},
          {"p99_us", wall[p99]},
          {"processor_p50_us", processor[p50]},
          {"processor_p99_us", processor[p99]},
          {"processor_max_us", processor.back()},
          {"match_tokens", matched / queries},
          {"nodes", nodes / queries}};
}

double ResidentMebibytes() {
  std::ifstream statm("/proc/self/statm");
  double total = 0, resident = 0;
  statm >> total >> resident;
  return resident * 4096 / (1 << 20);
}

int Run(size_t tokens, const std::string& folder, const char* output) {
  const Namespace ns{"bench", "f0"};
  const StoreOptions options{.path = folder};
  auto opened = SuffixStore::Open(options);
  if (!opened.ok()) {
    std::cerr << opened.status() << "\n";
    return 1;
  }
  std::unique_ptr<SuffixStore> store = *std::move(opened);
  TextSource source(2);
  size_t next_id = 0;
  auto append_batch = [&] {
    std::vector<std::vector<uint32_t>> texts;
    std::vector<std::string> ids;
    std::vector<Document> batch;
    for (size_t i = 0; i < kBatch; ++i) {
      texts.push_back(source.Next(kDocumentTokens));
      ids.push_back(std::to_string(next_id++));
    }
    for (size_t i = 0; i < kBatch; ++i) batch.push_back({ids[i], texts[i]});
    const auto start = Clock::now();
    if (const auto appended = store->AppendBatch(ns, batch); !appended.ok())
      std::cerr << appended.status() << "\n";
    return SecondsSince(start);
  };

  double busy = 0, slowest = 0;
  for (size_t appended = 0; appended < tokens; appended += kBatch * kDocumentTokens) {
    const double seconds = append_batch();
    busy += seconds;
    slowest = std::max(slowest, seconds);
  }
  const Stats stats = store->GetStats();
  std::printf("append in batches of %zu x %zu: %.0f tokens/s, slowest batch %.0f ms\n", kBatch,
              kDocumentTokens, static_cast<double>(stats.tokens) / busy, slowest * 1e3);
  TextSource queries(3);
  nlohmann::ordered_json lookups = {TimeLookups("after appends", *store, ns, queries, 20000)};

  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) append_batch();
  });
  lookups.push_back(TimeLookups("during appends", *store, ns, queries, 20000));
  stop = true;
  writer.join();

  auto start = Clock::now();
  store.reset();
  const double close_seconds = SecondsSince(start);
  start = Clock::now();
  opened = SuffixStore::Open(options);
  if (!opened.ok()) {
    std::cerr << opened.status() << "\n";
    return 1;
  }
  store = *std::move(opened);
  const double open_seconds = SecondsSince(start);
  std::printf("close %.2f s, open %.2f s\n", close_seconds, open_seconds);
  lookups.push_back(TimeLookups("after open", *store, ns, queries, 20000));
  const Stats last = store->GetStats();
  std::printf("%.1f M tokens, %llu segments, %.1f bytes/token on disk, %.0f MiB resident\n",
              static_cast<double>(last.tokens) / 1e6, static_cast<unsigned long long>(last.segments),
              static_cast<double>(last.bytes_on_disk) / static_cast<double>(last.tokens),
              ResidentMebibytes());
  if (output == nullptr) return 0;
  const nlohmann::ordered_json report = {
      {"tokens", last.tokens},
      {"segments", last.segments},
      {"appended_tokens_per_second", static_cast<double>(stats.tokens) / busy},
      {"slowest_batch_seconds", slowest},
      {"close_seconds", close_seconds},
      {"open_seconds", open_seconds},
      {"bytes_per_token", static_cast<double>(last.bytes_on_disk) / static_cast<double>(last.tokens)},
      {"resident_mib", ResidentMebibytes()},
      {"lookups", lookups}};
  return std::ofstream(output) << report.dump(1) << "\n" ? 0 : 1;
}

}  // namespace
}  // namespace clamor::retrieval

int main(int argc, char** argv) {
  const size_t tokens = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1'000'000;
  std::string folder =
      argc > 2 ? argv[2] : (std::filesystem::temp_directory_path() / "store-bench-XXXXXX").string();
  const bool temporary = argc <= 2;
  if (temporary && mkdtemp(folder.data()) == nullptr) return 1;
  const int result = clamor::retrieval::Run(tokens, folder, argc > 3 ? argv[3] : nullptr);
  if (temporary) std::filesystem::remove_all(folder);
  return result;
}
