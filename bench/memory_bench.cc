// How fast threads read memory that no cache holds: the roof of decoding, which reads every weight once a token.
//
//     memory_bench [THREADS] [SECONDS]
// Prints one JSON object: the best of some passes over a GiB, and the median.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/thread_pool.h"

namespace clamor {
namespace {

constexpr size_t kWords = size_t{1} << 27;  // a GiB
constexpr size_t kLine = 8;                 // words of a cache line
using Line [[gnu::vector_size(64)]] = uint64_t;

// The sum, so that nothing is left out. A line is one load where the CPU has such, and is asked for early:
// else a core does not have enough lines on their way.
[[gnu::target_clones("avx512f", "avx2", "default")]] uint64_t Sum(const uint64_t* words, size_t count) {
  constexpr size_t kAhead = 128 * kLine;
  Line sums = {};
  for (size_t i = 0; i + kLine <= count; i += kLine) {
    __builtin_prefetch(words + i + kAhead);
    Line line;
    std::memcpy(&line, words + i, sizeof(line));
    sums += line;
  }
  uint64_t sum = 0;
  for (size_t k = 0; k < kLine; ++k) sum += sums[k];
  return sum;
}

int Main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const double budget = argc > 2 ? std::atof(argv[2]) : 3;
  if (threads < 1 || threads > 1024 || budget <= 0) {
    std::fprintf(stderr, "usage: memory_bench [THREADS] [SECONDS]\n");
    return 2;
  }
  kernels::ThreadPool pool(threads);
  std::vector<uint64_t> words(kWords, 1);
  std::vector<uint64_t> sums(threads);
  std::vector<double> rates;
  double spent = 0;
  while (spent < budget || rates.size() < 3) {
    const auto begin = std::chrono::steady_clock::now();
    pool.Run([&](int worker) {
      const size_t share = kWords / threads / kLine * kLine;
      sums[worker] = Sum(words.data() + worker * share, share);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (std::accumulate(sums.begin(), sums.end(), uint64_t{0}) > kWords) return 1;  // each word is 1
    spent += seconds;
    rates.push_back(static_cast<double>(kWords * sizeof(uint64_t)) / seconds * 1e-9);
  }
  std::sort(rates.begin(), rates.end());
  std::printf("{\"threads\":%d,\"gb_per_second\":%.3f,\"median_gb_per_second\":%.3f}\n", threads, rates.back(),
              rates[rates.size() / 2]);
  return 0;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
