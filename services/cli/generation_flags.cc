#include "services/cli/generation_flags.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "kernels/status_macros.h"
#include "model/grammar/json_schema.h"
#include "services/cli/command.h"
#include "services/rpc_error.h"

namespace clamor::cli {

namespace {

absl::Status ReadSchema(const std::string& file, Question& question) {
  if (question.options.ignore_eos) return UsageError("--ignore-eos cannot be had with --json-schema");
  std::ifstream in(file, std::ios::binary);
  std::string text(kMaxSchemaBytes + 1, '\0');
  if (!in || (in.read(text.data(), static_cast<std::streamsize>(text.size())), in.bad())) {
    return absl::NotFoundError(absl::StrCat("--json-schema: cannot read ", file));
  }
  text.resize(static_cast<size_t>(in.gcount()));
  absl::StatusOr<Grammar> grammar = CompileJsonSchema(text);
  if (!grammar.ok())
    return UsageError(absl::StrCat("--json-schema ", file, ": ", MessageOf(grammar.status())));
  question.options.grammar = std::make_shared<const Grammar>(*std::move(grammar));
  question.json_schema = std::move(text);
  return absl::OkStatus();
}

}  // namespace

void AddGenerationFlags(CLI::App& verb, GenerationFlags& flags) {
  CLI::Option* model = AddModelFlags(verb, flags.model);
  CLI::Option* server =
      verb.add_option("--server", flags.server, "HOST:PORT of a gateway, in place of --model")
          ->excludes(model)
          ->group("Model");
  AddConnectionFlags(verb, flags.connection);
  verb.add_option("--model-name", flags.model_name, "Which of the gateway's models")
      ->needs(server)
      ->group("Model");
  verb.add_option("--retrieval", flags.retrieval, "HOST:PORT of a store to take drafts from")
      ->needs(model)
      ->group("Speculation");

  Request& options = flags.options;
  options.max_tokens = 256;
  verb.add_option("--max-tokens", options.max_tokens,
                  "Tokens at most; prompt and answer must fit the context")
      ->check(CLI::Range(1, std::numeric_limits<int32_t>::max()))
      ->capture_default_str()
      ->group("Answer");
  verb.add_option("--stop", options.stop, "End before this text; may be repeated")
      ->allow_extra_args(false)
      ->group("Answer");
  verb.add_option("--stop-ids", options.stop_token_ids, "End with any of these tokens: ID,ID,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->group("Answer");
  verb.add_option("--min-tokens", options.min_tokens, "Nothing but --max-tokens ends the first of them")
      ->check(CLI::NonNegativeNumber)
      ->group("Answer");
  verb.add_option("--logprobs", options.top_logprobs,
                  "In the JSON: each token's log-probability, and those of this many likeliest tokens")
      ->check(CLI::Range(0, Request::kMaxTopLogprobs))
      ->group("Answer");
  verb.add_flag("--ignore-eos", options.ignore_eos, "Go on after the model's end-of-sequence token")
      ->group("Answer");

  verb.add_option("--json-schema", flags.json_schema,
                  "Answer with a JSON text that the schema in this file allows")
      ->group("Answer");

  SamplingOptions& sampling = options.sampling;
  verb.add_option("--temperature", sampling.temperature, "0: the most likely token each time")
      ->check(CLI::Range(0.0f, 100.0f))
      ->capture_default_str()
      ->group("Sampling");
  verb.add_option("--top-p", sampling.top_p, "Keep the likeliest tokens that together reach this probability")
      ->check(CLI::Range(0.0f, 1.0f))
      ->capture_default_str()
      ->group("Sampling");
  verb.add_option("--top-k", sampling.top_k, "Keep this many of the likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->group("Sampling");
  verb.add_option("--min-p", sampling.min_p, "Keep tokens with this share of the likeliest one's probability")
      ->check(CLI::Range(0.0f, 1.0f))
      ->group("Sampling");
  verb.add_option("--repetition-penalty", sampling.repetition_penalty,
                  "Divides the logits of tokens that prompt or answer hold; 1: none")
      ->group("Sampling");
  verb.add_option("--presence-penalty", sampling.presence_penalty,
                  "Taken from the logits of tokens that the answer holds")
      ->group("Sampling");
  verb.add_option("--frequency-penalty", sampling.frequency_penalty,
                  "Likewise, for each time the answer holds them")
      ->group("Sampling");
  verb.add_option("--logit-bias", flags.logit_bias, "Added to tokens' logits: ID:BIAS,ID:BIAS,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->group("Sampling");
  verb.add_option("--ban", sampling.banned_token_ids, "Tokens that never come: ID,ID,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->group("Sampling");
  verb.add_option("--seed", flags.seed, "Of the noise; drawn and told if not given")->group("Sampling");

  verb.add_option("--nodes", flags.nodes, "Draft nodes per step: auto or a number; 0: plain decoding")
      ->capture_default_str()
      ->group("Speculation");
  verb.add_option("--tree", flags.tree, "merged or published")
      ->check(CLI::IsMember({"merged", "published"}))
      ->capture_default_str()
      ->group("Speculation");
  verb.add_flag("--show-drafts", flags.show_drafts, "Colour the tokens that came for free")
      ->group("Speculation");
}

absl::StatusOr<Question> QuestionWith(const GenerationFlags& flags) {
  Question question{.options = flags.options, .seed = flags.seed};
  Request& request = question.options;
  if (flags.nodes != "auto") {
    int32_t nodes = 0;
    if (!absl::SimpleAtoi(flags.nodes, &nodes) || nodes < 0 || nodes > SpeculationOptions::kMaxNodes) {
      return UsageError(absl::StrCat("--nodes is '", flags.nodes, "', must be auto or 0 to ",
                                     SpeculationOptions::kMaxNodes));
    }
    request.speculation.nodes = nodes;
  }
  for (const std::string& item : flags.logit_bias) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(item, absl::MaxSplits(':', 1));
    int32_t id = 0;
    float bias = 0;
    if (!absl::SimpleAtoi(parts.first, &id) || !absl::SimpleAtof(parts.second, &bias)) {
      return UsageError(absl::StrCat("--logit-bias: '", item.substr(0, 40), "' is not ID:BIAS"));
    }
    std::vector<TokenBias>& biases = request.sampling.logit_bias;
    if (std::any_of(biases.begin(), biases.end(), [id](const TokenBias& b) { return b.token == id; })) {
      return UsageError(absl::StrCat("--logit-bias: token ", id, " is given twice"));
    }
    biases.push_back({id, bias});
  }
  request.speculation.shape = flags.tree == "published" ? TreeShape::kPublished : TreeShape::kMerged;
  if (absl::Status valid = request.ValidateOptions(std::numeric_limits<int32_t>::max()); !valid.ok())
    return UsageError(valid.message());
  if (!flags.json_schema.empty()) CLAMOR_RETURN_IF_ERROR(ReadSchema(flags.json_schema, question));
  return question;
}

absl::StatusOr<std::unique_ptr<Generator>> MakeGenerator(const GenerationFlags& flags, const Request& options,
                                                         bool quiet) {
  if (!flags.server.empty()) return MakeGatewayGenerator(flags.server, flags.connection, flags.model_name);
  if (flags.model.directory.empty()) return UsageError("give --model DIR or --server HOST:PORT");
  CLAMOR_ASSIGN_OR_RETURN(LoadedModel model, LoadModelWithProgress(flags.model, quiet));
  return MakeLocalGenerator(std::move(model), flags.retrieval, options.speculation.nodes);
}

}  // namespace clamor::cli
