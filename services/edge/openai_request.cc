#include "services/edge/openai_request.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"
#include "services/edge/json_fields.h"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

using nlohmann::json;

constexpr int64_t kMaxUint32 = std::numeric_limits<uint32_t>::max();
constexpr size_t kMaxSchemaBytes = 65535;
constexpr size_t kMaxListed = 1024;  // of maps and lists that become messages

absl::Status TakeUint32(JsonFields& fields, const char* key, std::optional<uint32_t>& value) {
  std::optional<int64_t> number;
  CLAMOR_RETURN_IF_ERROR(fields.TakeInteger(key, 0, kMaxUint32, number));
  if (number) value = static_cast<uint32_t>(*number);
  return absl::OkStatus();
}

absl::Status TakeFloat(JsonFields& fields, const char* key, std::optional<float>& value) {
  std::optional<double> number;
  CLAMOR_RETURN_IF_ERROR(fields.TakeNumber(key, number));
  if (number) value = static_cast<float>(*number);
  return absl::OkStatus();
}

// Any 64 bits: what OpenAI calls an integer may be negative.
absl::Status TakeSeed(JsonFields& fields, v1::SamplingParameters& sampling) {
  const json* seed = fields.Take("seed");
  if (seed == nullptr) return absl::OkStatus();
  if (!seed->is_number_integer()) return WrongType("seed", *seed, "a whole number");
  sampling.set_seed(seed->is_number_unsigned() ? seed->get<uint64_t>()
                                               : static_cast<uint64_t>(seed->get<int64_t>()));
  return absl::OkStatus();
}

absl::Status TakeStop(JsonFields& fields, v1::GenerationOptions& options) {
  const json* stop = fields.Take("stop");
  if (stop == nullptr) return absl::OkStatus();
  if (stop->is_string()) {
    options.add_stop(stop->get<std::string>());
    return absl::OkStatus();
  }
  if (!stop->is_array() || stop->size() > kMaxListed) {
    return WrongType("stop", *stop, absl::StrCat("a string or a list of at most ", kMaxListed));
  }
  for (size_t i = 0; i < stop->size(); ++i) {
    if (!(*stop)[i].is_string()) return WrongType(absl::StrCat("stop[", i, "]"), (*stop)[i], "a string");
    options.add_stop((*stop)[i].get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status TakeLogitBias(JsonFields& fields, v1::SamplingParameters& sampling) {
  const json* biases = fields.Take("logit_bias");
  if (biases == nullptr) return absl::OkStatus();
  if (!biases->is_object() || biases->size() > kMaxListed) {
    return WrongType("logit_bias", *biases, absl::StrCat("an object of at most ", kMaxListed, " token ids"));
  }
  for (const auto& [key, bias] : biases->items()) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || key != absl::StrCat(id)) {
      return WrongType("logit_bias", json(key), "an object whose keys are token ids");
    }
    if (!bias.is_number()) return WrongType(absl::StrCat("logit_bias[", id, "]"), bias, "a number");
    (*sampling.mutable_logit_bias())[id] = static_cast<float>(bias.get<double>());
  }
  return absl::OkStatus();
}

// Elements of a list of token ids.
absl::Status AddIds(const std::string& path, const json& list,
                    google::protobuf::RepeatedField<uint32_t>& ids) {
  for (size_t i = 0; i < list.size(); ++i) {
    if (!IsIntegerIn(list[i], 0, kMaxUint32)) {
      return WrongType(absl::StrCat(path, "[", i, "]"), list[i], "a token id");
    }
    ids.Add(list[i].get<uint32_t>());
  }
  return absl::OkStatus();
}

// OpenAI's parameters of sampling, and those that vLLM and its clients have added to them.
absl::Status TakeSampling(JsonFields& fields, v1::GenerationOptions& options) {
  v1::SamplingParameters& sampling = *options.mutable_sampling();
  std::optional<float> temperature = 1.0f, top_p, min_p, repetition, presence, frequency;
  std::optional<uint32_t> top_k, min_tokens, n;
  CLAMOR_RETURN_IF_ERROR(TakeFloat(fields, "temperature", temperature));
  CLAMOR_RETURN_IF_ERROR(TakeFloat(fields, "top_p", top_p));
  CLAMOR_RETURN_IF_ERROR(TakeFloat(fields, "min_p", min_p));
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "top_k", top_k));
  CLAMOR_RETURN_IF_ERROR(TakeFloat(fields, "repetition_penalty", repetition));
  CLAMOR_RETURN_IF_ERROR(TakeFloat(fields, "presence_penalty", presence));
  CLAMOR_RETURN_IF_ERROR(TakeFloat(fields, "frequency_penalty", frequency));
  sampling.set_temperature(*temperature);
  if (top_p) sampling.set_top_p(*top_p);
  if (min_p) sampling.set_min_p(*min_p);
  if (top_k) sampling.set_top_k(*top_k);
  if (repetition) sampling.set_repetition_penalty(*repetition);
  if (presence) sampling.set_presence_penalty(*presence);
  if (frequency) sampling.set_frequency_penalty(*frequency);
  CLAMOR_RETURN_IF_ERROR(TakeSeed(fields, sampling));
  CLAMOR_RETURN_IF_ERROR(TakeLogitBias(fields, sampling));

  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "n", n));
  if (n) options.set_n(*n);
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "min_tokens", min_tokens));
  if (min_tokens) options.set_min_tokens(*min_tokens);
  CLAMOR_RETURN_IF_ERROR(TakeStop(fields, options));
  bool ignore_eos = false;
  CLAMOR_RETURN_IF_ERROR(fields.TakeBool("ignore_eos", ignore_eos));
  options.set_ignore_eos(ignore_eos);
  if (const json* ids = fields.Take("stop_token_ids")) {
    if (!ids->is_array()) return WrongType("stop_token_ids", *ids, "a list of token ids");
    CLAMOR_RETURN_IF_ERROR(AddIds("stop_token_ids", *ids, *options.mutable_stop_token_ids()));
  }
  bool store = true;
  CLAMOR_RETURN_IF_ERROR(fields.TakeBool("store", store));
  if (!store) options.set_store(false);
  return absl::OkStatus();
}

