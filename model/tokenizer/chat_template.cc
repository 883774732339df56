#include "model/tokenizer/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/interpreter.h"
#include "model/tokenizer/jinja/parser.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/tokenizer_rep.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

constexpr size_t kMaxTemplateBytes = 256 << 10;
constexpr size_t kMaxRoleBytes = 64;

// The source of the template that `files` hold.
absl::StatusOr<std::string> FindSource(const TokenizerFiles& files) {
  if (const auto jinja = files.contents.find(kChatTemplateJinja); jinja != files.contents.end())
    return jinja->second;
  const auto file = files.contents.find(kTokenizerConfigJson);
  if (file == files.contents.end()) {
    return absl::NotFoundError(
        absl::StrCat("no chat template: neither ", kChatTemplateJinja, " nor ", kTokenizerConfigJson));
  }
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json config,
                          ParseUntrustedJson(kTokenizerConfigJson, file->second));
  const nlohmann::json& field = Field(config, "chat_template");
  if (field.is_string()) return field.get<std::string>();
  const std::string path = absl::StrCat(kTokenizerConfigJson, ": chat_template");
  if (field.is_null())
    return absl::NotFoundError(absl::StrCat(path, ": missing, and no ", kChatTemplateJinja));
  if (!field.is_array()) return UnexpectedValue(path, field, "a string or a list of named templates");
  for (const nlohmann::json& entry : field) {
    if (Field(entry, "name") == "default") return StringField(entry, "template", path);
  }
  return absl::NotFoundError(absl::StrCat(path, ": no template named \"default\""));
}

absl::Status CheckMessage(const ChatMessage& message, size_t index) {
  const auto is_plain = [](unsigned char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-'; };
  const std::string& role = message.role;
  if (role.empty() || role.size() > kMaxRoleBytes || !std::all_of(role.begin(), role.end(), is_plain)) {
    return absl::InvalidArgumentError(absl::StrCat("message ", index, ": role ", Shown(role),
                                                   "; expected up to ", kMaxRoleBytes,
                                                   " letters, digits, '_' and '-'"));
  }
  if (message.content.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("message ", index, ": content of ", message.content.size(),
                                                   " bytes, limit is ", kMaxTextBytes));
  }
  if (const auto offset = FindInvalidUtf8(message.content)) {
    return absl::InvalidArgumentError(
        absl::StrCat("message ", index, ": content is not valid UTF-8 at byte ", *offset));
  }
  return absl::OkStatus();
}

// A list of {"role": .., "content": ..} whose contents are marked as the user's.
jinja::Value MarkedMessages(const std::vector<ChatMessage>& messages, jinja::Arena* arena) {
  std::vector<jinja::Value> items;
  for (const ChatMessage& message : messages) {
    jinja::Dict fields;
    fields.Set(arena->String("role"), arena->String(message.role));
    fields.Set(arena->String("content"), arena->String(MarkedText(message.content, /*marked=*/true)));
    items.push_back(arena->NewDict(std::move(fields)));
  }
  return arena->NewList(std::move(items));
}

}  // namespace

struct ChatTemplate::Rep {
  const Tokenizer* tokenizer;
  std::unique_ptr<const jinja::Template> source;

  // What transformers gives to every template.
  jinja::Scope* NewGlobals(jinja::Value messages, jinja::Arena* arena) const {
    jinja::Scope* scope = arena->NewScope(nullptr);
    jinja::DefineFunctions(scope, arena);
    for (const auto& [name, token] : tokenizer->rep_->named_tokens) scope->Set(name, arena->String(token));
    scope->Set("messages", messages);
    scope->Set("tools", jinja::Value::None());
    scope->Set("documents", jinja::Value::None());
    scope->Set("add_generation_prompt", jinja::Value::Bool(false));
    return scope;
  }
};

ChatTemplate::ChatTemplate() = default;
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const TokenizerFiles& files,
                                                                 const Tokenizer* tokenizer) {
  CLAMOR_ASSIGN_OR_RETURN(const std::string source, FindSource(files));
  if (source.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template of ", source.size(), " bytes, limit is ", kMaxTemplateBytes));
  }
  if (const auto offset = FindInvalidUtf8(source)) {
    return absl::InvalidArgumentError(absl::StrCat("chat template is not valid UTF-8 at byte ", *offset));
  }
  CLAMOR_ASSIGN_OR_RETURN(auto parsed, jinja::Parse(source));
  auto chat_template = std::unique_ptr<ChatTemplate>(new ChatTemplate);
  chat_template->rep_.reset(new Rep{tokenizer, std::move(parsed)});
  return chat_template;
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& messages,
                                                 const nlohmann::ordered_json& options) const {
  jinja::Arena arena;
  CLAMOR_ASSIGN_OR_RETURN(const jinja::Value list, jinja::FromJson(messages, &arena));
  jinja::Scope* globals = rep_->NewGlobals(list, &arena);
  for (const auto& [name, option] : options.items()) {
    CLAMOR_ASSIGN_OR_RETURN(const jinja::Value value, jinja::FromJson(option, &arena));
    globals->Set(arena.String(name).text(), value);
  }
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText text, jinja::Render(*rep_->source, globals, &arena));
  return text.text();
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(const std::vector<ChatMessage>& messages) const {
  for (size_t i = 0; i < messages.size(); ++i) CLAMOR_RETURN_IF_ERROR(CheckMessage(messages[i], i));
  jinja::Arena arena;
  jinja::Scope* globals = rep_->NewGlobals(MarkedMessages(messages, &arena), &arena);
  globals->Set("add_generation_prompt", jinja::Value::Bool(true));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText text, jinja::Render(*rep_->source, globals, &arena));
  return rep_->tokenizer->rep_->EncodeMarked(text, /*parse_specials=*/true);
}

}  // namespace clamor
