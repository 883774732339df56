#include "services/edge/openai_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/edge/api_error.h"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

constexpr char kJson[] = "application/json";

// An event; with padding a comment fills it up, and is all that is left of one without data.
std::string EventText(absl::string_view data, size_t pad_bytes) {
  std::string text = data.empty() ? "" : absl::StrCat("data: ", data, "\n");
  if (pad_bytes > 0) {
    const size_t least = text.size() + 3;  // ":", and the ends of its line and of the event
    const size_t whole = (least + pad_bytes - 1) / pad_bytes * pad_bytes;
    absl::StrAppend(&text, ":", std::string(whole - least, ' '), "\n");
  }
  return text.empty() ? text : text + "\n";
}

uint32_t AnswersOf(const v1::GenerationOptions& options) { return options.has_n() ? options.n() : 1; }

}  // namespace

std::shared_ptr<OpenAiCall> OpenAiCall::Begin(GenerationCore* core, ApiKind kind, const HttpRequest& request,
                                              std::shared_ptr<HttpReply> reply, const StreamLimits& limits) {
  std::shared_ptr<OpenAiCall> call(new OpenAiCall(kind, reply, limits));
  Caller caller = {.method = kind == ApiKind::kChat ? "ChatCompletions" : "Completions",
                   .request_id = request.id,
                   .trace = request.trace};
  if (absl::Status status = call->Prepare(core, caller, request); !status.ok()) {
    SendError(*reply, status);
    return nullptr;
  }
  std::shared_ptr<Generation> generation;
  {
    absl::MutexLock lock(&call->mu_);
    generation = call->generation_;  // which may end before Start returns
  }
  call->self_ = call;
  generation->Start();
  return call;
}

absl::Status OpenAiCall::Prepare(GenerationCore* core, Caller& caller, const HttpRequest& request) {
  const absl::Time now = absl::Now();
  const auto refuse = [&](const absl::Status& why) {
    core->CountRefusal(caller, why);
    return why;
  };
  // Sorts out who asks before it looks at what: strangers learn nothing.
  const auto prepare = [&](auto call, const char* rpc, const char* stream_rpc) -> absl::Status {
    absl::StatusOr<std::string> tenant =
        core->Identify(request.sender, call.ok() && call->form.stream ? stream_rpc : rpc);
    if (!tenant.ok()) return refuse(tenant.status());
    caller.tenant = *std::move(tenant);
    if (!call.ok()) return refuse(call.status());
    form_ = call->form;
    caller.streams = form_.stream;
    CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Generation> generation,
                            core->Prepare(caller, call->request, this));
    const AnswerHead head = {.kind = kind_,
                             .request_id = caller.request_id,
                             .model = generation->model(),
                             .created = now,
                             .answers = AnswersOf(call->request.options())};
    answer_.emplace(head, form_, generation->tokenizer());
    hold_ = core->Hold();
    absl::MutexLock lock(&mu_);
    generation_ = std::move(generation);
    return absl::OkStatus();
  };
  return kind_ == ApiKind::kChat ? prepare(ParseChat(request.body), "Chat", "StreamChat")
                                 : prepare(ParseCompletion(request.body), "Generate", "StreamGenerate");
}

void OpenAiCall::Cancel(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  if (generation_ != nullptr) generation_->Cancel(why);
}

void OpenAiCall::OnStarted(v1::Started started) {
  if (!form_.stream) return answer_->Gather(std::move(started));
  if (!std::exchange(begun_, true)) {
    reply_->Begin({.content_type = "text/event-stream",
                   .fields = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
  }
  SendEvent(answer_->Chunk(started));
}

void OpenAiCall::OnDelta(v1::Delta delta) {
  if (!form_.stream) return answer_->Gather(std::move(delta));
  SendEvent(answer_->Chunk(delta));
}

void OpenAiCall::OnFinished(v1::Finished finished) {
  if (!form_.stream) return answer_->Gather(std::move(finished));
  SendEvent(answer_->Chunk(finished));
}

void OpenAiCall::OnEnded(const absl::Status& status) {
  // Given up from the last to the first: the connection outlives whatever else there is, so that where no
  // connection is left nothing is.
  const std::shared_ptr<HttpReply> reply = reply_;
  std::shared_ptr<Generation> generation;
  const std::shared_ptr<OpenAiCall> self = std::move(self_);
  {
    absl::MutexLock lock(&mu_);
    generation = std::move(generation_);
  }
  if (begun_) {
    SendEvent(status.ok() ? answer_->UsageChunk() : ToApiError(status).body);
    if (status.ok()) SendEvent("[DONE]");
    reply_->End();
  } else if (status.ok()) {
    reply_->Send({.content_type = kJson}, answer_->Whole());
  } else {
    SendError(*reply_, status);
  }
  reply_.reset();
}

void OpenAiCall::SendEvent(absl::string_view data) {
  const std::string event = EventText(data, limits_.pad_bytes);
  if (event.empty() || reply_->Write(event) <= limits_.max_pending_bytes) return;
  Cancel(Refusal("SLOW_CONSUMER",
                 absl::StrCat("the client let over ", limits_.max_pending_bytes, " bytes wait")));
}

}  // namespace clamor::edge