// The schema as the client wrote it: the order of its properties is that of the answer's. It is looked for in
// a text whose other objects are known to be small, for ordered objects search their members one by one.
absl::StatusOr<std::string> SchemaText(std::string_view body, const json& schema) {
  if (const size_t bytes = schema.dump().size(); bytes > kMaxSchemaBytes) {
    return InvalidField("response_format.json_schema.schema",
                        absl::StrCat("has ", bytes, " bytes, limit ", kMaxSchemaBytes));
  }
  const auto ordered = nlohmann::ordered_json::parse(body, nullptr, /*allow_exceptions=*/false);
  return ordered["response_format"]["json_schema"]["schema"].dump();
}

absl::StatusOr<std::string> ParseJsonSchema(std::string_view body, const json& json_schema) {
  const std::string path = "response_format.json_schema";
  if (!json_schema.is_object()) return WrongType(path, json_schema, "an object");
  JsonFields fields(json_schema, path + ".");
  for (const char* note : {"name", "description", "strict"})  // answers are always strict
    CLAMOR_RETURN_IF_ERROR(fields.TakeNote(note));
  const json* schema = fields.Take("schema");
  CLAMOR_RETURN_IF_ERROR(fields.Rest());
  if (schema == nullptr) return InvalidField(path + ".schema", "is not set, must be a schema");
  if (!schema->is_object() && !schema->is_boolean()) return WrongType(path + ".schema", *schema, "a schema");
  return SchemaText(body, *schema);
}

