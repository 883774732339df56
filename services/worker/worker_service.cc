#include "services/worker/worker_service.h"

#include <openssl/evp.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/kv_layer.h"
#include "kernels/status_macros.h"
#include "model/grammar/json_schema.h"
#include "services/log.h"
#include "services/rpc_error.h"
#include "services/tenant.h"
#include "services/worker/request_trace.h"

namespace clamor {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
constexpr size_t kMaxRequestId = 256;

absl::StatusOr<std::vector<int32_t>> ParseIds(const char* field,
                                              const google::protobuf::RepeatedField<uint32_t>& ids) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] > kMaxInt) {
      return InvalidField(absl::StrCat(field, "[", i, "]"),
                          absl::StrCat("is ", ids[i], ", must be at most ", kMaxInt));
    }
  }
  return std::vector<int32_t>(ids.begin(), ids.end());
}

// As the engine's int32; narrower limits are those of Request::ValidateOptions.
absl::StatusOr<int32_t> ParseCount(const char* field, uint32_t value) {
  if (value <= kMaxInt) return static_cast<int32_t>(value);
  return InvalidField(field, absl::StrCat("is ", value, ", must be at most ", kMaxInt));
}

absl::StatusOr<SamplingOptions> ParseSampling(const v1::SamplingParameters& message) {
  SamplingOptions sampling;
  if (message.has_temperature()) sampling.temperature = message.temperature();
  if (message.has_top_p()) sampling.top_p = message.top_p();
  if (message.has_min_p()) sampling.min_p = message.min_p();
  CLAMOR_ASSIGN_OR_RETURN(sampling.top_k, ParseCount("options.sampling.top_k", message.top_k()));
  if (!message.has_seed() && !sampling.greedy()) {
    return InvalidField("options.sampling.seed",
                        absl::StrCat("is not set, must be where the temperature is ", sampling.temperature));
  }
  sampling.seed = message.seed();
  if (message.has_repetition_penalty()) sampling.repetition_penalty = message.repetition_penalty();
  sampling.presence_penalty = message.presence_penalty();
  sampling.frequency_penalty = message.frequency_penalty();
  for (const auto& [id, bias] : message.logit_bias()) {
    const std::string field = absl::StrCat("options.sampling.logit_bias[", id, "]");
    if (id > kMaxInt) return InvalidField(field, absl::StrCat("is of no token, ids are at most ", kMaxInt));
    sampling.logit_bias.push_back({static_cast<int32_t>(id), bias});
  }
  CLAMOR_ASSIGN_OR_RETURN(sampling.banned_token_ids,
                          ParseIds("options.sampling.banned_token_ids", message.banned_token_ids()));
  return sampling;
}

absl::StatusOr<SpeculationOptions> ParseSpeculation(const v1::SpeculationOptions& message) {
  SpeculationOptions speculation;
  if (message.has_nodes()) speculation.nodes = message.nodes();
  switch (message.tree()) {
    case v1::DRAFT_TREE_UNSPECIFIED:
    case v1::DRAFT_TREE_MERGED:
      return speculation;
    case v1::DRAFT_TREE_PUBLISHED:
      speculation.shape = TreeShape::kPublished;
      return speculation;
    default:
      return InvalidField("options.speculation.tree",
                          absl::StrCat("is ", message.tree(), ", which is unknown"));
  }
}

absl::StatusOr<Priority> ParsePriority(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_UNSPECIFIED:
    case v1::PRIORITY_NORMAL:
      return Priority::kNormal;
    case v1::PRIORITY_LOW:
      return Priority::kLow;
    case v1::PRIORITY_HIGH:
      return Priority::kHigh;
    default:
      return InvalidField("options.priority", absl::StrCat("is ", priority, ", which is unknown"));
  }
}

absl::StatusOr<std::shared_ptr<const Grammar>> ParseGrammar(const std::string& json_schema) {
  absl::StatusOr<Grammar> grammar = CompileJsonSchema(json_schema);
  if (grammar.ok()) return std::make_shared<const Grammar>(*std::move(grammar));
  const std::string message = absl::StrCat("options.json_schema: ", MessageOf(grammar.status()));
  const absl::string_view reason = ReasonOf(grammar.status());
  return reason == "INVALID_FIELD" ? absl::InvalidArgumentError(message) : Refusal(reason, message);
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

grpc::Status Loading() { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the model is being loaded"); }

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

std::string Sha256(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), size));
}

