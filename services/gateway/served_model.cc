#include "services/gateway/served_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"

namespace clamor {

bool AnswerAlike(const v1::ModelInfo& a, const v1::ModelInfo& b) {
  return a.name() == b.name() && a.revision() == b.revision() && a.numerics() == b.numerics() &&
         a.tokenizer_fingerprint() == b.tokenizer_fingerprint() &&
         a.max_context_tokens() == b.max_context_tokens();
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ServedModel::Load(const v1::ModelInfo& info,
                                                                     const TokenizerFiles& files) {
  if (files.Fingerprint() != info.tokenizer_fingerprint()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json has fingerprint ", files.Fingerprint(),
                                                   ", the model's is ", info.tokenizer_fingerprint()));
  }
  std::shared_ptr<ServedModel> model(new ServedModel());
  model->info_ = info;
  CLAMOR_ASSIGN_OR_RETURN(model->tokenizer_, Tokenizer::Load(files));
  auto chat_template = ChatTemplate::Load(files, model->tokenizer_.get());
  if (chat_template.ok()) {
    model->chat_template_ = *std::move(chat_template);
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }
  return model;
}

absl::StatusOr<std::vector<int32_t>> ServedModel::EncodeChat(
    const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) const {
  if (chat_template_ == nullptr) {
    return InvalidField("messages",
                        absl::StrCat("need a chat template, and model ", info_.name(), " has none"));
  }
  std::vector<ChatMessage> turns;
  for (const v1::ChatMessage& message : messages)
    turns.push_back({.role = message.role(), .content = message.content()});
  auto ids = chat_template_->Encode(turns);
  if (!ids.ok())
    return InvalidField("messages", absl::StrCat("cannot be rendered: ", ids.status().message()));
  return ids;
}

}  // namespace clamor
