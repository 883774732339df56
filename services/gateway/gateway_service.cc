#include "services/gateway/gateway_service.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/gateway/request_limits.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

// A reactor that has ended before it began.
template <class Reactor>
class Refused final : public Reactor {
 public:
  explicit Refused(const absl::Status& status) { this->Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

uint64_t Random64() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const ServedModel& model, const std::string& field,
                                                const std::string& text, bool add_specials) {
  auto ids =
      model.tokenizer().Encode(text, {.add_specials = add_specials, .specials = Tokenizer::Specials::kParse});
  if (!ids.ok()) return InvalidField(field, absl::StrCat("cannot be encoded: ", ids.status().message()));
  return ids;
}

// The prompt of each kind of request: GenerateRequest and StreamGenerateRequest, ChatRequest and
// StreamChatRequest.
template <class Request>
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const ServedModel& model, const Request& request) {
  std::vector<int32_t> ids;
  if constexpr (requires { request.messages(); }) {
    CLAMOR_ASSIGN_OR_RETURN(ids, model.EncodeChat(request.messages()));
  } else if (request.has_token_ids()) {
    CLAMOR_ASSIGN_OR_RETURN(ids,
                            CheckIds("token_ids.ids", request.token_ids().ids(), model.info().vocab_size()));
  } else {
    CLAMOR_ASSIGN_OR_RETURN(ids, EncodeText(model, "text", request.text(), /*add_specials=*/true));
  }
  if (ids.empty()) return InvalidField("prompt", "is empty, must have at least one token");
  return ids;
}

template <class Request>
absl::Status CheckPrompt(const Request& request) {
  if constexpr (requires { request.messages(); }) {
    return CheckMessages("messages", request.messages());
  } else {
    if (request.prompt_case() != Request::PROMPT_NOT_SET) return absl::OkStatus();
    return InvalidField("prompt", "is not set, must be text or token_ids");
  }
}

}  // namespace

absl::Status ClientCancelled() { return absl::CancelledError("the client cancelled"); }

GatewayService::GatewayService(Fleet* fleet, GatewayMetrics* metrics, const Authenticator* authenticator,
                               Admission* admission, TenantUsage* usage, const GatewayLimits& limits)
    : fleet_(fleet),
      metrics_(metrics),
      authenticator_(authenticator),
      admission_(admission),
      usage_(usage),
      limits_(limits) {}

template <class Request>
absl::StatusOr<PreparedGeneration> GatewayService::Prepare(const char* method,
                                                           const grpc::CallbackServerContext& context,
                                                           const Request& request) {
  if (draining_) return Refusal("DRAINING", "this gateway is about to stop");
  v1::WorkerServiceStreamGenerateRequest prepared;
  CLAMOR_ASSIGN_OR_RETURN(Identity caller, authenticator_->Identify(CredentialsOf(context), method));
  prepared.set_tenant(std::move(caller.tenant));
  CLAMOR_RETURN_IF_ERROR(CheckModelName(request.model()));
  CLAMOR_RETURN_IF_ERROR(CheckOptions(request.options()));
  CLAMOR_RETURN_IF_ERROR(CheckPrompt(request));

  CLAMOR_ASSIGN_OR_RETURN(auto named, fleet_->FindModel(request.model()));
  CLAMOR_ASSIGN_OR_RETURN(WorkerLease lease,
                          fleet_->Acquire(named->info().name()));  // before the work of encoding
  const std::shared_ptr<const ServedModel> model = lease.model();  // workers of a name may differ for a while
  CLAMOR_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodePrompt(*model, request));
  CLAMOR_RETURN_IF_ERROR(CheckOptionIds(request.options(), model->info().vocab_size()));
  CLAMOR_RETURN_IF_ERROR(CheckContext(ids.size(), request.options(), model->info()));

  prepared.set_request_id(absl::StrFormat("%016x", Random64()));
  prepared.mutable_prompt_ids()->Assign(ids.begin(), ids.end());
  *prepared.mutable_options() = request.options();
  v1::SamplingParameters& sampling = *prepared.mutable_options()->mutable_sampling();
  if (!sampling.has_seed()) sampling.set_seed(Random64());
  const absl::Time deadline =
      std::min(absl::FromChrono(context.deadline()), absl::Now() + limits_.max_request_time);
  return PreparedGeneration{.context = {.fleet = fleet_,
                                        .metrics = metrics_,
                                        .deadline = deadline,
                                        .admission = admission_,
                                        .usage = usage_},
                            .lease = std::move(lease),
                            .request = std::move(prepared),
                            .model = model->info().name()};
}

