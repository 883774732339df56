#include "services/gateway/gateway_service.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/gateway/request_limits.h"
#include "services/gateway/session_limits.h"
#include "services/gateway/session_service.h"
#include "services/gateway/stream_journal.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

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

template <class Request>
bool HasSession(const Request& request) {
  if constexpr (requires { request.session(); }) return request.has_session();
  return false;
}

template <class Request>
absl::Status CheckSession(const Request& request) {
  CLAMOR_RETURN_IF_ERROR(CheckSessionName("session.name", request.session().name()));
  if (request.options().n() <= 1) return CheckTurnMessages(request.messages());
  return InvalidField("options.n", absl::StrCat("is ", request.options().n(), ", must be 1 with a session"));
}

// The prompt of each kind of request: GenerateRequest and StreamGenerateRequest, ChatRequest and
// StreamChatRequest. `session`: what the request goes on with, if it does.
template <class Request>
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const ServedModel& model, const Request& request,
                                                  const std::optional<SessionPrompt>& session) {
  std::vector<int32_t> ids;
  if constexpr (requires { request.messages(); }) {
    CLAMOR_ASSIGN_OR_RETURN(ids, model.EncodeChat(session ? session->messages : request.messages()));
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

template <class Request>
constexpr bool kStreams =
    std::is_same_v<Request, v1::StreamGenerateRequest> || std::is_same_v<Request, v1::StreamChatRequest>;

// Has the answer added to its session.
void AddSessionTurn(PreparedGeneration& generation, SessionKeeper* keeper, v1::OpenTurn turn) {
  generation.filters.push_back([keeper, tenant = generation.request.tenant(), model = generation.model,
                                turn = std::move(turn)](GenerationListener* next) {
    return std::make_unique<SessionTurn>(keeper, tenant, model, turn, next);
  });
}

// Has the stream kept, so that it can be resumed.
void AddJournal(PreparedGeneration& generation, SessionKeeper* keeper, const v1::ModelInfo& model,
                const std::optional<SessionPrompt>& session) {
  if (keeper == nullptr || keeper->options().stream_ttl <= absl::ZeroDuration()) return;
  v1::StoredStream stream;
  *stream.mutable_request() = generation.request;
  *stream.mutable_model() = model;
  if (session) *stream.mutable_turn() = session->turn;
  generation.filters.push_back([keeper, stream = std::move(stream)](GenerationListener* next) {
    return std::make_unique<StreamJournal>(keeper, stream, next);
  });
}

// As Prepare makes them up.
bool IsStreamId(const std::string& id) {
  return id.size() == 16 && id.find_first_not_of("0123456789abcdef") == id.npos;
}

}  // namespace

absl::Status ClientCancelled() { return absl::CancelledError("the client cancelled"); }

GatewayService::GatewayService(Fleet* fleet, SessionKeeper* keeper, GatewayMetrics* metrics,
                               const Authenticator* authenticator, Admission* admission, TenantUsage* usage,
                               const GatewayLimits& limits)
    : fleet_(fleet),
      keeper_(keeper),
      metrics_(metrics),
      authenticator_(authenticator),
      admission_(admission),
      usage_(usage),
      limits_(limits) {}

CallContext GatewayService::ContextOf(absl::Time deadline) const {
  return {.fleet = fleet_,
          .metrics = metrics_,
          .deadline = std::min(deadline, absl::Now() + limits_.max_request_time),
          .admission = admission_,
          .usage = usage_};
}

void GatewayService::AddPace(PreparedGeneration& generation, const AnswerPlace& begin) const {
  if (limits_.evenness.cadence <= absl::ZeroDuration()) return;
  // What is held back goes on as one, over HTTP several times as long: it must not look like a slow client.
  const EvenPace::Options options = {.cadence = limits_.evenness.cadence,
                                     .answers = AnswersOf(generation.request),
                                     .most_bytes = limits_.max_pending_bytes / 8,
                                     .begin = begin};
  generation.filters.push_back(
      [options](GenerationListener* next) { return std::make_unique<EvenPace>(options, next); });
}

template <class Request>
absl::StatusOr<PreparedGeneration> GatewayService::Prepare(const char* method,
                                                           const grpc::CallbackServerContext& context,
                                                           const Request& request) {
  CLAMOR_ASSIGN_OR_RETURN(Identity identity, authenticator_->Identify(CredentialsOf(context), method));
  return Prepare({.tenant = std::move(identity.tenant), .deadline = absl::FromChrono(context.deadline())},
                 request);
}

template <class Request>
absl::StatusOr<PreparedGeneration> GatewayService::Prepare(const GenerationCaller& caller,
                                                           const Request& request) {
  if (draining_) return Refusal("DRAINING", "this gateway is about to stop");
  v1::WorkerServiceStreamGenerateRequest prepared;
  prepared.set_tenant(caller.tenant);
  CLAMOR_RETURN_IF_ERROR(CheckModelName(request.model()));
  CLAMOR_RETURN_IF_ERROR(CheckOptions(request.options()));
  CLAMOR_RETURN_IF_ERROR(CheckPrompt(request));

  std::optional<SessionPrompt> session;
  std::string affinity;
  if constexpr (requires { request.session(); }) {
    if (request.has_session()) {
      CLAMOR_RETURN_IF_ERROR(CheckSession(request));
      CLAMOR_ASSIGN_OR_RETURN(session, ReadSessionPrompt(keeper_->store(), prepared.tenant(),
                                                         request.session(), request.messages()));
      affinity = absl::StrCat(prepared.tenant(), "/", request.session().name());
    }
  }
  CLAMOR_ASSIGN_OR_RETURN(auto named, fleet_->FindModel(request.model()));
  CLAMOR_ASSIGN_OR_RETURN(WorkerLease lease,
                          fleet_->Acquire(named->info().name()));  // before the work of encoding
  const std::shared_ptr<const ServedModel> model = lease.model();  // workers of a name may differ for a while
  CLAMOR_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodePrompt(*model, request, session));
  CLAMOR_RETURN_IF_ERROR(CheckOptionIds(request.options(), model->info().vocab_size()));
  CLAMOR_RETURN_IF_ERROR(CheckContext(ids.size(), request.options(), model->info()));

  prepared.set_request_id(caller.request_id.empty() ? absl::StrFormat("%016x", Random64())
                                                    : caller.request_id);
  prepared.mutable_prompt_ids()->Assign(ids.begin(), ids.end());
  *prepared.mutable_options() = request.options();
  v1::SamplingParameters& sampling = *prepared.mutable_options()->mutable_sampling();
  if (!sampling.has_seed()) sampling.set_seed(Random64());
  PreparedGeneration generation{.context = ContextOf(caller.deadline),
                                .lease = std::move(lease),
                                .request = std::move(prepared),
                                .model = model->info().name()};
  generation.context.affinity = std::move(affinity);
  if (kStreams<Request> || caller.streams) AddPace(generation, {});
  if constexpr (kStreams<Request>) AddJournal(generation, keeper_, model->info(), session);
  if (session) AddSessionTurn(generation, keeper_, std::move(session->turn));
  return generation;
}