// REQUIRES: every other field was taken and the rest refused.
absl::Status ParseResponseFormat(std::string_view body, const json& format, v1::GenerationOptions& options) {
  if (!format.is_object()) return WrongType("response_format", format, "an object");
  JsonFields fields(format, "response_format.");
  std::optional<std::string> type;
  CLAMOR_RETURN_IF_ERROR(fields.TakeString("type", type));
  const json* json_schema = fields.Take("json_schema");
  CLAMOR_RETURN_IF_ERROR(fields.Rest());
  if (type == "text") return absl::OkStatus();
  if (type == "json_object") {
    options.set_json_schema(R"({"type":"object"})");
    return absl::OkStatus();
  }
  if (type != "json_schema") {
    return WrongType("response_format.type", type ? json(*type) : json(), "text, json_object or json_schema");
  }
  if (json_schema == nullptr) return InvalidField("response_format.json_schema", "is not set");
  CLAMOR_ASSIGN_OR_RETURN(*options.mutable_json_schema(), ParseJsonSchema(body, *json_schema));
  return absl::OkStatus();
}

absl::Status TakeStream(JsonFields& fields, ReplyForm& form) {
  CLAMOR_RETURN_IF_ERROR(fields.TakeBool("stream", form.stream));
  const json* options = fields.Take("stream_options");
  if (options == nullptr) return absl::OkStatus();
  if (!options->is_object()) return WrongType("stream_options", *options, "an object");
  if (!form.stream) return InvalidField("stream_options", "is set, must not be unless stream is true");
  JsonFields inner(*options, "stream_options.");
  CLAMOR_RETURN_IF_ERROR(inner.TakeBool("include_usage", form.usage_last));
  CLAMOR_RETURN_IF_ERROR(inner.TakeBool("continuous_usage_stats", form.usage_always));
  CLAMOR_RETURN_IF_ERROR(inner.TakeNote("include_obfuscation"));  // there is none
  return inner.Rest();
}

template <class Enum>
absl::Status TakeName(JsonFields& fields, const char* key,
                      std::initializer_list<std::pair<const char*, Enum>> names, Enum& value) {
  std::optional<std::string> name;
  CLAMOR_RETURN_IF_ERROR(fields.TakeString(key, name));
  if (!name) return absl::OkStatus();
  std::string known;
  for (const auto& [text, meaning] : names) {
    if (*name == text) {
      value = meaning;
      return absl::OkStatus();
    }
    absl::StrAppend(&known, known.empty() ? "" : " or ", text);
  }
  return WrongType(fields.PathOf(key), json(*name), known);
}

// Our own options.
absl::Status TakeExtension(JsonFields& fields, v1::GenerationOptions& options, ReplyForm& form) {
  const json* extension = fields.Take("clamor");
  if (extension == nullptr) return absl::OkStatus();
  if (!extension->is_object()) return WrongType("clamor", *extension, "an object");
  form.stats = true;
  JsonFields inner(*extension, "clamor.");
  CLAMOR_RETURN_IF_ERROR(inner.TakeBool("tokens", form.tokens));
  CLAMOR_RETURN_IF_ERROR(inner.TakeBool("trees", form.trees));
  if (form.trees && !form.stream) return InvalidField("clamor.trees", "is true, must not be without stream");
  std::optional<int64_t> nodes;
  constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
  CLAMOR_RETURN_IF_ERROR(inner.TakeInteger("nodes", -1, kMaxInt32, nodes));
  if (nodes) options.mutable_speculation()->set_nodes(static_cast<int32_t>(*nodes));
  v1::DraftTree tree = v1::DRAFT_TREE_UNSPECIFIED;
  CLAMOR_RETURN_IF_ERROR(TakeName(
      inner, "tree", {{"merged", v1::DRAFT_TREE_MERGED}, {"published", v1::DRAFT_TREE_PUBLISHED}}, tree));
  options.mutable_speculation()->set_tree(tree);
  v1::DraftScope scope = v1::DRAFT_SCOPE_UNSPECIFIED;
  CLAMOR_RETURN_IF_ERROR(
      TakeName(inner, "draft_scope", {{"own", v1::DRAFT_SCOPE_OWN}, {"none", v1::DRAFT_SCOPE_NONE}}, scope));
  options.set_draft_scope(scope);
  v1::Priority priority = v1::PRIORITY_UNSPECIFIED;
  CLAMOR_RETURN_IF_ERROR(TakeName(
      inner, "priority",
      {{"low", v1::PRIORITY_LOW}, {"normal", v1::PRIORITY_NORMAL}, {"high", v1::PRIORITY_HIGH}}, priority));
  options.set_priority(priority);
  options.set_trace_drafts(form.trees);
  return inner.Rest();
}

