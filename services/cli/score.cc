// `clamor score`: how likely the model finds a text, token by token.
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/prompt.h"
#include "services/cli/text_score.h"

namespace clamor::cli {
namespace {

struct Flags {
  ModelOptions model;
  PromptFlags prompt;
};

absl::Status Score(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const Prompt prompt, ReadPrompt(flags.prompt));
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadModelWithProgress(flags.model, /*quiet=*/true));
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodePrompt(model, prompt));
  if (static_cast<int64_t>(ids.size()) > model.transformer->max_positions()) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", ids.size(), " tokens, the context ",
                                                   model.transformer->max_positions()));
  }
  kernels::ThreadPool pool(model.threads);
  const std::vector<double> logprobs = ScoreText(*model.transformer, ids, pool, model.kv_format).logprobs;

  nlohmann::ordered_json values = nlohmann::ordered_json::array({nullptr});
  double sum = 0;
  for (double logprob : logprobs) {
    values.push_back(logprob);
    sum += logprob;
  }
  nlohmann::ordered_json perplexity;  // of one token: none
  if (!logprobs.empty()) perplexity = std::exp(-sum / static_cast<double>(logprobs.size()));
  std::printf(
      "%s\n",
      nlohmann::ordered_json{{"ids", ids}, {"logprobs", values}, {"perplexity", perplexity}}.dump().c_str());
  return absl::OkStatus();
}

}  // namespace

void AddScore(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("score", "Log-probability of each token of a text, as JSON");
  AddModelFlags(*verb, flags->model)->required();
  AddPromptFlags(*verb, flags->prompt, /*with_chat=*/false);
  verb->callback([flags, &run] { run = [flags] { return Score(*flags); }; });
}

}  // namespace clamor::cli
