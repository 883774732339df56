#include "services/cli/bench_mix.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace clamor::cli {
namespace {

constexpr const char* kWords[] = {
    "river",  "because", "seven",  "market", "light", "answer", "before", "garden", "number", "friend",
    "window", "letter",  "simple", "engine", "south", "minute", "circle", "silver", "winter", "reason",
    "travel", "common",  "island", "yellow", "write", "story",  "music",  "paper",  "ocean",  "children",
    "bridge", "morning", "apples", "boxes",  "train", "thirty", "double", "school", "buys",   "remaining"};

void SetMessages(const Prompt& prompt, google::protobuf::RepeatedPtrField<v1::ChatMessage>* messages) {
  const auto add = [messages](const std::string& role, const std::string& content) {
    v1::ChatMessage& message = *messages->Add();
    message.set_role(role);
    message.set_content(content);
  };
  if (const auto* text = std::get_if<std::string>(&prompt)) return add("user", *text);
  for (const ChatMessage& message : std::get<std::vector<ChatMessage>>(prompt)) {
    add(message.role, message.content);
  }
}

}  // namespace

RequestMix::RequestMix(MixOptions options, LoadSessions* sessions)
    : options_(std::move(options)), sessions_(sessions), chance_(options_.seed) {}

StreamPlan RequestMix::Next(LoadClock::time_point due) {
  const Prompt prompt = NextPrompt();
  StreamPlan plan{.due = due, .deadline = options_.deadline};
  const std::optional<std::string> session = sessions_ == nullptr ? std::nullopt : sessions_->Take();
  if (session || options_.chat || !std::holds_alternative<std::string>(prompt)) {
    v1::StreamChatRequest request = Chat(prompt);
    if (session) {
      request.mutable_session()->set_name(*session);
      plan.over = [sessions = sessions_, name = *session](const absl::Status& status) {
        sessions->Return(name, status.ok());
      };
    }
    plan.request = std::move(request);
  } else {
    plan.request = Generate(prompt);
  }
  if (Chance(options_.abort_share)) {
    plan.abort_after = std::uniform_int_distribution<int64_t>(0, options_.max_tokens - 1)(chance_);
  }
  return plan;
}

Prompt RequestMix::NextPrompt() {
  if (!options_.prompts.empty()) {
    const Prompt& prompt = options_.prompts[next_prompt_].prompt;
    next_prompt_ = (next_prompt_ + 1) % options_.prompts.size();
    return prompt;
  }
  std::string text = "Tell a story of these words:";
  std::uniform_int_distribution<size_t> word(0, std::size(kWords) - 1);
  for (int32_t i = 0; i < options_.prompt_words; ++i) absl::StrAppend(&text, " ", kWords[word(chance_)]);
  return text;
}

v1::GenerationOptions RequestMix::NextOptions() {
  v1::GenerationOptions options;
  options.set_max_tokens(static_cast<uint32_t>(options_.max_tokens));
  options.set_ignore_eos(options_.ignore_eos);
  options.mutable_sampling()->set_temperature(options_.temperature);
  options.mutable_sampling()->set_seed(chance_());
  if (Chance(options_.high_share)) {
    options.set_priority(v1::PRIORITY_HIGH);
  } else if (Chance(options_.low_share / std::max(1e-9, 1 - options_.high_share))) {
    options.set_priority(v1::PRIORITY_LOW);
  }
  return options;
}

v1::StreamGenerateRequest RequestMix::Generate(const Prompt& prompt) {
  v1::StreamGenerateRequest request;
  request.set_model(options_.model);
  request.set_text(std::get<std::string>(prompt));
  *request.mutable_options() = NextOptions();
  return request;
}

v1::StreamChatRequest RequestMix::Chat(const Prompt& prompt) {
  v1::StreamChatRequest request;
  request.set_model(options_.model);
  SetMessages(prompt, request.mutable_messages());
  *request.mutable_options() = NextOptions();
  return request;
}

}  // namespace clamor::cli
