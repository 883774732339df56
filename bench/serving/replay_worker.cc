// A worker without a model: every answer is made of its seed, at a set pace, so that what stands before
// workers can be put under loads that no model here could bear.
//
//     replay_worker --model DIR [--pace 20] [--message-tokens 1] [--text-bytes 24] [--prefill-ms 0]
//                   [--step-ms 0] --listen HOST:PORT --http HOST:PORT --port-file F
//
// DIR needs no weights, its tokenizer is all that is read. Token i of an answer depends on seed and i alone,
// and emitted_ids are gone on with, as a gateway expects of equal workers. With --step-ms tokens that come
// due within a step are all sent at its end, as by an engine that has made them together. The text of each
// message begins with the time at which it is sent (stamp.h). It answers GenerationService.StreamGenerate as
// well, as if it were a gateway: what a gateway adds is the difference between the two.
#include <openssl/evp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/escaping.h"
#include "absl/synchronization/mutex.h"
#include "bench/serving/stamp.h"
#include "clamor/v1/generation.grpc.pb.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "grpcpp/alarm.h"
#include "model/tokenizer/tokenizer.h"
#include "services/flags.h"
#include "services/log.h"
#include "services/server.h"

namespace clamor {
namespace {

using std::chrono::steady_clock;

constexpr char kRevision[] = "replayed";
constexpr uint32_t kContext = 1 << 20;

struct ReplayOptions {
  double pace = 20;  // tokens a second of each stream
  uint32_t message_tokens = 1;
  uint32_t text_bytes = 24;  // of a message
  double prefill_ms = 0;     // before the first token
  double step_ms = 0;        // 0: each stream sends at a time of its own
  uint32_t vocab_size = 0;
};

// What is asked, in the words of both services.
struct Asked {
  std::string request_id;
  uint64_t seed = 0;
  uint32_t prompt_tokens = 0, emitted_tokens = 0, max_tokens = 0;
};

// One answer: a write or a wait for the next one's time is under way. Deletes itself.
template <class Response>
class ReplayStream final : public grpc::ServerWriteReactor<Response> {
 public:
  ReplayStream(const ReplayOptions& options, Asked asked, std::atomic<int>* running)
      : options_(options), asked_(std::move(asked)), running_(running), next_(asked_.emitted_tokens) {
    ++*running_;
    const auto prefill = std::chrono::duration<double, std::milli>(options_.prefill_ms);
    begin_ = steady_clock::now() + std::chrono::duration_cast<steady_clock::duration>(prefill);
    v1::Started& started = *response_.mutable_started();
    started.set_request_id(asked_.request_id);
    started.set_seed(asked_.seed);
    started.set_model_revision(kRevision);
    started.set_prompt_tokens(asked_.prompt_tokens);
    started.set_max_tokens(asked_.max_tokens);
    this->StartWrite(&response_);
  }

 private:
  void OnWriteDone(bool ok) override {
    if (!ok) return this->Finish(grpc::Status::CANCELLED);
    response_.Clear();
    if (next_ >= asked_.max_tokens) return End();
    const double seconds = static_cast<double>(next_ - asked_.emitted_tokens) / options_.pace;
    const auto due =
        begin_ + std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(seconds));
    const auto wait = EndOfStep(due) - steady_clock::now();
    if (wait <= steady_clock::duration::zero()) return Send();
    absl::MutexLock lock(&mu_);
    waiting_ = true;
    alarm_.Set(std::chrono::system_clock::now() + wait, [this](bool) { OnTime(); });
    if (cancelled_) alarm_.Cancel();
  }

  steady_clock::time_point EndOfStep(steady_clock::time_point due) const {
    const auto step = std::chrono::duration_cast<steady_clock::duration>(
        std::chrono::duration<double, std::milli>(options_.step_ms));
    if (step <= steady_clock::duration::zero()) return due;
    const auto past = due.time_since_epoch() % step;
    return past == steady_clock::duration::zero() ? due : due + (step - past);
  }

  void OnTime() {
    bool cancelled;
    {
      absl::MutexLock lock(&mu_);
      waiting_ = false;
      cancelled = cancelled_;
    }
    cancelled ? this->Finish(grpc::Status::CANCELLED) : Send();
  }

  void Send() {
    v1::Delta& delta = *response_.mutable_delta();
    delta.set_first_token_index(next_);
    const uint32_t end = std::min(asked_.max_tokens, next_ + options_.message_tokens);
    for (; next_ < end; ++next_) {
      delta.add_token_ids(static_cast<uint32_t>(absl::HashOf(asked_.seed, next_) % options_.vocab_size));
      delta.add_sources(next_ + 1 == end ? v1::DRAFT_SOURCE_UNSPECIFIED : v1::DRAFT_SOURCE_CONTEXT);
    }
    std::string text = StampOf(steady_clock::now());
    text.resize(std::max<size_t>(text.size(), options_.text_bytes), '.');
    delta.set_text(std::move(text));
    this->StartWrite(&response_);
  }

  void End() {
    v1::Finished& finished = *response_.mutable_finished();
    finished.set_reason(v1::FINISH_REASON_LENGTH);
    finished.mutable_usage()->set_prompt_tokens(asked_.prompt_tokens);
    finished.mutable_usage()->set_completion_tokens(asked_.max_tokens - asked_.emitted_tokens);
    this->StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  }

  void OnCancel() override {  // a write under way fails by itself
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    if (waiting_) alarm_.Cancel();
  }

  void OnDone() override {
    --*running_;
    delete this;
  }