// What both kinds of requests have. REQUIRES: the fields of their own were taken.
absl::Status TakeShared(std::string_view body, JsonFields& fields, v1::GenerationOptions& options,
                        ReplyForm& form) {
  CLAMOR_RETURN_IF_ERROR(TakeSampling(fields, options));
  CLAMOR_RETURN_IF_ERROR(TakeStream(fields, form));
  CLAMOR_RETURN_IF_ERROR(TakeExtension(fields, options, form));
  if (form.logprobs) options.set_top_logprobs(form.top_logprobs);
  // Notes for OpenAI's own books, and hints: they change no answer.
  for (const char* note : {"user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"})
    CLAMOR_RETURN_IF_ERROR(fields.TakeNote(note));
  const json* format = fields.Take("response_format");
  CLAMOR_RETURN_IF_ERROR(fields.Rest());
  return format == nullptr ? absl::OkStatus() : ParseResponseFormat(body, *format, options);
}

absl::StatusOr<json> ParseBody(std::string_view body) {
  absl::StatusOr<json> parsed = ParseUntrustedJson("body", body);
  if (parsed.ok() && !parsed->is_object()) return WrongType("body", *parsed, "a JSON object");
  return parsed;
}

// Content: a string, or a list of parts that are texts.
absl::Status ParseContent(const std::string& path, const json* content, std::string& text) {
  if (content == nullptr) return InvalidField(path, "is not set, must be a string");
  if (content->is_string()) {
    text = content->get<std::string>();
    return absl::OkStatus();
  }
  if (!content->is_array()) return WrongType(path, *content, "a string or a list of parts");
  for (size_t i = 0; i < content->size(); ++i) {
    const std::string at = absl::StrCat(path, "[", i, "]");
    const json& part = (*content)[i];
    if (!part.is_object()) return WrongType(at, part, "an object");
    JsonFields fields(part, at + ".");
    std::optional<std::string> type, words;
    CLAMOR_RETURN_IF_ERROR(fields.TakeString("type", type));
    if (type != "text") return WrongType(at + ".type", type ? json(*type) : json(), "text");
    CLAMOR_RETURN_IF_ERROR(fields.TakeString("text", words));
    CLAMOR_RETURN_IF_ERROR(fields.Rest());
    if (!words) return InvalidField(at + ".text", "is not set, must be a string");
    text += *words;
  }
  return absl::OkStatus();
}

absl::Status ParseMessage(const std::string& path, const json& message, v1::ChatMessage& parsed) {
  if (!message.is_object()) return WrongType(path, message, "an object");
  JsonFields fields(message, path + ".");
  std::optional<std::string> role;
  CLAMOR_RETURN_IF_ERROR(fields.TakeString("role", role));
  parsed.set_role(role == "developer" ? "system" : role.value_or(""));
  CLAMOR_RETURN_IF_ERROR(ParseContent(path + ".content", fields.Take("content"), *parsed.mutable_content()));
  // An answer that is sent back brings what OpenAI's has beside its text: nothing, if it is one of ours.
  for (const char* list : {"annotations", "tool_calls"}) {
    const json* items = fields.Take(list);
    if (items != nullptr && !items->empty())
      return InvalidField(absl::StrCat(path, ".", list), "is not supported");
  }
  return fields.Rest();
}

absl::Status TakeMessages(JsonFields& fields, v1::ChatRequest& request) {
  const json* messages = fields.Take("messages");
  if (messages == nullptr) return InvalidField("messages", "is not set, must be a list of messages");
  if (!messages->is_array() || messages->size() > kMaxListed) {
    return WrongType("messages", *messages, absl::StrCat("a list of at most ", kMaxListed, " messages"));
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    CLAMOR_RETURN_IF_ERROR(
        ParseMessage(absl::StrCat("messages[", i, "]"), (*messages)[i], *request.add_messages()));
  }
  return absl::OkStatus();
}