// One DeleteTenant: the engine, then what is on its way to the store, then the store. Nothing waits.
class TenantDeletion final : public grpc::ServerUnaryReactor {
 public:
  TenantDeletion(Worker* worker, grpc::CallbackServerContext* context, const std::string& tenant,
                 v1::WorkerServiceDeleteTenantResponse* response)
      : worker_(worker), reply_(response) {
    request_.set_tenant(tenant);
    for (size_t i = 0; i < worker->stores().size(); ++i)
      contexts_.emplace_back().set_deadline(context->deadline());
    worker_->engine().ForgetTenant(tenant, [this] { AfterEngine(); });
  }

 private:
  void AfterEngine() {
    CorpusWriter* const corpus = worker_->corpus(request_.tenant());
    if (corpus == nullptr) return AfterStores(0);
    corpus->Forget(request_.tenant(), [this] { AfterStores(0); });
  }

  // Each may have some of it, under another tokenizer or from when there were fewer.
  void AfterStores(size_t done) {
    if (done == contexts_.size()) return Finish(grpc::Status::OK);
    worker_->stores()[done]->async()->DeleteTenant(
        &contexts_[done], &request_, &response_, [this, done](grpc::Status status) {
          if (!status.ok()) return Finish(status);
          reply_->set_documents(reply_->documents() + response_.documents());
          AfterStores(done + 1);
        });
  }

  void OnCancel() override {
    for (grpc::ClientContext& context : contexts_) context.TryCancel();
  }
  void OnDone() override { delete this; }

  Worker* const worker_;
  v1::WorkerServiceDeleteTenantResponse* const reply_;
  std::deque<grpc::ClientContext> contexts_;  // one for each store
  v1::DeleteTenantRequest request_;
  v1::DeleteTenantResponse response_;
};

// Sends files in pieces, one write at a time. Deletes itself.
class FileStream final : public grpc::ServerWriteReactor<v1::GetTokenizerResponse> {
 public:
  using Files = std::map<std::string, std::string>;
  explicit FileStream(const Files& files) : file_(files.begin()), end_(files.end()) { Next(); }
  explicit FileStream(const grpc::Status& refusal) { Finish(refusal); }

  void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  static constexpr size_t kPiece = 1 << 20;

  void Next() {
    if (file_ == end_) return Finish(grpc::Status::OK);
    const auto& [name, content] = *file_;
    if (offset_ == 0) {
      piece_.set_name(name);
      piece_.set_size(content.size());
      piece_.set_sha256(Sha256(content));
    }
    piece_.set_content(content.substr(offset_, kPiece));
    offset_ += kPiece;
    if (offset_ >= content.size()) {
      ++file_;
      offset_ = 0;
    }
    StartWrite(&piece_);
  }

  Files::const_iterator file_;
  Files::const_iterator end_;
  size_t offset_ = 0;
  v1::GetTokenizerResponse piece_;
};

}  // namespace

