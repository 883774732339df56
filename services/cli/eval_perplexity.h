// What holding the weights otherwise costs: the same documents read by the model twice, once with each
// format.
//
// Tested by tests/services/cli/eval_test.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {

struct PerplexityTask {
  ModelOptions model;           // its weights are what is judged
  std::string against;          // what they are judged by: a value of ModelOptions::weights
  std::string data;             // documents, as Suite::kPerplexity
  bool chat = false;            // text as a user's message
  int64_t limit = 0;            // documents of each category; 0: all
  int32_t document_tokens = 0;  // the first of each document
};

struct PerplexityReport {
  struct Side {
    std::string weights;
    double perplexity = 0;  // exp of the mean negative log-probability of a token
    double tokens_per_second = 0;
    double mib = 0;  // of weights, packed
  };
  std::string model, data;
  int64_t documents = 0, tokens = 0;  // tokens that were predicted: all but each document's first
  Side against, judged;
  // Positions whose most likely token is the same.
  double agreement = 0;
  // The largest change of a document's perplexity, as a ratio, and which document.
  double worst_ratio = 0;
  std::string worst_document;

  double ratio() const { return judged.perplexity / against.perplexity; }
};

// Loads one after the other, so that the memory of one suffices. Progress goes to stderr. CANCELLED after
// Ctrl-C; INVALID_ARGUMENT if no document has two tokens; else errors as ReadSuite and LoadModel.
absl::StatusOr<PerplexityReport> MeasurePerplexity(const PerplexityTask& task);

std::string RenderPerplexity(const PerplexityReport& report);  // for a terminal
std::string PerplexityJson(const PerplexityReport& report);    // one line

}  // namespace clamor::cli
