// Changes a store until it is killed, and says on stdout what was acknowledged: `crash_writer FOLDER SEED`.
// Lookups go on beside the changes.
//
// For each change it writes one line before ("try ...") and one after ("ack"). The change itself follows from
// the seed and its number, so that the test can make the same ones (crash_changes.h).
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "tests/retrieval/crash_changes.h"

int main(int argc, char** argv) {
  using namespace clamor::retrieval;  // NOLINT
  if (argc != 3) return 2;
  auto store = SuffixStore::Open({.path = argv[1], .hot_tokens = 2000});
  if (!store.ok()) {
    std::fprintf(stderr, "%s\n", store.status().ToString().c_str());
    return 1;
  }
  const auto seed = static_cast<uint64_t>(std::atoll(argv[2]));
  std::thread([&] {
    std::mt19937_64 random(seed);
    for (;;) {
      Tokens context(10);
      for (uint32_t& token : context) token = static_cast<uint32_t>(random() % 5);
      if (!(*store)->Draft({random() % 2 ? "ann" : "bob", "f0"}, context, {}).ok()) std::abort();
    }
  }).detach();
  for (uint64_t i = 0;; ++i) {
    const Change change = MakeChange(seed, i);
    std::printf("try %llu\n", static_cast<unsigned long long>(i));
    std::fflush(stdout);
    if (const absl::Status status = Apply(**store, change, std::string(argv[1]) + ".bulk"); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      return 1;
    }
    std::printf("ack %llu\n", static_cast<unsigned long long>(i));
    std::fflush(stdout);
  }
}