absl::StatusOr<Request> ParseRequest(const v1::WorkerServiceStreamGenerateRequest& message,
                                     int32_t vocab_size) {
  if (message.request_id().size() > kMaxRequestId) {
    return InvalidField(
        "request_id", absl::StrCat("has ", message.request_id().size(), " bytes, limit is ", kMaxRequestId));
  }
  CLAMOR_RETURN_IF_ERROR(CheckTenant("tenant", message.tenant()));
  const v1::GenerationOptions& options = message.options();
  if (options.has_max_tokens() && (options.max_tokens() < 1 || options.max_tokens() > kMaxInt)) {
    return InvalidField("options.max_tokens",
                        absl::StrCat("is ", options.max_tokens(), ", must be from 1 to ", kMaxInt));
  }
  Request request;
  request.id = message.request_id();
  request.tenant = message.tenant();
  CLAMOR_ASSIGN_OR_RETURN(request.prompt_ids, ParseIds("prompt_ids", message.prompt_ids()));
  CLAMOR_ASSIGN_OR_RETURN(request.emitted_ids, ParseIds("emitted_ids", message.emitted_ids()));
  request.max_tokens = static_cast<int32_t>(options.max_tokens());
  CLAMOR_ASSIGN_OR_RETURN(request.sampling, ParseSampling(options.sampling()));
  request.stop.assign(options.stop().begin(), options.stop().end());
  CLAMOR_ASSIGN_OR_RETURN(request.stop_token_ids,
                          ParseIds("options.stop_token_ids", options.stop_token_ids()));
  CLAMOR_ASSIGN_OR_RETURN(request.min_tokens, ParseCount("options.min_tokens", options.min_tokens()));
  if (options.has_top_logprobs()) {
    CLAMOR_ASSIGN_OR_RETURN(request.top_logprobs, ParseCount("options.top_logprobs", options.top_logprobs()));
  }
  request.ignore_eos = options.ignore_eos();
  request.trace = options.trace_drafts();
  request.follows = message.follows();
  CLAMOR_ASSIGN_OR_RETURN(request.speculation, ParseSpeculation(options.speculation()));
  switch (options.draft_scope()) {
    case v1::DRAFT_SCOPE_UNSPECIFIED:
    case v1::DRAFT_SCOPE_OWN:
      break;
    case v1::DRAFT_SCOPE_NONE:
      request.use_store = false;
      break;
    case v1::DRAFT_SCOPE_SHARED:
      request.use_shared = true;
      break;
    default:
      return InvalidField("options.draft_scope",
                          absl::StrCat("is ", options.draft_scope(), ", which is unknown"));
  }
  CLAMOR_ASSIGN_OR_RETURN(request.priority, ParsePriority(options.priority()));
  // The engine names the options as the message does.
  if (absl::Status valid = request.ValidateOptions(vocab_size); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("options.", valid.message()));
  }
  if (options.has_json_schema()) {
    CLAMOR_ASSIGN_OR_RETURN(request.grammar, ParseGrammar(options.json_schema()));
    if (request.ignore_eos)
      return InvalidField("options.ignore_eos", "is true, must be false with a json_schema");
  }
  return request;
}

WorkerService::WorkerService(std::function<void()> on_drain, const TokenStreamOptions& streams)
    : on_drain_(std::move(on_drain)), streams_(streams) {}

void WorkerService::Serve(Worker* worker) {
  worker_ = worker;
  if (draining_) worker->engine().Drain();
}

void WorkerService::StartDraining() {
  draining_ = true;
  if (Worker* worker = worker_) worker->engine().Drain();
}

void WorkerService::UpdateMetrics() const {
  if (Worker* worker = worker_) worker->metrics().SetLoad(worker->engine().Load());
}

grpc::ServerWriteReactor<v1::WorkerServiceStreamGenerateResponse>* WorkerService::StreamGenerate(
    grpc::CallbackServerContext* context, const v1::WorkerServiceStreamGenerateRequest* message) {
  Worker* const worker = worker_;
  absl::StatusOr<Request> request =
      worker == nullptr ? absl::UnavailableError("the model is being loaded")
                        : ParseRequest(*message, static_cast<int32_t>(worker->info().vocab_size()));
  const RequestTrace trace = {
      .caller = {worker == nullptr ? nullptr : worker->tracer(), TraceContextOf(*context)},
      .id = message->request_id().substr(0, kMaxRequestId)};
  if (!request.ok()) {
    trace.Refused(request.status());
    auto* refusal = new TokenStream(context, {}, streams_, nullptr);
    refusal->OnRefused(request.status());
    return refusal;
  }
  request->deadline = DeadlineOf(*context);

  v1::Started started;
  started.set_request_id(request->id);
  started.set_seed(request->sampling.seed);
  started.set_model(worker->info().name());
  started.set_model_revision(worker->info().revision());
  started.set_prompt_tokens(static_cast<uint32_t>(request->prompt_ids.size()));
  const int64_t room = worker->engine().RoomForAnswer(static_cast<int64_t>(request->prompt_ids.size()));
  started.set_max_tokens(static_cast<uint32_t>(request->max_tokens > 0 ? request->max_tokens : room));

  // What the store gets: the prompt and the whole answer, wherever it began.
  const bool stored = worker->corpus(message->tenant()) != nullptr &&
                      (!message->options().has_store() || message->options().store());
  std::vector<int32_t> document;
  if (stored) {
    document = request->prompt_ids;
    document.insert(document.end(), request->emitted_ids.begin(), request->emitted_ids.end());
  }
  auto ending = [worker, stored, trace, tenant = message->tenant(), document = std::move(document)](
                    const Finished& finished, std::vector<int32_t> ids) mutable {
    worker->metrics().OnFinished(finished);
    const TracePlace place = trace.Ended(finished);
    const bool whole = finished.reason == FinishReason::kStop || finished.reason == FinishReason::kLength;
    if (!stored || !whole) return;
    document.insert(document.end(), ids.begin(), ids.end());
    worker->corpus(tenant)->Add(tenant, std::move(document), place);
  };

  auto* stream = new TokenStream(context, std::move(started), streams_, std::move(ending));
  Engine& engine = worker->engine();
  const absl::StatusOr<uint64_t> handle = engine.Submit(*std::move(request), stream);
  if (handle.ok()) {
    stream->OnAccepted([&engine, handle = *handle](FinishReason reason) { engine.Cancel(handle, reason); });
  } else {
    trace.Refused(handle.status());
    stream->OnRefused(handle.status());
  }
  return stream;
}