template <class Request, class Response>
grpc::ServerUnaryReactor* GatewayService::RelayUnary(const char* method, grpc::CallbackServerContext* context,
                                                     const Request& request, Response* response) {
  RequestRecord record(metrics_, method);
  auto prepared = Prepare(method, *context, request);
  if (prepared.ok()) return new UnaryRelay<Response>(*std::move(prepared), record, response);
  record.End(prepared.status(), "-", "-");
  return new Refused<grpc::ServerUnaryReactor>(prepared.status());
}

template <class Response, class Request>
grpc::ServerWriteReactor<Response>* GatewayService::RelayStream(const char* method,
                                                                const grpc::CallbackServerContext& context,
                                                                const Request& request) {
  RequestRecord record(metrics_, method);
  auto prepared = Prepare(method, context, request);
  if (prepared.ok())
    return new StreamRelay<Response>(*std::move(prepared), record, limits_.max_pending_bytes);
  record.End(prepared.status(), "-", "-");
  return new Refused<grpc::ServerWriteReactor<Response>>(prepared.status());
}

grpc::ServerUnaryReactor* GatewayService::Generate(grpc::CallbackServerContext* context,
                                                   const v1::GenerateRequest* request,
                                                   v1::GenerateResponse* response) {
  return RelayUnary("Generate", context, *request, response);
}

grpc::ServerWriteReactor<v1::StreamGenerateResponse>* GatewayService::StreamGenerate(
    grpc::CallbackServerContext* context, const v1::StreamGenerateRequest* request) {
  return RelayStream<v1::StreamGenerateResponse>("StreamGenerate", *context, *request);
}

grpc::ServerUnaryReactor* GatewayService::Chat(grpc::CallbackServerContext* context,
                                               const v1::ChatRequest* request, v1::ChatResponse* response) {
  return RelayUnary("Chat", context, *request, response);
}

grpc::ServerWriteReactor<v1::StreamChatResponse>* GatewayService::StreamChat(
    grpc::CallbackServerContext* context, const v1::StreamChatRequest* request) {
  return RelayStream<v1::StreamChatResponse>("StreamChat", *context, *request);
}

grpc::ServerUnaryReactor* GatewayService::Tokenize(grpc::CallbackServerContext* context,
                                                   const v1::TokenizeRequest* request,
                                                   v1::TokenizeResponse* response) {
  RequestRecord record(metrics_, "Tokenize");
  absl::Status status = Tokenize(*context, *request, response);
  record.End(status, "-", "-");
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* GatewayService::Detokenize(grpc::CallbackServerContext* context,
                                                     const v1::DetokenizeRequest* request,
                                                     v1::DetokenizeResponse* response) {
  RequestRecord record(metrics_, "Detokenize");
  absl::Status status = Detokenize(*context, *request, response);
  record.End(status, "-", "-");
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::Status GatewayService::Tokenize(const grpc::CallbackServerContext& context,
                                      const v1::TokenizeRequest& request, v1::TokenizeResponse* response) {
  CLAMOR_RETURN_IF_ERROR(authenticator_->Identify(CredentialsOf(context), "Tokenize").status());
  CLAMOR_RETURN_IF_ERROR(CheckModelName(request.model()));
  if (request.input_case() == v1::TokenizeRequest::INPUT_NOT_SET) {
    return InvalidField("input", "is not set, must be text or chat");
  }
  if (request.has_chat()) CLAMOR_RETURN_IF_ERROR(CheckMessages("chat.messages", request.chat().messages()));
  CLAMOR_ASSIGN_OR_RETURN(auto model, fleet_->FindModel(request.model()));
  std::vector<int32_t> ids;
  if (request.has_chat()) {
    CLAMOR_ASSIGN_OR_RETURN(ids, model->EncodeChat(request.chat().messages()));
  } else {
    const bool add_specials = !request.has_add_special_tokens() || request.add_special_tokens();
    CLAMOR_ASSIGN_OR_RETURN(ids, EncodeText(*model, "text", request.text(), add_specials));
  }
  response->mutable_token_ids()->Assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status GatewayService::Detokenize(const grpc::CallbackServerContext& context,
                                        const v1::DetokenizeRequest& request,
                                        v1::DetokenizeResponse* response) {
  CLAMOR_RETURN_IF_ERROR(authenticator_->Identify(CredentialsOf(context), "Detokenize").status());
  CLAMOR_RETURN_IF_ERROR(CheckModelName(request.model()));
  CLAMOR_ASSIGN_OR_RETURN(auto model, fleet_->FindModel(request.model()));
  const auto vocab_size = static_cast<uint32_t>(model->tokenizer().vocab_size());
  CLAMOR_ASSIGN_OR_RETURN(std::vector<int32_t> ids, CheckIds("token_ids", request.token_ids(), vocab_size));
  CLAMOR_ASSIGN_OR_RETURN(*response->mutable_text(),
                          model->tokenizer().Decode(ids, request.skip_special_tokens()));
  return absl::OkStatus();
}

}  // namespace clamor
