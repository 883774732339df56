#include "model/train/record_encoder.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

constexpr absl::string_view kKindUrl = "clamor/bad-sample";
constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant", "tool"};
constexpr size_t kMaxMessages = 4096;  // all that stands before an answer is encoded anew for each
// An answer that no conversation holds and no template rewrites.
constexpr std::string_view kProbe = "clamor2406x17404probe";
// How the gateway encodes a prompt that is text.
constexpr Tokenizer::EncodeOptions kRaw{.add_specials = true, .specials = Tokenizer::Specials::kParse};
constexpr Tokenizer::EncodeOptions kPlain{.add_specials = false, .specials = Tokenizer::Specials::kPlainText};
constexpr Tokenizer::EncodeOptions kTemplate{.add_specials = false, .specials = Tokenizer::Specials::kParse};

using Ids = std::vector<int32_t>;

void Append(const Ids& tail, Ids* ids) { ids->insert(ids->end(), tail.begin(), tail.end()); }

bool StartsWith(const Ids& ids, const Ids& head) {
  return ids.size() >= head.size() && std::equal(head.begin(), head.end(), ids.begin());
}

// A failure to render or encode, which is the record's fault.
absl::Status TemplateError(const absl::Status& status) {
  return BadSampleError("template", status.message());
}

class Encoder {
 public:
  Encoder(const DatasetTexts& texts, int32_t max_length) : texts_(texts), max_length_(max_length) {}

  absl::StatusOr<std::vector<Sample>> Conversation(const std::vector<ChatMessage>& messages) const;
  absl::StatusOr<std::vector<Sample>> PromptResponse(const std::string& prompt,
                                                     const std::string& response) const;
  absl::StatusOr<std::vector<Sample>> Text(const std::string& text) const;

 private:
  // A sample of which everything from `begin` on is to be learnt.
  absl::StatusOr<std::vector<Sample>> OneAnswer(Ids ids, int32_t begin) const;
  absl::StatusOr<Ids> Answer(const std::string& content) const;
  absl::StatusOr<Ids> EndOfAnswer(const std::vector<ChatMessage>& before) const;
  bool IsEos(int32_t id) const {
    return std::find(texts_.eos_ids.begin(), texts_.eos_ids.end(), id) != texts_.eos_ids.end();
  }
  Ids Eos() const { return texts_.eos_ids.empty() ? Ids() : Ids{texts_.eos_ids.front()}; }
  absl::Status Check(const Ids& ids) const;

  const DatasetTexts& texts_;
  const int32_t max_length_;
};

absl::StatusOr<std::vector<Sample>> Encoder::Conversation(const std::vector<ChatMessage>& messages) const {
  if (texts_.chat_template == nullptr) {
    return BadSampleError("template", "the model has no chat template, which 'messages' need");
  }
  if (messages.size() > kMaxMessages) {
    return BadSampleError("too long", absl::StrCat(messages.size(), " messages, limit is ", kMaxMessages));
  }
  std::vector<Sample> samples;
  std::vector<ChatMessage> before;
  for (const ChatMessage& message : messages) {
    if (std::find(kRoles.begin(), kRoles.end(), message.role) == kRoles.end()) {
      return BadSampleError("role",
                            absl::StrCat("messages[", before.size(), "]: role is ", Shown(message.role),
                                         ", must be system, developer, user, assistant or tool"));
    }
    if (message.role == "assistant") {
      auto ids = texts_.chat_template->Encode(before);
      if (!ids.ok()) return TemplateError(ids.status());
      CLAMOR_ASSIGN_OR_RETURN(const Ids answer, Answer(message.content));
      CLAMOR_ASSIGN_OR_RETURN(const Ids end, EndOfAnswer(before));
      if (samples.empty() || !StartsWith(*ids, samples.back().ids)) samples.emplace_back();
      Sample& sample = samples.back();
      const auto begin = std::max<int32_t>(1, ids->size());
      sample.ids = *std::move(ids);
      Append(answer, &sample.ids);
      Append(end, &sample.ids);
      CLAMOR_RETURN_IF_ERROR(Check(sample.ids));
      sample.responses.push_back({begin, static_cast<int32_t>(sample.ids.size())});
    }
    before.push_back(message);
  }
  if (samples.empty()) return BadSampleError("no response", "no message has the role 'assistant'");
  return samples;
}

