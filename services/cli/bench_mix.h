// What the requests of a load ask: prompts in turn, priorities, deadlines and clients that give up, by chance
// but the same for the same seed.
//
// Tested by tests/services/cli/bench_test.py.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "services/cli/bench_sessions.h"
#include "services/cli/bench_stream.h"
#include "services/cli/eval_suite.h"

namespace clamor::cli {

struct MixOptions {
  std::string model;                 // at the gateway; empty: its only one
  std::vector<SuitePrompt> prompts;  // asked in turn; empty: made up of words
  int32_t prompt_words = 40;         // of those made up
  bool chat = false;                 // text as a user's message
  int32_t max_tokens = 128;
  bool ignore_eos = false;
  float temperature = 0;
  double abort_share = 0;  // of requests whose client gives up after some of the tokens
  double high_share = 0, low_share = 0;
  std::optional<double> deadline;  // seconds
  uint64_t seed = 0;
};

// Not thread-safe.
class RequestMix {
 public:
  // With `sessions` (null: none) requests are turns of those that are free.
  RequestMix(MixOptions options, LoadSessions* sessions);

  StreamPlan Next(LoadClock::time_point due);

 private:
  bool Chance(double share) { return std::uniform_real_distribution<double>()(chance_) < share; }
  Prompt NextPrompt();
  v1::GenerationOptions NextOptions();
  v1::StreamGenerateRequest Generate(const Prompt& prompt);
  v1::StreamChatRequest Chat(const Prompt& prompt);

  const MixOptions options_;
  LoadSessions* const sessions_;
  std::mt19937_64 chance_;
  size_t next_prompt_ = 0;
};

}  // namespace clamor::cli