// Text or token ids, or a list of one of them.
absl::Status TakePrompt(JsonFields& fields, v1::GenerateRequest& request) {
  const json* prompt = fields.Take("prompt");
  if (prompt == nullptr) return InvalidField("prompt", "is not set, must be a string or token ids");
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > 1) {
      return InvalidField("prompt", absl::StrCat("has ", prompt->size(), " prompts, limit 1 a request"));
    }
    prompt = &prompt->front();
  }
  if (prompt->is_string()) {
    request.set_text(prompt->get<std::string>());
    return absl::OkStatus();
  }
  if (!prompt->is_array()) return WrongType("prompt", *prompt, "a string or token ids");
  return AddIds("prompt", *prompt, *request.mutable_token_ids()->mutable_ids());
}

}  // namespace

absl::StatusOr<ChatCall> ParseChat(std::string_view body) {
  CLAMOR_ASSIGN_OR_RETURN(const json parsed, ParseBody(body));
  JsonFields fields(parsed, "");
  ChatCall call;
  std::optional<std::string> model;
  CLAMOR_RETURN_IF_ERROR(fields.TakeString("model", model));
  call.request.set_model(model.value_or(""));
  CLAMOR_RETURN_IF_ERROR(TakeMessages(fields, call.request));
  v1::GenerationOptions& options = *call.request.mutable_options();
  std::optional<uint32_t> max_tokens, max_completion_tokens, top_logprobs;
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "max_tokens", max_tokens));
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "max_completion_tokens", max_completion_tokens));
  if (max_completion_tokens) max_tokens = max_completion_tokens;
  if (max_tokens) options.set_max_tokens(*max_tokens);
  CLAMOR_RETURN_IF_ERROR(fields.TakeBool("logprobs", call.form.logprobs));
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "top_logprobs", top_logprobs));
  if (top_logprobs && !call.form.logprobs) {
    return InvalidField("top_logprobs", "is set, must not be unless logprobs is true");
  }
  call.form.top_logprobs = top_logprobs.value_or(0);
  CLAMOR_RETURN_IF_ERROR(TakeShared(body, fields, options, call.form));
  return call;
}

absl::StatusOr<CompletionCall> ParseCompletion(std::string_view body) {
  CLAMOR_ASSIGN_OR_RETURN(const json parsed, ParseBody(body));
  JsonFields fields(parsed, "");
  CompletionCall call;
  std::optional<std::string> model;
  CLAMOR_RETURN_IF_ERROR(fields.TakeString("model", model));
  call.request.set_model(model.value_or(""));
  CLAMOR_RETURN_IF_ERROR(TakePrompt(fields, call.request));
  v1::GenerationOptions& options = *call.request.mutable_options();
  constexpr uint32_t kDefaultMaxTokens = 16;  // OpenAI's
  std::optional<uint32_t> max_tokens = kDefaultMaxTokens, logprobs, best_of;
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "max_tokens", max_tokens));
  options.set_max_tokens(*max_tokens);
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "logprobs", logprobs));
  call.form.logprobs = logprobs.has_value();
  call.form.top_logprobs = logprobs.value_or(0);
  bool echo = false;
  CLAMOR_RETURN_IF_ERROR(fields.TakeBool("echo", echo));
  if (echo) return InvalidField("echo", "is true, which is not supported");
  CLAMOR_RETURN_IF_ERROR(TakeUint32(fields, "best_of", best_of));
  CLAMOR_RETURN_IF_ERROR(TakeShared(body, fields, options, call.form));
  if (best_of && *best_of != (options.has_n() ? options.n() : 1)) {
    return InvalidField("best_of", absl::StrCat("is ", *best_of, ", must be n: answers are not ranked"));
  }
  return call;
}

}  // namespace clamor::edge
