// What an evaluation counts, and what the counts say. Pure functions; NaN stands for what is not known.
//
// Tested by tests/services/cli/eval_figures_test.cc.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/spec/draft_tree.h"
#include "services/worker/engine.h"
#include "services/worker/request.h"

namespace clamor::cli {

// Steps of an engine and the trees they put to the test, summed.
struct StepCounts {
  // Nodes whose survival was estimated between two bounds, and what became of them.
  static constexpr std::array<double, 13> kSurvivalBounds = {0,   0.01, 0.02, 0.05, 0.1, 0.2, 0.3,
                                                             0.4, 0.5,  0.6,  0.7,  0.8, 0.9};
  struct Bucket {
    int64_t nodes = 0, accepted = 0;
    double predicted = 0;      // sum of survivals
    double squared_error = 0;  // sum of (survival - accepted)^2
  };

  int64_t steps = 0, rows = 0;                              // that read no prompt tokens
  std::array<double, StepReport::kPhases> phase_seconds{};  // of those steps

  int64_t forwards = 0;   // trees put to the test
  int64_t undrafted = 0;  // of them a root alone
  std::array<int64_t, kSources> drafted{}, accepted{};
  std::vector<int64_t> emitted;           // [n] forwards that emitted n tokens
  std::vector<int64_t> reached, matched;  // [d] trees that, accepted paths that have a node of depth d
  std::array<Bucket, kSurvivalBounds.size()> calibration;

  void AddStep(const StepReport& report);
  // Nodes without an estimate (survival 0: published trees, tails) do not count for `calibration`.
  void AddTree(const DraftTree& tree, const Accepted& accepted);
  void AddEmitted(int32_t tokens);
  void Add(const StepCounts& other);

  // Mean squared error of survival, in [0, 1].
  double Brier() const;
};

inline constexpr std::array<const char*, StepReport::kPhases> kPhaseNames = {"plan", "draft", "forward",
                                                                             "verify", "commit"};

// One prompt answered in one mode.
struct ModeAnswer {
  std::vector<int32_t> ids;
  std::string finish_reason;
  GenerationStats stats;
  int64_t first_tokens = 0;  // of the first forward, which ends the prefill; decode_seconds is for the others
  StepCounts counts;

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  double tokens_per_second() const;  // while decoding; NaN after a single forward
};

struct EvalQuestion {
  std::string id, category;
  int64_t line = 0;  // of the file
  std::vector<int32_t> prompt_ids;
};

// A prompt answered in every mode.
struct Answered {
  EvalQuestion question;
  std::vector<ModeAnswer> answers;  // [modes]
};

// Sums over answers of one mode.
struct ModeFigures {
  int64_t prompts = 0, prompt_tokens = 0, tokens = 0, forwards = 0, draft_nodes = 0;
  int64_t decode_tokens = 0;  // after each answer's first forward
  double prefill_seconds = 0, decode_seconds = 0;
  int64_t compared = 0, identical = 0;  // with plain decoding; 0 of 0 if that did not run
  double ratio_median = NAN;            // of answers' tokens/s to those of plain
  double ratio_total = NAN;             // of all tokens/s to those of plain
  StepCounts counts;

  double tokens_per_forward() const;
  double tokens_per_second() const;
  double nodes_per_forward() const;
};

struct CategoryFigures {
  std::string category;
  std::vector<ModeFigures> modes;  // [modes]
};

struct EvalFigures {
  std::vector<CategoryFigures> categories;  // in the order in which they first come
  CategoryFigures overall;
};

// `plain`: index of the mode to compare with. REQUIRES: every entry has `modes` answers.
EvalFigures FiguresOf(const std::vector<Answered>& answered, size_t modes, std::optional<size_t> plain);

// Where an answer first departs from that of plain decoding.
struct Difference {
  size_t prompt, mode;   // indices
  size_t token;          // index in the answer
  int32_t plain, other;  // ids; -1: the answer has ended
};
std::vector<Difference> DifferencesOf(const std::vector<Answered>& answered, std::optional<size_t> plain);

}  // namespace clamor::cli
