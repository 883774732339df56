#include "services/edge/openai_answer.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace clamor::edge {
namespace {

using Json = nlohmann::ordered_json;

std::string Text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

const char* ReasonName(v1::FinishReason reason) {
  return reason == v1::FINISH_REASON_LENGTH ? "length" : "stop";
}

std::string SourceName(int source) {
  if (source == v1::DRAFT_SOURCE_UNSPECIFIED) return "model";
  constexpr absl::string_view kPrefix = "DRAFT_SOURCE_";
  const std::string& name = v1::DraftSource_Name(static_cast<v1::DraftSource>(source));
  return name.empty() ? "unknown" : absl::AsciiStrToLower(name.substr(kPrefix.size()));
}

Json AcceptedJson(const v1::AcceptedBySource& accepted) {
  return {{"jacobi", accepted.jacobi()},     {"context", accepted.context()},
          {"store", accepted.store()},       {"adjacency", accepted.adjacency()},
          {"recycled", accepted.recycled()}, {"noise", accepted.noise()}};
}

}  // namespace

OpenAiAnswer::OpenAiAnswer(AnswerHead head, const ReplyForm& form, std::shared_ptr<const Tokenizer> tokenizer)
    : head_(std::move(head)), form_(form), tokenizer_(std::move(tokenizer)) {
  for (uint32_t i = 0; i < head_.answers; ++i) {
    answers_.emplace_back();
    if (form_.tokens) answers_.back().decoder.emplace(tokenizer_.get(), /*skip_specials=*/true);
  }
}

std::string OpenAiAnswer::Chunk(const v1::Started& started) {
  Note(started);
  if (!chat()) return "";
  return ChunkOf(started.choice(), {{"delta", {{"role", "assistant"}, {"content", ""}}}}, nullptr);
}

std::string OpenAiAnswer::Chunk(const v1::Delta& delta) {
  if (delta.token_ids().empty() && delta.text().empty() && delta.trees().empty()) return "";
  completion_tokens_ += static_cast<uint32_t>(delta.token_ids_size());
  Json choice = chat() ? Json{{"delta", {{"content", delta.text()}}}} : Json{{"text", delta.text()}};
  if (form_.logprobs) choice["logprobs"] = Logprobs(delta.choice(), delta.token_ids(), delta.logprobs());
  if (form_.tokens || form_.trees) {
    Json& extension = choice["clamor"] = Json::object();
    if (form_.tokens) extension["tokens"] = Tokens(delta.choice(), delta.token_ids(), delta.sources());
    if (form_.trees) {
      extension["trees"] = Json::array();
      for (const v1::TracedTree& tree : delta.trees()) extension["trees"].push_back(Tree(tree));
    }
  } else if (delta.text().empty() && !form_.logprobs) {
    return "";
  }
  return ChunkOf(delta.choice(), std::move(choice), nullptr);
}

std::string OpenAiAnswer::Chunk(const v1::Finished& finished) {
  Json choice = chat() ? Json{{"delta", Json::object()}} : Json{{"text", ""}};
  if (form_.stats) choice["clamor"] = Stats(finished);
  return ChunkOf(finished.choice(), std::move(choice), ReasonName(finished.reason()));
}

std::string OpenAiAnswer::UsageChunk() {
  if (!form_.usage_last) return "";
  Json chunk = Head(true);
  chunk["choices"] = Json::array();
  chunk["usage"] = Usage();
  return Text(chunk);
}

void OpenAiAnswer::Gather(v1::Started started) {
  Note(started);
  answers_[started.choice()].whole.mutable_started()->Swap(&started);
}

void OpenAiAnswer::Gather(v1::Delta delta) {
  completion_tokens_ += static_cast<uint32_t>(delta.token_ids_size());
  v1::Answer& whole = answers_[delta.choice()].whole;
  whole.mutable_text()->append(delta.text());
  if (form_.logprobs || form_.tokens) whole.mutable_token_ids()->MergeFrom(delta.token_ids());
  if (form_.logprobs) whole.mutable_logprobs()->MergeFrom(delta.logprobs());
  if (form_.tokens) whole.mutable_sources()->MergeFrom(delta.sources());
}

void OpenAiAnswer::Gather(v1::Finished finished) {
  answers_[finished.choice()].whole.mutable_finished()->Swap(&finished);
}

std::string OpenAiAnswer::Whole() {
  Json object = Head(false);
  Json& choices = object["choices"] = Json::array();
  for (uint32_t i = 0; i < answers_.size(); ++i) {
    const v1::Answer& whole = answers_[i].whole;
    Json choice = {{"index", i}};
    if (chat()) {
      choice["message"] = {{"role", "assistant"}, {"content", whole.text()}, {"refusal", nullptr}};
    } else {
      choice["text"] = whole.text();
    }
    choice["logprobs"] = form_.logprobs ? Logprobs(i, whole.token_ids(), whole.logprobs()) : Json(nullptr);
    choice["finish_reason"] = ReasonName(whole.finished().reason());
    if (form_.stats) choice["clamor"] = Stats(whole.finished());
    if (form_.tokens) choice["clamor"]["tokens"] = Tokens(i, whole.token_ids(), whole.sources());
    choices.push_back(std::move(choice));
  }
  object["usage"] = Usage();
  return Text(object);
}

void OpenAiAnswer::Note(const v1::Started& started) {
  prompt_tokens_ = started.prompt_tokens();
  if (started.choice() == 0) cached_tokens_ = started.cached_tokens();
  revision_ = started.model_revision();
  answers_[started.choice()].seed = started.seed();
}