absl::StatusOr<std::vector<Sample>> Encoder::PromptResponse(const std::string& prompt,
                                                            const std::string& response) const {
  auto ids = texts_.tokenizer->Encode(prompt, kRaw);
  if (!ids.ok()) return TemplateError(ids.status());
  const auto begin = std::max<int32_t>(1, ids->size());
  CLAMOR_ASSIGN_OR_RETURN(const Ids answer, Answer(response));
  Append(answer, &*ids);
  Append(Eos(), &*ids);
  return OneAnswer(*std::move(ids), begin);
}

absl::StatusOr<std::vector<Sample>> Encoder::Text(const std::string& text) const {
  auto ids = texts_.tokenizer->Encode(text, kRaw);
  if (!ids.ok()) return TemplateError(ids.status());
  if (ids->empty() || !IsEos(ids->back())) Append(Eos(), &*ids);
  return OneAnswer(*std::move(ids), 1);
}

absl::StatusOr<std::vector<Sample>> Encoder::OneAnswer(Ids ids, int32_t begin) const {
  CLAMOR_RETURN_IF_ERROR(Check(ids));
  const auto end = static_cast<int32_t>(ids.size());
  return std::vector<Sample>{{std::move(ids), {{begin, end}}, ""}};
}

absl::StatusOr<Ids> Encoder::Answer(const std::string& content) const {
  auto ids = texts_.tokenizer->Encode(content, kPlain);
  if (!ids.ok()) return TemplateError(ids.status());
  if (ids->empty()) return BadSampleError("no response", "the response is empty");
  return ids;
}

// Asked with a probe, because what stands around an answer does not depend on it, while templates trim what
// it says or put an empty thought before it.
absl::StatusOr<Ids> Encoder::EndOfAnswer(const std::vector<ChatMessage>& before) const {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (const ChatMessage& message : before) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  messages.push_back({{"role", "assistant"}, {"content", kProbe}});
  const auto text = texts_.chat_template->Render(messages, nlohmann::ordered_json::object());
  if (!text.ok()) return TemplateError(text.status());
  const size_t at = text->rfind(kProbe);
  if (at == std::string::npos) return Eos();
  const auto ids = texts_.tokenizer->Encode(std::string_view(*text).substr(at + kProbe.size()), kTemplate);
  if (!ids.ok()) return TemplateError(ids.status());
  auto end = std::find_if(ids->begin(), ids->end(), [this](int32_t id) { return IsEos(id); });
  if (end == ids->end()) {
    end = std::find_if(ids->begin(), ids->end(),
                       [this](int32_t id) { return texts_.tokenizer->IsSpecial(id); });
  }
  Ids tail(ids->begin(), end == ids->end() ? ids->begin() : end + 1);
  if (tail.empty() || !IsEos(tail.back())) Append(Eos(), &tail);
  return tail;
}

absl::Status Encoder::Check(const Ids& ids) const {
  const auto size = static_cast<int64_t>(ids.size());
  if (size < 2) return BadSampleError("too short", absl::StrCat(size, " tokens, a sample needs 2"));
  if (size > max_length_) {
    return BadSampleError("too long", absl::StrCat(size, " tokens, limit is ", max_length_));
  }
  const int32_t largest = *std::max_element(ids.begin(), ids.end());
  if (largest < texts_.vocab_size) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("token ", largest, ", but the model has vocab_size ",
                                                    texts_.vocab_size, ": the tokenizer is another model's"));
}

}  // namespace

absl::Status BadSampleError(absl::string_view kind, absl::string_view what) {
  absl::Status status = absl::InvalidArgumentError(what);
  status.SetPayload(kKindUrl, absl::Cord(kind));
  return status;
}

std::optional<std::string> BadSampleKind(const absl::Status& status) {
  const auto kind = status.GetPayload(kKindUrl);
  return kind.has_value() ? std::optional(std::string(*kind)) : std::nullopt;
}

absl::StatusOr<std::vector<Sample>> EncodeRecord(const TextRecord& record, const DatasetTexts& texts,
                                                 int32_t max_length) {
  const Encoder encoder(texts, max_length);
  if (record.kind == TextRecord::Kind::kText) return encoder.Text(record.text);
  if (record.kind == TextRecord::Kind::kPromptResponse && texts.chat_template == nullptr) {
    return encoder.PromptResponse(record.messages[0].content, record.messages[1].content);
  }
  return encoder.Conversation(record.messages);
}

}  // namespace clamor