  const ReplayOptions& options_;
  const Asked asked_;
  std::atomic<int>* const running_;
  steady_clock::time_point begin_;
  uint32_t next_;  // token
  Response response_;
  absl::Mutex mu_;
  bool waiting_ = false, cancelled_ = false;
  grpc::Alarm alarm_;
};

Asked AskedBy(const v1::GenerationOptions& options) {
  return {.seed = options.sampling().seed(),
          .max_tokens = options.has_max_tokens() ? options.max_tokens() : 256};
}

class ReplayService final
    : public v1::WorkerService::WithCallbackMethod_StreamGenerate<v1::WorkerService::Service> {
 public:
  ReplayService(const ReplayOptions* options, const TokenizerFiles* files)
      : options_(*options), files_(*files) {}

  grpc::ServerWriteReactor<v1::WorkerServiceStreamGenerateResponse>* StreamGenerate(
      grpc::CallbackServerContext*, const v1::WorkerServiceStreamGenerateRequest* request) override {
    Asked asked = AskedBy(request->options());
    asked.request_id = request->request_id();
    asked.prompt_tokens = static_cast<uint32_t>(request->prompt_ids_size());
    asked.emitted_tokens = static_cast<uint32_t>(request->emitted_ids_size());
    return new ReplayStream<v1::WorkerServiceStreamGenerateResponse>(options_, std::move(asked), &running_);
  }

 private:
  grpc::Status GetLoad(grpc::ServerContext*, const v1::GetLoadRequest*,
                       v1::GetLoadResponse* response) override {
    response->mutable_load()->set_running(static_cast<uint32_t>(std::max(0, running_.load())));
    return grpc::Status::OK;
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::WorkerServiceGetModelInfoRequest*,
                            v1::WorkerServiceGetModelInfoResponse* response) override {
    v1::ModelInfo& info = *response->mutable_model();
    info.set_name("replay");
    info.set_revision(kRevision);
    info.set_max_context_tokens(kContext);
    info.set_vocab_size(options_.vocab_size);
    info.set_tokenizer_fingerprint(files_.Fingerprint());
    info.set_numerics(v1::NUMERICS_BITWISE);
    return grpc::Status::OK;
  }

  grpc::Status GetTokenizer(grpc::ServerContext*, const v1::GetTokenizerRequest*,
                            grpc::ServerWriter<v1::GetTokenizerResponse>* writer) override {
    constexpr size_t kPiece = 1 << 20;
    for (const auto& [name, content] : files_.contents) {
      unsigned char digest[EVP_MAX_MD_SIZE];
      unsigned int size = 0;
      EVP_Digest(content.data(), content.size(), digest, &size, EVP_sha256(), nullptr);
      for (size_t at = 0; at < std::max<size_t>(content.size(), 1); at += kPiece) {
        v1::GetTokenizerResponse piece;
        piece.set_name(name);
        piece.set_size(content.size());
        piece.set_sha256(absl::BytesToHexString({reinterpret_cast<const char*>(digest), size}));
        piece.set_content(content.substr(at, kPiece));
        writer->Write(piece);
      }
    }
    return grpc::Status::OK;
  }

  const ReplayOptions& options_;
  const TokenizerFiles& files_;
  std::atomic<int> running_ = 0;
};

class DirectService final
    : public v1::GenerationService::WithCallbackMethod_StreamGenerate<v1::GenerationService::Service> {
 public:
  explicit DirectService(const ReplayOptions* options) : options_(*options) {}

  grpc::ServerWriteReactor<v1::StreamGenerateResponse>* StreamGenerate(
      grpc::CallbackServerContext*, const v1::StreamGenerateRequest* request) override {
    return new ReplayStream<v1::StreamGenerateResponse>(options_, AskedBy(request->options()), &running_);
  }

 private:
  const ReplayOptions& options_;
  std::atomic<int> running_ = 0;
};

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  ServerOptions server_options{
      .name = "replay_worker", .listen = "127.0.0.1:7710", .http = "127.0.0.1:7711", .grace_seconds = 1};
  server_options.max_concurrent_streams = std::numeric_limits<int>::max();
  ReplayOptions options;
  std::string model;
  CLI::App app("Answers as a worker would, without a model", server_options.name);
  AddServerFlags(app, server_options);
  app.add_option("--model", model, "Folder of a tokenizer")->required();
  app.add_option("--pace", options.pace, "Tokens a second of each answer")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app.add_option("--message-tokens", options.message_tokens, "Tokens of a message")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  app.add_option("--text-bytes", options.text_bytes, "Text of a message, the time included")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  app.add_option("--step-ms", options.step_ms,
                 "Of an engine that sends what a step made together; 0: no steps")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--prefill-ms", options.prefill_ms, "Before the first token")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  if (const auto done = ParseFlags(app, argc, argv)) return *done;
  StartLogging(server_options.name);
  const auto fail = [](const absl::Status& status) {
    std::cerr << "replay_worker: " << status.message() << "\n";
    return 1;
  };
  const absl::StatusOr<TokenizerFiles> files = TokenizerFiles::Read(model);
  if (!files.ok()) return fail(files.status());
  const auto tokenizer = Tokenizer::Load(*files);
  if (!tokenizer.ok()) return fail(tokenizer.status());
  options.vocab_size = static_cast<uint32_t>((*tokenizer)->vocab_size());

  ReplayService worker(&options, &*files);
  DirectService direct(&options);
  const ServicePart parts[] = {{v1::WorkerService::service_full_name(), &worker},
                               {v1::GenerationService::service_full_name(), &direct}};
  prometheus::Registry registry;
  auto server = Server::Start(server_options, parts, &registry);
  if (!server.ok()) return fail(server.status());
  (*server)->SetReady(true);
  (*server)->Run([] {});
  return 0;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
