// The prompts of an evaluation, from the files in which the known suites are published, or one's own.
//
// Tested by tests/services/cli/eval_suite_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/prompt.h"

namespace clamor::cli {

enum class Suite {
  kSpecBench,   // question.jsonl: the first of `turns`; categories are the six families of Spec-Bench
  kHumanEval,   // HumanEval.jsonl: `prompt`, the beginning of a function
  kGsm8k,       // test.jsonl: `question`
  kPerplexity,  // *.jsonl, *.json: `text`, `prompt` or `messages`: whole documents, nothing is answered
  kPrompts,     // *.jsonl, *.json: `prompt` or `messages`, optionally `category`; else each line is a prompt
};

// "spec_bench", "humaneval", "gsm8k", "perplexity", "prompts": values of --suite, in the order of the
// enumeration.
const std::vector<std::string>& SuiteNames();
// REQUIRES: `name` is one of SuiteNames().
Suite SuiteNamed(const std::string& name);

struct SuitePrompt {
  std::string id;  // as the file names it, else its line
  std::string category;
  int64_t line = 0;  // from 1
  Prompt prompt;     // text or messages; never ids
};

inline constexpr size_t kMaxCategories = 64;

// All prompts of `path` in its order; not empty. NOT_FOUND names an unreadable file, INVALID_ARGUMENT
// "file:line" and the field.
absl::StatusOr<std::vector<SuitePrompt>> ReadSuite(Suite suite, const std::string& path);

}  // namespace clamor::cli
