#include "services/cli/eval_perplexity.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/eval_suite.h"
#include "services/cli/text_score.h"

namespace clamor::cli {
namespace {

struct Document {
  std::string id;
  std::vector<int32_t> ids;
};

absl::StatusOr<std::vector<Document>> Encode(const PerplexityTask& task, const LoadedModel& model,
                                             const std::vector<SuitePrompt>& texts) {
  const size_t most = static_cast<size_t>(std::min(task.document_tokens, model.transformer->max_positions()));
  std::vector<Document> documents;
  for (const SuitePrompt& text : texts) {
    if (task.limit > 0 && static_cast<int64_t>(documents.size()) == task.limit) break;
    Prompt prompt = text.prompt;
    if (const auto* plain = std::get_if<std::string>(&prompt); task.chat && plain != nullptr) {
      prompt = std::vector<ChatMessage>{{"user", *plain}};
    }
    absl::StatusOr<std::vector<int32_t>> ids = EncodePrompt(model, prompt);
    if (!ids.ok()) {
      return absl::Status(ids.status().code(),
                          absl::StrCat(task.data, ":", text.line, ": ", ids.status().message()));
    }
    ids->resize(std::min(ids->size(), most));
    if (ids->size() > 1) documents.push_back({text.id, *std::move(ids)});
  }
  if (documents.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(task.data, ": no document has two tokens"));
  }
  return documents;
}

// All documents, read with the weights held in one way.
struct Reading {
  PerplexityReport::Side side;
  std::vector<Document> documents;
  std::vector<TextScore> scores;  // [documents]
};

double Loss(const TextScore& score) {
  return -std::accumulate(score.logprobs.begin(), score.logprobs.end(), 0.0);
}

absl::StatusOr<Reading> Read(const PerplexityTask& task, const ModelOptions& options,
                             const std::vector<SuitePrompt>& texts) {
  const std::string& weights = options.weights;
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadModelWithProgress(options, /*quiet=*/false));
  Reading reading;
  CLAMOR_ASSIGN_OR_RETURN(reading.documents, Encode(task, model, texts));
  reading.side.weights = weights == "stored" ? model.stored_as : weights;
  reading.side.mib = static_cast<double>(model.transformer->weights().bytes()) / (1 << 20);
  kernels::ThreadPool pool(model.threads);
  double loss = 0;
  size_t tokens = 0;
  const absl::Time begin = absl::Now();
  for (const Document& document : reading.documents) {
    if (Interrupted().exchange(false)) {
      return absl::CancelledError(absl::StrCat("interrupted after document ", reading.scores.size(), " of ",
                                               reading.documents.size(), " with ", weights, " weights"));
    }
    reading.scores.push_back(ScoreText(*model.transformer, document.ids, pool, model.kv_format));
    loss += Loss(reading.scores.back());
    tokens += document.ids.size() - 1;
    std::fprintf(stderr, "\r%s  document %zu of %zu  perplexity %.4f ", reading.side.weights.c_str(),
                 reading.scores.size(), reading.documents.size(),
                 std::exp(loss / static_cast<double>(tokens)));
  }
  std::fprintf(stderr, "\n");
  reading.side.perplexity = std::exp(loss / static_cast<double>(tokens));
  reading.side.tokens_per_second = static_cast<double>(tokens) / absl::ToDoubleSeconds(absl::Now() - begin);
  return reading;
}

}  // namespace

absl::StatusOr<PerplexityReport> MeasurePerplexity(const PerplexityTask& task) {
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<SuitePrompt> texts, ReadSuite(Suite::kPerplexity, task.data));
  Interrupted();  // from here on Ctrl-C ends the evaluation, not the process
  ModelOptions other = task.model;
  other.weights = task.against;
  other.packed_weights.clear();  // is of --weights
  CLAMOR_ASSIGN_OR_RETURN(const Reading against, Read(task, other, texts));
  CLAMOR_ASSIGN_OR_RETURN(const Reading judged, Read(task, task.model, texts));

  PerplexityReport report{.model = ModelName(task.model.directory), .data = task.data};
  report.documents = static_cast<int64_t>(judged.documents.size());
  report.against = against.side;
  report.judged = judged.side;
  int64_t same = 0;
  for (size_t d = 0; d < judged.scores.size(); ++d) {
    const TextScore &a = against.scores[d], &b = judged.scores[d];
    const size_t count = b.best.size();
    for (size_t i = 0; i < count; ++i) same += a.best[i] == b.best[i];
    report.tokens += static_cast<int64_t>(count);
    const double ratio = std::exp((Loss(b) - Loss(a)) / static_cast<double>(count));
    if (d > 0 && std::abs(std::log(ratio)) <= std::abs(std::log(report.worst_ratio))) continue;
    report.worst_ratio = ratio;
    report.worst_document = judged.documents[d].id;
  }
  report.agreement = static_cast<double>(same) / static_cast<double>(report.tokens);
  return report;
}

std::string RenderPerplexity(const PerplexityReport& r) {
  std::string text = absl::StrFormat("%s on %s: %d documents, %d tokens predicted\n\n", r.model, r.data,
                                     r.documents, r.tokens);
  absl::StrAppendFormat(&text, "%-8s %12s %12s %12s\n", "weights", "MiB", "perplexity", "tokens/s");
  for (const PerplexityReport::Side* side : {&r.against, &r.judged}) {
    absl::StrAppendFormat(&text, "%-8s %12.1f %12.4f %12.1f\n", side->weights, side->mib, side->perplexity,
                          side->tokens_per_second);
  }
  absl::StrAppendFormat(
      &text,
      "\nperplexity %+.3f %%, the most likely token is the same at %.2f %% of positions; the document that "
      "changes most: %s, %+.3f %%\n",
      100 * (r.ratio() - 1), 100 * r.agreement, r.worst_document, 100 * (r.worst_ratio - 1));
  return text;
}

std::string PerplexityJson(const PerplexityReport& r) {
  const auto side = [](const PerplexityReport::Side& s) {
    return nlohmann::ordered_json{{"weights", s.weights},
                                  {"mib", s.mib},
                                  {"perplexity", s.perplexity},
                                  {"tokens_per_second", s.tokens_per_second}};
  };
  return nlohmann::ordered_json{{"model", r.model},
                                {"data", r.data},
                                {"documents", r.documents},
                                {"tokens", r.tokens},
                                {"against", side(r.against)},
                                {"judged", side(r.judged)},
                                {"ratio", r.ratio()},
                                {"agreement", r.agreement},
                                {"worst_ratio", r.worst_ratio},
                                {"worst_document", r.worst_document}}
             .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
         "\n";
}

}  // namespace clamor::cli
