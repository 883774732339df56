#include "services/gateway/request_limits.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr size_t kMaxModelName = 256;
constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int kMaxMessages = 1024;
constexpr int kMaxNodes = 128;
constexpr float kMaxTemperature = 100;
constexpr float kMinRepetitionPenalty = 0.01f, kMaxRepetitionPenalty = 100;
constexpr float kMaxPenalty = 2;
constexpr float kMaxBias = 100;
constexpr int kMaxBiases = 1024;
constexpr int kMaxBanned = 1024;
constexpr int kMaxStopTokenIds = 64;
constexpr uint32_t kMaxTopLogprobs = 20;
constexpr size_t kMaxSchemaBytes = 65535;
constexpr uint32_t kMaxAnswers = 16;
constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};

absl::Status CheckSize(const char* field, int size, int limit) {
  if (size <= limit) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("has ", size, " elements, limit ", limit));
}

absl::Status CheckSampling(const v1::SamplingParameters& sampling) {
  auto reject = [](const char* field, float value, const char* range) {
    return InvalidField(absl::StrCat("options.sampling.", field),
                        absl::StrCat("is ", value, ", must be ", range));
  };
  // Written so that NaN fails.
  if (!(sampling.temperature() >= 0 && sampling.temperature() <= kMaxTemperature)) {
    return reject("temperature", sampling.temperature(), "0 to 100");
  }
  if (sampling.has_top_p() && !(sampling.top_p() > 0 && sampling.top_p() <= 1)) {
    return reject("top_p", sampling.top_p(), "above 0 and at most 1");
  }
  if (!(sampling.min_p() >= 0 && sampling.min_p() <= 1)) return reject("min_p", sampling.min_p(), "0 to 1");
  constexpr uint32_t kMaxTopK = std::numeric_limits<int32_t>::max();
  if (sampling.top_k() > kMaxTopK) {
    return InvalidField("options.sampling.top_k",
                        absl::StrCat("is ", sampling.top_k(), ", must be at most ", kMaxTopK));
  }
  if (sampling.has_repetition_penalty() && !(sampling.repetition_penalty() >= kMinRepetitionPenalty &&
                                             sampling.repetition_penalty() <= kMaxRepetitionPenalty)) {
    return reject("repetition_penalty", sampling.repetition_penalty(), "0.01 to 100");
  }
  if (!(std::abs(sampling.presence_penalty()) <= kMaxPenalty))
    return reject("presence_penalty", sampling.presence_penalty(), "-2 to 2");
  if (!(std::abs(sampling.frequency_penalty()) <= kMaxPenalty))
    return reject("frequency_penalty", sampling.frequency_penalty(), "-2 to 2");
  CLAMOR_RETURN_IF_ERROR(
      CheckSize("options.sampling.logit_bias", static_cast<int>(sampling.logit_bias_size()), kMaxBiases));
  for (const auto& [id, bias] : sampling.logit_bias()) {
    if (!(std::abs(bias) <= kMaxBias)) {
      return InvalidField(absl::StrCat("options.sampling.logit_bias[", id, "]"),
                          absl::StrCat("is ", bias, ", must be -100 to 100"));
    }
  }
  return CheckSize("options.sampling.banned_token_ids", sampling.banned_token_ids_size(), kMaxBanned);
}

absl::Status CheckEnum(const char* field, bool valid, int value) {
  return valid ? absl::OkStatus() : InvalidField(field, absl::StrCat("is ", value, ", which has no meaning"));
}

}  // namespace

absl::Status CheckModelName(const std::string& name) {
  if (name.size() <= kMaxModelName) return absl::OkStatus();
  return InvalidField("model", absl::StrCat("has ", name.size(), " bytes, limit ", kMaxModelName));
}

