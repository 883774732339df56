#include "services/cli/generator.h"

#include "absl/strings/str_format.h"

namespace clamor::cli {
namespace {

constexpr Source kReported[] = {Source::kJacobi,    Source::kContext,  Source::kStore,
                                Source::kAdjacency, Source::kRecycled, Source::kNoise};

int64_t AcceptedBy(const GenerationStats& stats, Source source) {
  return stats.accepted_by_source[static_cast<size_t>(source)];
}

nlohmann::ordered_json LogprobsJson(const std::vector<TokenLogprobs>& logprobs) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const TokenLogprobs& token : logprobs) {
    nlohmann::ordered_json top = nlohmann::ordered_json::array();
    for (const TokenLogprob& likely : token.top)
      top.push_back({{"id", likely.id}, {"logprob", likely.logprob}});
    json.push_back({{"logprob", token.logprob}, {"top", std::move(top)}});
  }
  return json;
}

}  // namespace

double Answer::tokens_per_second() const {
  // The first forward's tokens end the prefill; only the others took decode_seconds.
  if (stats.forwards < 2 || stats.decode_seconds <= 0) return 0;
  return tokens_per_forward() * static_cast<double>(stats.forwards - 1) / stats.decode_seconds;
}

double Answer::tokens_per_forward() const {
  return stats.tokens_per_forward(static_cast<int64_t>(token_ids.size()));
}

void Answer::Add(const Delta& delta) {
  token_ids.insert(token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  sources.insert(sources.end(), delta.sources.begin(), delta.sources.end());
  text += delta.text;
  if (logprobs) logprobs->insert(logprobs->end(), delta.logprobs.begin(), delta.logprobs.end());
}

nlohmann::ordered_json Answer::ToJson() const {
  nlohmann::ordered_json accepted;
  for (Source source : kReported) accepted[std::string(SourceName(source))] = AcceptedBy(stats, source);
  nlohmann::ordered_json json = {
      {"model", model},
      {"prompt_tokens", prompt_tokens},
      {"token_ids", token_ids},
      {"text", text},
      {"finish_reason", finish_reason},
      {"matched_stop",
       matched_stop.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(matched_stop)},
      {"seed", seed},
      {"forwards", stats.forwards},
      {"tokens_per_forward", tokens_per_forward()},
      {"prefill_seconds", stats.prefill_seconds},
      {"decode_seconds", stats.decode_seconds},
      {"tokens_per_second", tokens_per_second()},
      {"draft_nodes", stats.draft_nodes},
      {"accepted_by_source", std::move(accepted)}};
  if (logprobs) json["logprobs"] = LogprobsJson(*logprobs);
  return json;
}

std::string Answer::SpeedLine() const {
  std::string line = absl::StrFormat(
      "%d tokens in %.2f s (prompt: %d in %.2f s): %.1f tokens/s, %.2f tokens per forward", token_ids.size(),
      stats.decode_seconds, prompt_tokens, stats.prefill_seconds, tokens_per_second(), tokens_per_forward());
  const char* separator = "; drafted by ";
  for (Source source : kReported) {
    if (const int64_t accepted = AcceptedBy(stats, source); accepted > 0) {
      absl::StrAppendFormat(&line, "%s%s %d", separator, SourceName(source), accepted);
      separator = ", ";
    }
  }
  return line;
}

}  // namespace clamor::cli
