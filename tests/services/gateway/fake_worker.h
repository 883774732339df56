// A worker without a model: real gRPC, a real tokenizer, answers by script.
#pragma once

#include <openssl/sha.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "model/tokenizer/tokenizer.h"
#include "services/rpc_error.h"

namespace clamor::testing {

inline constexpr char kModelDir[] = CLAMOR_TESTDATA "/tiny-qwen2";
inline constexpr uint32_t kContext = 512;

class FakeWorker final : public v1::WorkerService::Service {
 public:
  using Writer = grpc::ServerWriter<v1::WorkerServiceStreamGenerateResponse>;
  using Request = v1::WorkerServiceStreamGenerateRequest;
  using Script = std::function<grpc::Status(grpc::ServerContext&, const Request&, Writer&)>;

  // Repeats the prompt, one token and the letter "x" a message, until max_tokens.
  static grpc::Status Echo(grpc::ServerContext&, const Request& request, Writer& writer) {
    WriteStarted(writer, request);
    for (uint32_t i = 0; i < request.options().max_tokens(); ++i) {
      WriteDelta(writer, i, request.prompt_ids(static_cast<int>(i) % request.prompt_ids_size()), "x");
    }
    WriteFinished(writer);
    return grpc::Status::OK;
  }
  static bool WriteStarted(Writer& writer, const Request& request) {
    v1::WorkerServiceStreamGenerateResponse response;
    response.mutable_started()->set_request_id(request.request_id());
    response.mutable_started()->set_seed(request.options().sampling().seed());
    response.mutable_started()->set_model_revision("r1");
    response.mutable_started()->set_prompt_tokens(static_cast<uint32_t>(request.prompt_ids_size()));
    return writer.Write(response);
  }
  static bool WriteDelta(Writer& writer, uint64_t index, uint32_t id, const std::string& text) {
    v1::WorkerServiceStreamGenerateResponse response;
    response.mutable_delta()->set_first_token_index(index);
    response.mutable_delta()->add_token_ids(id);
    response.mutable_delta()->add_sources(v1::DRAFT_SOURCE_CONTEXT);
    response.mutable_delta()->set_text(text);
    return writer.Write(response);
  }
  static bool WriteFinished(Writer& writer) {
    v1::WorkerServiceStreamGenerateResponse response;
    response.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
    return writer.Write(response);
  }

  // Port 0 takes a free one.
  explicit FakeWorker(int port = 0, const std::string& model = "tiny", Script script = Echo,
                      const std::string& revision = "r1")
      : files_(*TokenizerFiles::Read(kModelDir)), script_(std::move(script)) {
    info_.set_name(model);
    info_.set_revision(revision);
    info_.set_max_context_tokens(kContext);
    info_.set_vocab_size(static_cast<uint32_t>((*Tokenizer::Load(files_))->vocab_size()));
    info_.set_tokenizer_fingerprint(files_.Fingerprint());
    info_.set_has_chat_template(true);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    SetServing(true);
  }
  ~FakeWorker() override { Stop(); }

  // Cuts every stream.
  void Stop() {
    SetSilent(false);
    server_->Shutdown(std::chrono::system_clock::now());
  }
  // Neither GetLoad nor GetModelInfo is answered until it is no longer so: the worker, once lost, stays so.
  void SetSilent(bool silent) {
    absl::MutexLock lock(&mu_);
    silent_ = silent;
  }
  void SetServing(bool serving) {
    server_->GetHealthCheckService()->SetServingStatus(v1::WorkerService::service_full_name(), serving);
  }
  void SetScript(Script script) {
    absl::MutexLock lock(&mu_);
    script_ = std::move(script);
  }
  void SetLoad(const v1::WorkerLoad& load) {
    absl::MutexLock lock(&mu_);
    load_ = load;
  }
  void CorruptTokenizer() {
    absl::MutexLock lock(&mu_);
    corrupt_ = true;
  }
  // The tenants that it was told to delete.
  std::vector<std::string> deleted() const {
    absl::MutexLock lock(&mu_);
    return deleted_;
  }
  const v1::ModelInfo& info() const { return info_; }
  int port() const { return port_; }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  int streams() const { return streams_; }
  Request last_request() const {
    absl::MutexLock lock(&mu_);
    return requests_.back();
  }
  std::vector<Request> requests() const {
    absl::MutexLock lock(&mu_);
    return requests_;
  }

 private:
  void AwaitSpeech() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto talks = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !silent_; };
    mu_.Await(absl::Condition(&talks));
  }
  grpc::Status StreamGenerate(grpc::ServerContext* context, const Request* request, Writer* writer) override {
    Script script;
    {
      absl::MutexLock lock(&mu_);
      requests_.push_back(*request);
      script = script_;
    }
    ++streams_;
    return script(*context, *request, *writer);
  }
  grpc::Status GetLoad(grpc::ServerContext*, const v1::GetLoadRequest*,
                       v1::GetLoadResponse* response) override {
    absl::MutexLock lock(&mu_);
    AwaitSpeech();
    *response->mutable_load() = load_;
    return grpc::Status::OK;
  }
  grpc::Status DeleteTenant(grpc::ServerContext*, const v1::WorkerServiceDeleteTenantRequest* request,
                            v1::WorkerServiceDeleteTenantResponse*) override {
    absl::MutexLock lock(&mu_);
    deleted_.push_back(request->tenant());
    return grpc::Status::OK;
  }
  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::WorkerServiceGetModelInfoRequest*,
                            v1::WorkerServiceGetModelInfoResponse* response) override {
    absl::MutexLock lock(&mu_);
    AwaitSpeech();
    *response->mutable_model() = info_;
    return grpc::Status::OK;
  }
  grpc::Status GetTokenizer(grpc::ServerContext*, const v1::GetTokenizerRequest*,
                            grpc::ServerWriter<v1::GetTokenizerResponse>* writer) override {
    absl::MutexLock lock(&mu_);
    for (const auto& [name, content] : files_.contents) {
      unsigned char digest[SHA256_DIGEST_LENGTH];
      SHA256(reinterpret_cast<const unsigned char*>(content.data()), content.size(), digest);
      constexpr size_t kChunk = 10'000;
      for (size_t at = 0; at < std::max<size_t>(content.size(), 1); at += kChunk) {
        v1::GetTokenizerResponse piece;
        piece.set_name(name);
        piece.set_size(content.size());
        piece.set_sha256(absl::BytesToHexString({reinterpret_cast<const char*>(digest), sizeof(digest)}));
        piece.set_content(content.substr(at, kChunk));
        if (corrupt_) piece.mutable_content()->front() ^= 1;
        writer->Write(piece);
      }
    }
    return grpc::Status::OK;
  }

  const TokenizerFiles files_;
  v1::ModelInfo info_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<int> streams_ = 0;

  mutable absl::Mutex mu_;
  Script script_ ABSL_GUARDED_BY(mu_);
  std::vector<Request> requests_ ABSL_GUARDED_BY(mu_);
  v1::WorkerLoad load_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> deleted_ ABSL_GUARDED_BY(mu_);
  bool corrupt_ ABSL_GUARDED_BY(mu_) = false;
  bool silent_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace clamor::testing
