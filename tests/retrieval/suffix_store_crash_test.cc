// What was acknowledged is there again after `kill -9`, and nothing half-done is. CLAMOR_CRASH_ROUNDS kills
// more often than twelve times.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "retrieval/suffix_store.h"
#include "tests/retrieval/crash_changes.h"
#include "tests/retrieval/naive_store.h"
#include "tests/retrieval/test_support.h"

extern char** environ;

namespace clamor::retrieval {
namespace {

// Starts the writer, kills it once it acknowledged `acks` changes (sometimes in the middle of the next), and
// returns how many were tried and acknowledged by then.
struct Progress {
  uint64_t tried = 0, acknowledged = 0;
};
Progress RunAndKill(const std::string& folder, uint64_t seed, uint64_t acks, useconds_t delay) {
  std::array<int, 2> pipes;
  EXPECT_EQ(pipe(pipes.data()), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, pipes[0]);
  std::string program = CLAMOR_CRASH_WRITER, path = folder, number = std::to_string(seed);
  std::array<char*, 4> arguments = {program.data(), path.data(), number.data(), nullptr};
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  close(pipes[1]);

  FILE* lines = fdopen(pipes[0], "r");
  Progress progress;
  std::array<char, 8> word;
  unsigned long long index = 0;
  bool killed = false;
  while (std::fscanf(lines, "%7s %llu", word.data(), &index) ==
         2) {  // what was written before the kill is still read
    (word[0] == 't' ? progress.tried : progress.acknowledged) = index + 1;
    if (progress.acknowledged < acks || killed) continue;
    usleep(delay);
    kill(child, SIGKILL);
    killed = true;
  }
  std::fclose(lines);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status)) << "crash_writer ended by itself with " << status;
  return progress;
}

void ExpectEqual(const SuffixStore& store, const NaiveStore& naive, std::mt19937_64& random) {
  for (const char* tenant : {"ann", "bob"}) {
    for (int query = 0; query < 30; ++query) {
      const Tokens context = RandomTokens(random, 10, 5);
      const DraftOptions options = RandomOptions(random);
      const auto trie = store.Draft({tenant, "f0"}, context, options);
      ASSERT_TRUE(trie.ok()) << trie.status();
      ASSERT_EQ(*trie, naive.Draft({tenant, "f0"}, context, options));
    }
  }
}

TEST(SuffixStoreCrashTest, KeepsAllThatWasAcknowledged) {
  std::mt19937_64 random(1);
  TempFolder folder;
  NaiveStore naive;
  int in_doubt = 0;
  const char* wanted = std::getenv("CLAMOR_CRASH_ROUNDS");
  const uint64_t rounds = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 12 / (kSlow > 1 ? 4 : 1);
  for (uint64_t round = 0; round < rounds; ++round) {  // each goes on with the folder of the last
    const Progress progress = RunAndKill(folder / "store", round, 1 + random() % 60, random() % 3000);
    ASSERT_GT(progress.acknowledged, 0u);
    ASSERT_LE(progress.acknowledged, progress.tried);
    ASSERT_LE(progress.tried, progress.acknowledged + 1);
    for (uint64_t i = 0; i < progress.acknowledged; ++i) Apply(naive, MakeChange(round, i));

    auto store = OpenStore(folder / "store");
    ASSERT_NE(store, nullptr);
    const absl::Status sound = store->CheckIntegrity();
    ASSERT_TRUE(sound.ok()) << sound;
    // The change under way when the kill came is there or not, but whole: making it now must lead to the same
    // either way.
    if (progress.tried > progress.acknowledged) {
      ++in_doubt;
      const Change change = MakeChange(round, progress.acknowledged);
      NaiveStore with = naive;
      Apply(with, change);
      uint64_t tokens_without = 0, tokens_with = 0;
      for (const char* tenant : {"ann", "bob"}) {
        for (const auto& [id, tokens] : naive.Documents({tenant, "f0"})) tokens_without += tokens.size();
        for (const auto& [id, tokens] : with.Documents({tenant, "f0"})) tokens_with += tokens.size();
      }
      const uint64_t tokens = store->GetStats().tokens;
      EXPECT_TRUE(tokens == tokens_without || tokens == tokens_with)
          << tokens << ", not " << tokens_without << " or " << tokens_with;
      ASSERT_TRUE(Apply(*store, change, folder / "bulk").ok());
      Apply(naive, change);
    }
    ExpectEqual(*store, naive, random);
  }
  EXPECT_GT(in_doubt, 0);
}

}  // namespace
}  // namespace clamor::retrieval
