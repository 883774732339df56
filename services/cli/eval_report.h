// What an evaluation found, for a terminal, for programs and as a page. Pure functions.
//
// Tested by tests/services/cli/eval_report_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "services/cli/eval_figures.h"
#include "services/cli/report_output.h"

namespace clamor::cli {

struct EvalReport {
  std::string model, suite, data;
  nlohmann::ordered_json options, machine;  // objects: what was asked for, where it ran
  std::vector<std::string> modes;
  std::optional<size_t> plain;              // of modes
  bool fresh = false;                       // drafting forgets after each prompt
  size_t planned = 0;                       // prompts
  std::map<std::string, int64_t> too_long;  // prompts left out, by category
  std::vector<Answered> answered;
  EvalFigures figures;  // of `answered`
  std::vector<Difference> differences;

  bool complete() const { return answered.size() == planned; }
};

// "prompt HumanEval/0 (F:1): published differs from plain at token 3: 17 instead of 42".
std::string DescribeDifference(const EvalReport& report, const Difference& difference);

// INTERNAL describes the first answer that is not that of plain decoding; CANCELLED: not all prompts were
// answered.
absl::Status VerdictOf(const EvalReport& report);

// How to read the figures: what is counted, what was warm. One paragraph.
std::string EvalNotes(const EvalReport& report);

// "10 of 12 prompts, left out as too long: 80 of rag".
std::string EvalScope(const EvalReport& report);

// The figures as tables.
std::vector<ReportTable> TablesOf(const EvalReport& report);

// For a terminal: notes and tables.
std::string RenderEvalText(const EvalReport& report);

// One object:
//   model, suite, data, options{}, machine{}, modes[name], notes
//   prompts{planned, answered, too_long{category: prompts left out}}, complete, lossless (null without plain
//   decoding) overall{mode: FIGURES}, categories[{category, modes{mode: FIGURES}}] differences[{prompt, line,
//   mode, token_index, plain, other}]: ids, null where an answer has ended answers[{prompt, category, line,
//   prompt_ids, token_ids (of the first mode), modes{mode: {tokens, finish_reason,
//     forwards, first_tokens, draft_nodes, prefill_seconds, decode_seconds, tokens_per_second, identical}}}]
// FIGURES: prompts, prompt_tokens, tokens, forwards, tokens_per_forward, draft_nodes, nodes_per_forward,
//   prefill_seconds, decode_tokens, decode_seconds, tokens_per_second, ratio_median, ratio_total, compared,
//   identical, undrafted_forwards, drafted_by_source{}, accepted_by_source{}, emitted_per_forward[n],
//   trees_by_depth[d], accepted_by_depth[d], steps, rows, seconds_by_phase{}, calibration[{from, to, nodes,
//   predicted, observed}], brier
// Numbers that are not known are null.
nlohmann::ordered_json EvalJson(const EvalReport& report);

// One page that needs nothing else: tables and plots.
std::string RenderEvalPage(const EvalReport& report);

}  // namespace clamor::cli
