// A core without a gateway: answers come from the test.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "services/edge/generation_core.h"
#include "services/rpc_error.h"

namespace clamor::edge::testing {

class FakeCore final : public GenerationCore {
 public:
  // What happens in a generation, on a thread of its own: calls the listener's OnStarted, OnDelta and
  // OnFinished and returns how it ends. `cancelled` is not OK once the generation was cancelled.
  using Script = std::function<absl::Status(GenerationListener& listener,
                                            const std::function<absl::Status()>& cancelled)>;

  FakeCore() : tokenizer_(Tokenizer::Load(*TokenizerFiles::Read(CLAMOR_TESTDATA "/tiny-qwen2")).value()) {
    SetScript(Say({"Hel", "lo"}));
  }
  ~FakeCore() override {
    for (std::thread& thread : threads_) thread.join();
  }

  // One delta a piece.
  static Script Say(std::vector<std::string> pieces) {
    return [pieces](GenerationListener& listener, const std::function<absl::Status()>&) {
      listener.OnStarted({});
      for (const std::string& piece : pieces) listener.OnDelta(DeltaOf(piece));
      v1::Finished finished;
      finished.set_reason(v1::FINISH_REASON_STOP);
      listener.OnFinished(finished);
      return absl::OkStatus();
    };
  }
  static v1::Delta DeltaOf(const std::string& text) {
    v1::Delta delta;
    delta.add_token_ids(5);
    delta.add_sources(v1::DRAFT_SOURCE_CONTEXT);
    delta.set_text(text);
    return delta;
  }

  void SetScript(Script script) {
    absl::MutexLock lock(&mu_);
    script_ = std::move(script);
  }
  void SetKey(const std::string& key) { key_ = key; }
  void SetReady(bool ready) { ready_ = ready; }

  bool authenticates() const override { return !key_.empty(); }
  absl::StatusOr<std::string> Identify(const Sender& sender, const char* rpc) override {
    absl::MutexLock lock(&mu_);
    rpcs_.push_back(rpc);
    if (!key_.empty() && sender.authorization != absl::StrCat("Bearer ", key_)) {
      return absl::UnauthenticatedError("no such key");
    }
    return sender.tenant.empty() ? "default" : sender.tenant;
  }
  absl::StatusOr<std::unique_ptr<Generation>> Prepare(const Caller& caller, const v1::ChatRequest& request,
                                                      GenerationListener* listener) override {
    if (request.model() == "busy") return Refusal("QUEUE_FULL", "7 wait, limit 7");
    if (request.options().max_tokens() > 100) return InvalidField("options.max_tokens", "is too much");
    return Make(caller, listener);
  }
  absl::StatusOr<std::unique_ptr<Generation>> Prepare(const Caller& caller, const v1::GenerateRequest&,
                                                      GenerationListener* listener) override {
    return Make(caller, listener);
  }
  void CountRefusal(const Caller&, const absl::Status& why) override {
    absl::MutexLock lock(&mu_);
    refusals_.push_back(why);
  }
  v1::ListModelsResponse ListModels() override {
    v1::ListModelsResponse models;
    if (ready_) models.add_models()->set_name("tiny");
    return models;
  }
  std::shared_ptr<void> Hold() override {
    ++held_;
    return std::shared_ptr<void>(nullptr, [this](void*) { --held_; });
  }

  int held() const { return held_; }
  int running() const { return running_; }
  int cancelled() const { return cancelled_; }
  std::vector<Caller> callers() const {
    absl::MutexLock lock(&mu_);
    return callers_;
  }
  std::vector<std::string> rpcs() const {
    absl::MutexLock lock(&mu_);
    return rpcs_;
  }
  std::vector<absl::Status> refusals() const {
    absl::MutexLock lock(&mu_);
    return refusals_;
  }

 private:
  // Shared by the thread that runs the script and the edge.
  struct State {
    absl::Mutex mu;
    absl::Status cancelled ABSL_GUARDED_BY(mu);
  };
  class FakeGeneration final : public Generation {
   public:
    FakeGeneration(FakeCore* core, GenerationListener* listener) : core_(core), listener_(listener) {}
    void Start() override { core_->Run(state_, listener_); }
    void Cancel(const absl::Status& why) override {
      absl::MutexLock lock(&state_->mu);
      if (state_->cancelled.ok()) ++core_->cancelled_;
      if (state_->cancelled.ok()) state_->cancelled = why;
    }
    const std::string& model() const override { return core_->model_; }
    std::shared_ptr<const Tokenizer> tokenizer() const override { return core_->tokenizer_; }

   private:
    FakeCore* const core_;
    GenerationListener* const listener_;
    const std::shared_ptr<State> state_ = std::make_shared<State>();
  };

  absl::StatusOr<std::unique_ptr<Generation>> Make(const Caller& caller, GenerationListener* listener) {
    absl::MutexLock lock(&mu_);
    callers_.push_back(caller);
    return std::make_unique<FakeGeneration>(this, listener);
  }
  void Run(std::shared_ptr<State> state, GenerationListener* listener) {
    absl::MutexLock lock(&mu_);
    ++running_;
    threads_.emplace_back([this, state, listener, script = script_] {
      const auto cancelled = [state] {
        absl::MutexLock lock(&state->mu);
        return state->cancelled;
      };
      absl::Status end = script(*listener, cancelled);
      if (!cancelled().ok()) end = cancelled();
      --running_;
      listener->OnEnded(end);
    });
  }

  const std::string model_ = "tiny";
  const std::shared_ptr<const Tokenizer> tokenizer_;
  std::string key_;
  std::atomic<bool> ready_ = true;
  std::atomic<int> held_ = 0, running_ = 0, cancelled_ = 0;

  mutable absl::Mutex mu_;
  Script script_ ABSL_GUARDED_BY(mu_);
  std::vector<Caller> callers_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> rpcs_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::Status> refusals_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace clamor::edge::testing
