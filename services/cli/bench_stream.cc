#include "services/cli/bench_stream.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "services/rpc_error.h"

namespace clamor::cli {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr char kRetryInfo[] = "type.googleapis.com/google.rpc.RetryInfo";  // as FromGrpc keeps it

template <class Request>
struct ResponseTo;
template <>
struct ResponseTo<v1::StreamGenerateRequest> {
  using Type = v1::StreamGenerateResponse;
};
template <>
struct ResponseTo<v1::StreamChatRequest> {
  using Type = v1::StreamChatResponse;
};

template <class Request>
class Stream final : public LoadStream, private grpc::ClientReadReactor<typename ResponseTo<Request>::Type> {
 public:
  Stream(v1::GenerationService::Stub* stub, StreamPlan plan, Ended ended)
      : stub_(stub),
        plan_(std::move(plan)),
        request_(std::get<Request>(plan_.request)),
        ended_(std::move(ended)) {
    result_.due = plan_.due;
    if (request_.options().priority() != v1::PRIORITY_UNSPECIFIED) {
      result_.priority = request_.options().priority();
    }
  }

  void Start() override {
    result_.sent = SinceDue();
    if (plan_.deadline) {
      const Seconds left(std::max(0.0, *plan_.deadline - result_.sent));
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::duration_cast<std::chrono::nanoseconds>(left));
    }
    if constexpr (std::is_same_v<Request, v1::StreamGenerateRequest>) {
      stub_->async()->StreamGenerate(&context_, &request_, this);
    } else {
      stub_->async()->StreamChat(&context_, &request_, this);
    }
    if (plan_.reads) this->StartRead(&response_);
    this->StartCall();
  }

  void Cancel() override { context_.TryCancel(); }

 private:
  ~Stream() override = default;

  double SinceDue() const { return Seconds(LoadClock::now() - plan_.due).count(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.has_started()) {
      result_.started = true;
    } else if (response_.has_delta()) {
      Take(response_.delta());
    } else if (response_.has_finished()) {
      finished_ = true;
    }
    if (!result_.aborted && !finished_ && plan_.abort_after && result_.tokens >= *plan_.abort_after) {
      result_.aborted = true;
      context_.TryCancel();
    }
    this->StartRead(&response_);
  }

  void Take(const v1::Delta& delta) {
    if (plan_.on_delta) plan_.on_delta(delta);
    if (delta.token_ids().empty()) return;
    const double now = SinceDue();
    if (!result_.first_token) {
      result_.first_token = now;
    } else {
      const auto tokens = static_cast<uint32_t>(delta.token_ids_size());
      result_.gaps.emplace_back(static_cast<float>((now - last_) / tokens), tokens);
    }
    result_.tokens += delta.token_ids_size();
    last_ = now;
  }

  void OnDone(const grpc::Status& status) override {
    result_.total = SinceDue();
    result_.status = FromGrpc(status);
    if (status.ok() && !finished_) {
      result_.status = absl::InternalError("the stream ended without its end");
    }
    result_.told_when_to_retry = result_.status.GetPayload(kRetryInfo).has_value();
    if (plan_.over) plan_.over(result_.status);
    const Ended ended = std::move(ended_);
    StreamResult result = std::move(result_);
    LoadStream* const self = this;
    ended(self, std::move(result));
    delete this;
  }

  v1::GenerationService::Stub* const stub_;
  const StreamPlan plan_;
  const Request& request_;  // of plan_
  Ended ended_;
  grpc::ClientContext context_;
  typename ResponseTo<Request>::Type response_;
  StreamResult result_;
  double last_ = 0;  // when tokens came
  bool finished_ = false;
};

}  // namespace

LoadStream* LoadStream::Make(v1::GenerationService::Stub* stub, StreamPlan plan, Ended ended) {
  if (std::holds_alternative<v1::StreamChatRequest>(plan.request)) {
    return new Stream<v1::StreamChatRequest>(stub, std::move(plan), std::move(ended));
  }
  return new Stream<v1::StreamGenerateRequest>(stub, std::move(plan), std::move(ended));
}

}  // namespace clamor::cli