absl::StatusOr<PreparedGeneration> GatewayService::PrepareAgain(const grpc::CallbackServerContext& context,
                                                                const v1::ResumeStreamRequest& request) {
  if (draining_) return Refusal("DRAINING", "this gateway is about to stop");
  CLAMOR_ASSIGN_OR_RETURN(const Identity caller,
                          authenticator_->Identify(CredentialsOf(context), "ResumeStream"));
  if (!IsStreamId(request.stream_id())) return StreamNotFound(request.stream_id());
  CLAMOR_ASSIGN_OR_RETURN(v1::StoredStream stream,
                          keeper_->store().FindStream(caller.tenant, request.stream_id()));
  const uint32_t answers = AnswersOf(stream.request());
  if (request.choice() >= answers) {
    return InvalidField("choice",
                        absl::StrCat("is ", request.choice(), ", the stream has ", answers, " answers"));
  }
  CLAMOR_ASSIGN_OR_RETURN(WorkerLease lease, fleet_->AcquireLike(stream.model()));
  v1::SamplingParameters& sampling = *stream.mutable_request()->mutable_options()->mutable_sampling();
  sampling.set_seed(sampling.seed() + request.choice());
  stream.mutable_request()->mutable_options()->clear_n();
  PreparedGeneration generation{.context = ContextOf(absl::FromChrono(context.deadline())),
                                .lease = std::move(lease),
                                .request = std::move(*stream.mutable_request()),
                                .model = stream.model().name(),
                                .first_choice = request.choice()};
  generation.context.revision = stream.model().revision();
  AddPace(generation, {request.next_token_index(), request.next_text_byte()});
  generation.filters.push_back(
      [request](GenerationListener* next) { return std::make_unique<ResumedAnswer>(request, next); });
  if (stream.has_turn()) AddSessionTurn(generation, keeper_, std::move(*stream.mutable_turn()));
  return generation;
}

