// One request for a generation: OpenAI's request in, the gateway's events to OpenAI's answer out.
//
// Nothing is sent before a worker has admitted the request: until then it can be refused with a status.
// After that an error is the stream's last event. Tested by tests/services/edge/edge_test.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "services/edge/generation_core.h"
#include "services/edge/http_reply.h"
#include "services/edge/openai_answer.h"
#include "services/edge/openai_request.h"

namespace clamor::edge {

struct StreamLimits {
  size_t max_pending_bytes;  // a client that lets more wait is cut off with SLOW_CONSUMER
  size_t pad_bytes = 0;      // events are filled up to multiples of it; 0: they are not
};

class OpenAiCall final : public RunningCall,
                         private GenerationListener,
                         public std::enable_shared_from_this<OpenAiCall> {
 public:
  // Null if the request was refused. `core` must outlive the call, which ends after its OnEnded.
  static std::shared_ptr<OpenAiCall> Begin(GenerationCore* core, ApiKind kind, const HttpRequest& request,
                                           std::shared_ptr<HttpReply> reply, const StreamLimits& limits);

  void Cancel(const absl::Status& why) override;

 private:
  OpenAiCall(ApiKind kind, std::shared_ptr<HttpReply> reply, const StreamLimits& limits)
      : kind_(kind), limits_(limits), reply_(std::move(reply)) {}

  absl::Status Prepare(GenerationCore* core, Caller& caller, const HttpRequest& request);
  void OnStarted(v1::Started started) override;
  void OnDelta(v1::Delta delta) override;
  void OnFinished(v1::Finished finished) override;
  void OnEnded(const absl::Status& status) override;
  void SendEvent(absl::string_view data);

  const ApiKind kind_;
  const StreamLimits limits_;
  std::shared_ptr<HttpReply> reply_;
  std::shared_ptr<void> hold_;  // the server does not stop before the answer is sent
  ReplyForm form_;
  std::optional<OpenAiAnswer> answer_;  // events come one at a time
  bool begun_ = false;                  // the head was sent
  std::shared_ptr<OpenAiCall> self_;    // from Start to OnEnded

  absl::Mutex mu_;
  std::shared_ptr<Generation> generation_ ABSL_GUARDED_BY(mu_);  // null: ended
};

}  // namespace clamor::edge