Json OpenAiAnswer::Head(bool chunk) const {
  return {{"id", absl::StrCat(chat() ? "chatcmpl-" : "cmpl-", head_.request_id)},
          {"object", !chat() ? "text_completion"
                     : chunk ? "chat.completion.chunk"
                             : "chat.completion"},
          {"created", absl::ToUnixSeconds(head_.created)},
          {"model", head_.model},
          {"system_fingerprint", revision_}};
}

std::string OpenAiAnswer::ChunkOf(uint32_t index, Json choice, const char* finish_reason) const {
  choice["index"] = index;
  if (!choice.contains("logprobs")) choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_reason == nullptr ? Json(nullptr) : Json(finish_reason);
  Json chunk = Head(true);
  chunk["choices"] = Json::array({std::move(choice)});
  if (form_.usage_always) {
    chunk["usage"] = Usage();
  } else if (form_.usage_last) {
    chunk["usage"] = nullptr;
  }
  return Text(chunk);
}

Json OpenAiAnswer::Usage() const {
  return {{"prompt_tokens", prompt_tokens_},
          {"completion_tokens", completion_tokens_},
          {"total_tokens", prompt_tokens_ + completion_tokens_},
          {"prompt_tokens_details", {{"cached_tokens", cached_tokens_}}}};
}

// Bytes that are not whole characters show as U+FFFD.
Json OpenAiAnswer::TokenText(uint32_t id) const { return tokenizer_->TokenBytes(static_cast<int32_t>(id)); }

Json OpenAiAnswer::TokenWithBytes(uint32_t id, float logprob) const {
  const std::string text = tokenizer_->TokenBytes(static_cast<int32_t>(id));
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

Json OpenAiAnswer::Logprobs(uint32_t choice, const Ids& ids, const Likelihoods& logprobs) {
  return chat() ? ChatLogprobs(ids, logprobs) : CompletionLogprobs(answers_[choice], ids, logprobs);
}

Json OpenAiAnswer::ChatLogprobs(const Ids& ids, const Likelihoods& logprobs) const {
  Json content = Json::array();
  for (int i = 0; i < ids.size() && i < logprobs.size(); ++i) {
    Json token = TokenWithBytes(ids[i], logprobs[i].logprob());
    Json& top = token["top_logprobs"] = Json::array();
    for (const v1::TokenLogprob& likely : logprobs[i].top())
      top.push_back(TokenWithBytes(likely.token_id(), likely.logprob()));
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json OpenAiAnswer::CompletionLogprobs(Answer& answer, const Ids& ids, const Likelihoods& logprobs) const {
  Json tokens = Json::array(), values = Json::array(), tops = Json::array(), offsets = Json::array();
  for (int i = 0; i < ids.size() && i < logprobs.size(); ++i) {
    offsets.push_back(answer.shown_text);
    answer.shown_text += tokenizer_->TokenBytes(static_cast<int32_t>(ids[i])).size();
    tokens.push_back(TokenText(ids[i]));
    values.push_back(logprobs[i].logprob());
    Json top = Json::object();
    for (const v1::TokenLogprob& likely : logprobs[i].top())
      top[tokenizer_->TokenBytes(static_cast<int32_t>(likely.token_id()))] = likely.logprob();
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", form_.top_logprobs > 0 ? std::move(tops) : Json(nullptr)},
          {"text_offset", std::move(offsets)}};
}

// Each with the text that it completed: together they are the answer's text before stop strings cut it.
Json OpenAiAnswer::Tokens(uint32_t choice, const Ids& ids, const Sources& sources) {
  StreamDecoder& decoder = *answers_[choice].decoder;
  Json tokens = Json::array();
  for (int i = 0; i < ids.size(); ++i) {
    const int source = i < sources.size() ? sources[i] : v1::DRAFT_SOURCE_UNSPECIFIED;
    tokens.push_back({{"id", ids[i]},
                      {"text", decoder.Add(static_cast<int32_t>(ids[i]))},
                      {"source", SourceName(source)}});
  }
  return tokens;
}

Json OpenAiAnswer::Tree(const v1::TracedTree& tree) const {
  Json nodes = Json::array();
  for (int i = 0; i < tree.token_ids_size(); ++i) {
    const bool whole = i < tree.parents_size() && i < tree.sources_size();
    nodes.push_back({{"text", TokenText(tree.token_ids(i))},
                     {"parent", whole ? tree.parents(i) : 0},
                     {"source", SourceName(whole ? tree.sources(i) : 0)}});
  }
  Json accepted = Json::array();
  for (const uint32_t node : tree.accepted()) accepted.push_back(node);
  return {{"first_token_index", tree.first_token_index()},
          {"nodes", std::move(nodes)},
          {"accepted", std::move(accepted)}};
}

Json OpenAiAnswer::Stats(const v1::Finished& finished) const {
  const v1::SpeculationStats& speculation = finished.speculation();
  return {{"seed", answers_[finished.choice()].seed},
          {"forwards", speculation.forwards()},
          {"draft_nodes", speculation.draft_nodes()},
          {"accepted", AcceptedJson(speculation.accepted())},
          {"queue_seconds", finished.timings().queue_seconds()},
          {"prefill_seconds", finished.timings().prefill_seconds()},
          {"decode_seconds", finished.timings().decode_seconds()},
          {"matched_stop", finished.matched_stop()}};
}

std::string ModelObject(const v1::ModelInfo& model, absl::Time created) {
  return Text({{"id", model.name()},
               {"object", "model"},
               {"created", absl::ToUnixSeconds(created)},
               {"owned_by", "clamor"},
               {"max_model_len", model.max_context_tokens()}});
}

std::string ModelList(const v1::ListModelsResponse& models, absl::Time created) {
  Json data = Json::array();
  for (const v1::ModelInfo& model : models.models()) data.push_back(Json::parse(ModelObject(model, created)));
  return Text({{"object", "list"}, {"data", std::move(data)}});
}

}  // namespace clamor::edge