template <class Relay, class Prepared>
void GatewayService::BeginAtStore(const char* method, const grpc::CallbackServerContext& context,
                                  Relay* relay, Prepared prepare) {
  // Strangers do not even learn whether there is a store.
  absl::Status status = authenticator_->Identify(CredentialsOf(context), method).status();
  if (status.ok() && keeper_ == nullptr) status = NoSessions();
  if (status.ok()) status = keeper_->Run([relay, prepare] { relay->Begin(prepare()); });
  if (!status.ok()) relay->Begin(status);
}

// For the edge, which is elsewhere.
template absl::StatusOr<PreparedGeneration> GatewayService::Prepare(const GenerationCaller&,
                                                                    const v1::ChatRequest&);
template absl::StatusOr<PreparedGeneration> GatewayService::Prepare(const GenerationCaller&,
                                                                    const v1::GenerateRequest&);

template <class Request, class Response>
grpc::ServerUnaryReactor* GatewayService::RelayUnary(const char* method, grpc::CallbackServerContext* context,
                                                     const Request& request, Response* response) {
  auto* relay = new UnaryRelay<Response>(RequestRecord(metrics_, method, TraceContextOf(*context)), response);
  const auto prepare = [this, method, context, &request] { return Prepare(method, *context, request); };
  HasSession(request) ? BeginAtStore(method, *context, relay, prepare) : relay->Begin(prepare());
  return relay;
}

template <class Response, class Request>
grpc::ServerWriteReactor<Response>* GatewayService::RelayStream(const char* method,
                                                                grpc::CallbackServerContext* context,
                                                                const Request& request) {
  auto* relay = new StreamRelay<Response>(RequestRecord(metrics_, method, TraceContextOf(*context)),
                                          limits_.max_pending_bytes, limits_.evenness.pad_bytes, context);
  const auto prepare = [this, method, context, &request] { return Prepare(method, *context, request); };
  HasSession(request) ? BeginAtStore(method, *context, relay, prepare) : relay->Begin(prepare());
  return relay;
}

grpc::ServerUnaryReactor* GatewayService::Generate(grpc::CallbackServerContext* context,
                                                   const v1::GenerateRequest* request,
                                                   v1::GenerateResponse* response) {
  return RelayUnary("Generate", context, *request, response);
}

grpc::ServerWriteReactor<v1::StreamGenerateResponse>* GatewayService::StreamGenerate(
    grpc::CallbackServerContext* context, const v1::StreamGenerateRequest* request) {
  return RelayStream<v1::StreamGenerateResponse>("StreamGenerate", context, *request);
}

grpc::ServerUnaryReactor* GatewayService::Chat(grpc::CallbackServerContext* context,
                                               const v1::ChatRequest* request, v1::ChatResponse* response) {
  return RelayUnary("Chat", context, *request, response);
}

grpc::ServerWriteReactor<v1::StreamChatResponse>* GatewayService::StreamChat(
    grpc::CallbackServerContext* context, const v1::StreamChatRequest* request) {
  return RelayStream<v1::StreamChatResponse>("StreamChat", context, *request);
}

grpc::ServerWriteReactor<v1::ResumeStreamResponse>* GatewayService::ResumeStream(
    grpc::CallbackServerContext* context, const v1::ResumeStreamRequest* request) {
  auto* relay = new StreamRelay<v1::ResumeStreamResponse>(
      RequestRecord(metrics_, "ResumeStream", TraceContextOf(*context)), limits_.max_pending_bytes,
      limits_.evenness.pad_bytes, context);
  BeginAtStore("ResumeStream", *context, relay,
               [this, context, request] { return PrepareAgain(*context, *request); });
  return relay;
}

grpc::ServerUnaryReactor* GatewayService::Tokenize(grpc::CallbackServerContext* context,
                                                   const v1::TokenizeRequest* request,
                                                   v1::TokenizeResponse* response) {
  RequestRecord record(metrics_, "Tokenize", TraceContextOf(*context));
  absl::Status status = ToTokens(*context, *request, response);
  record.End(status, "-", "-");
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* GatewayService::Detokenize(grpc::CallbackServerContext* context,
                                                     const v1::DetokenizeRequest* request,
                                                     v1::DetokenizeResponse* response) {
  RequestRecord record(metrics_, "Detokenize", TraceContextOf(*context));
  absl::Status status = ToText(*context, *request, response);
  record.End(status, "-", "-");
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::Status GatewayService::ToTokens(const grpc::CallbackServerContext& context,
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

absl::Status GatewayService::ToText(const grpc::CallbackServerContext& context,
                                    const v1::DetokenizeRequest& request, v1::DetokenizeResponse* response) {
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