absl::Status CheckOptions(const v1::GenerationOptions& options) {
  constexpr uint32_t kMaxTokens = std::numeric_limits<int32_t>::max();
  if (options.has_max_tokens() && (options.max_tokens() == 0 || options.max_tokens() > kMaxTokens)) {
    return InvalidField("options.max_tokens",
                        absl::StrCat("is ", options.max_tokens(), ", must be 1 to ", kMaxTokens));
  }
  CLAMOR_RETURN_IF_ERROR(CheckSampling(options.sampling()));
  if (options.stop_size() > kMaxStops) {
    return InvalidField("options.stop",
                        absl::StrCat("has ", options.stop_size(), " strings, limit ", kMaxStops));
  }
  for (int i = 0; i < options.stop_size(); ++i) {
    const size_t bytes = options.stop(i).size();
    if (bytes == 0 || bytes > kMaxStopBytes) {
      return InvalidField(absl::StrCat("options.stop[", i, "]"),
                          absl::StrCat("has ", bytes, " bytes, must have 1 to ", kMaxStopBytes));
    }
  }
  CLAMOR_RETURN_IF_ERROR(
      CheckSize("options.stop_token_ids", options.stop_token_ids_size(), kMaxStopTokenIds));
  const uint32_t most = options.has_max_tokens() ? options.max_tokens() : kMaxTokens;
  if (options.min_tokens() > most) {
    return InvalidField("options.min_tokens",
                        absl::StrCat("is ", options.min_tokens(), ", must be 0 to ", most));
  }
  if (options.top_logprobs() > kMaxTopLogprobs) {
    return InvalidField("options.top_logprobs",
                        absl::StrCat("is ", options.top_logprobs(), ", must be 0 to ", kMaxTopLogprobs));
  }
  if (options.json_schema().size() > kMaxSchemaBytes) {
    return InvalidField("options.json_schema", absl::StrCat("has ", options.json_schema().size(),
                                                            " bytes, limit ", kMaxSchemaBytes));
  }
  if (options.has_json_schema() && options.ignore_eos()) {
    return InvalidField("options.ignore_eos", "is true, must be false with a json_schema");
  }
  if (options.has_n() && (options.n() < 1 || options.n() > kMaxAnswers)) {
    return InvalidField("options.n", absl::StrCat("is ", options.n(), ", must be 1 to ", kMaxAnswers));
  }
  const v1::SpeculationOptions& speculation = options.speculation();
  if (speculation.has_nodes() && (speculation.nodes() < -1 || speculation.nodes() > kMaxNodes)) {
    return InvalidField("options.speculation.nodes",
                        absl::StrCat("is ", speculation.nodes(), ", must be -1 to ", kMaxNodes));
  }
  CLAMOR_RETURN_IF_ERROR(
      CheckEnum("options.speculation.tree", v1::DraftTree_IsValid(speculation.tree()), speculation.tree()));
  CLAMOR_RETURN_IF_ERROR(
      CheckEnum("options.draft_scope", v1::DraftScope_IsValid(options.draft_scope()), options.draft_scope()));
  return CheckEnum("options.priority", v1::Priority_IsValid(options.priority()), options.priority());
}

absl::Status CheckMessages(const std::string& path,
                           const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  if (messages.empty() || messages.size() > kMaxMessages) {
    return InvalidField(path,
                        absl::StrCat("has ", messages.size(), " messages, must have 1 to ", kMaxMessages));
  }
  for (int i = 0; i < messages.size(); ++i) {
    if (std::find(kRoles.begin(), kRoles.end(), messages[i].role()) == kRoles.end()) {
      return InvalidField(absl::StrCat(path, "[", i, "].role"), "must be system, user, assistant or tool");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> CheckIds(const std::string& path,
                                              const google::protobuf::RepeatedField<uint32_t>& ids,
                                              uint32_t vocab_size) {
  auto wrong = std::find_if(ids.begin(), ids.end(), [&](uint32_t id) { return id >= vocab_size; });
  if (wrong != ids.end()) {
    return InvalidField(absl::StrCat(path, "[", wrong - ids.begin(), "]"),
                        absl::StrCat("is ", *wrong, ", must be below the vocabulary size ", vocab_size));
  }
  return std::vector<int32_t>(ids.begin(), ids.end());
}

absl::Status CheckOptionIds(const v1::GenerationOptions& options, uint32_t vocab_size) {
  const v1::SamplingParameters& sampling = options.sampling();
  for (const auto& [id, bias] : sampling.logit_bias()) {
    if (id >= vocab_size) {
      return InvalidField(absl::StrCat("options.sampling.logit_bias[", id, "]"),
                          absl::StrCat("is of no token, ids are below the vocabulary size ", vocab_size));
    }
  }
  CLAMOR_RETURN_IF_ERROR(
      CheckIds("options.sampling.banned_token_ids", sampling.banned_token_ids(), vocab_size).status());
  return CheckIds("options.stop_token_ids", options.stop_token_ids(), vocab_size).status();
}

absl::Status CheckContext(size_t prompt_tokens, const v1::GenerationOptions& options,
                          const v1::ModelInfo& model) {
  const uint64_t answer = options.has_max_tokens() ? options.max_tokens() : 1;
  if (prompt_tokens + answer <= model.max_context_tokens()) return absl::OkStatus();
  return Refusal("CONTEXT_TOO_LONG",
                 absl::StrCat("prompt of ", prompt_tokens, " tokens and max_tokens of ", answer,
                              " exceed the context of ", model.max_context_tokens()));
}

}  // namespace clamor