grpc::ServerUnaryReactor* WorkerService::GetLoad(grpc::CallbackServerContext* context,
                                                 const v1::GetLoadRequest*, v1::GetLoadResponse* response) {
  Worker* const worker = worker_;
  if (worker == nullptr) return Reply(context, Loading());
  const EngineLoad load = worker->engine().Load();
  v1::WorkerLoad& message = *response->mutable_load();
  message.set_running(load.running);
  message.set_max_running(worker->engine().options().max_sequences);
  message.set_waiting(load.waiting);
  message.set_max_waiting(worker->engine().options().max_waiting);
  message.set_kv_pages_used(load.kv_pages_used);
  message.set_kv_pages_total(load.kv_pages_total);
  message.set_kv_page_tokens(kernels::kPageSize);
  message.set_steps(load.steps);
  message.set_stalled_seconds(load.stalled_seconds);
  message.set_slow_step_seconds(load.slow_step_seconds);
  message.set_draining(draining_);
  return Reply(context, grpc::Status::OK);
}

grpc::ServerUnaryReactor* WorkerService::GetModelInfo(grpc::CallbackServerContext* context,
                                                      const v1::WorkerServiceGetModelInfoRequest*,
                                                      v1::WorkerServiceGetModelInfoResponse* response) {
  Worker* const worker = worker_;
  if (worker == nullptr) return Reply(context, Loading());
  *response->mutable_model() = worker->info();
  return Reply(context, grpc::Status::OK);
}

grpc::ServerWriteReactor<v1::GetTokenizerResponse>* WorkerService::GetTokenizer(
    grpc::CallbackServerContext*, const v1::GetTokenizerRequest*) {
  Worker* const worker = worker_;
  return worker == nullptr ? new FileStream(Loading()) : new FileStream(worker->model().files.contents);
}

grpc::ServerUnaryReactor* WorkerService::Drain(grpc::CallbackServerContext* context, const v1::DrainRequest*,
                                               v1::DrainResponse*) {
  StartDraining();
  if (worker_ != nullptr && on_drain_) on_drain_();
  return Reply(context, grpc::Status::OK);
}

grpc::ServerUnaryReactor* WorkerService::DeleteTenant(grpc::CallbackServerContext* context,
                                                      const v1::WorkerServiceDeleteTenantRequest* request,
                                                      v1::WorkerServiceDeleteTenantResponse* response) {
  Worker* const worker = worker_;
  if (worker == nullptr) return Reply(context, Loading());
  if (absl::Status status = CheckTenant("tenant", request->tenant()); !status.ok()) {
    return Reply(context, ToGrpc(status));
  }
  spdlog::info("event=tenant_deletion tenant={}", request->tenant());
  return new TenantDeletion(worker, context, request->tenant(), response);
}

}  // namespace clamor
