// One generation on one worker, as callbacks.
//
// Checks what a worker must keep to (Started, Deltas without gaps in tokens and text, Finished) and turns
// every way to end into one status:
//   the worker's own        passed on with its reason; "[DRAINING]" is a loss
//   the worker went away    UNAVAILABLE "[NO_WORKER]", a loss, and the worker is reported lost
//   told to leave it        likewise, and what it still sends is dropped
//   damaged on the way      likewise: the events' checksum is wrong, or one of them cannot be read
//   Cancel(why)             `why`
//   nonsense                INTERNAL
// After a loss another worker may go on with the answer: by then this call is over, so that nothing of a
// worker that wakes up again can come between. Tested by tests/services/gateway/streaming_test.cc and
// failure_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "services/content_check.h"
#include "services/gateway/worker_channel.h"
#include "services/generation_listener.h"
#include "services/tracing/tracer.h"

namespace clamor {

// What a call goes on with.
struct AnswerStart {
  uint64_t text_bytes = 0;  // of the request's emitted_ids
  std::string revision;     // of the model that they came from; empty: any will do
};

struct WorkerCallOptions {
  absl::Time deadline = absl::InfiniteFuture();
  TracePlace trace = {};  // of the request
};

// Events are read as bytes and parsed here: where gRPC parses, a message that cannot be read looks like the
// end of a stream, behind which others wait for ever.
class WorkerCall final : private WorkerChannel::GenerateReactor {
 public:
  // `lease` is of a worker that was reached. `request` and `listener` must outlive the call, the one
  // unchanged.
  WorkerCall(WorkerLease lease, const v1::WorkerServiceStreamGenerateRequest& request,
             const AnswerStart& start, const WorkerCallOptions& options, GenerationListener* listener);
  // REQUIRES: never started, or OnEnded was called.
  ~WorkerCall() override = default;

  void Start();  // once
  // Ends the call with `why`; the first one counts. Any thread; nothing happens if it has
  // ended.
  void Cancel(absl::Status why);

  WorkerChannel& worker() const { return lease_.worker(); }

  // How the call ended, from OnEnded on: whether Started came, and by which loss, if by one.
  bool started() const { return started_; }
  std::optional<Loss> loss() const { return loss_; }

 private:
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void Leave(Loss why);
  bool over();            // what still comes is of no interest
  bool Parse();           // bytes_ into response_; false if they are damaged, as far as that can be known
  absl::Status Accept();  // response_; an error if it breaks the rules
  absl::Status AcceptDelta();
  absl::Status EndStatus(const grpc::Status& status);
  absl::Status Lost(Loss loss, absl::string_view how);

  const v1::WorkerServiceStreamGenerateRequest& request_;
  const std::string revision_;
  const uint64_t most_tokens_;  // that the model's context has room for
  GenerationListener* const listener_;
  grpc::ClientContext context_;
  Span span_;  // of the attempt; from its start to its end

  grpc::ByteBuffer bytes_;                            // of the read under way
  v1::WorkerServiceStreamGenerateResponse response_;  // the last one; read reactions only, as the next four
  bool started_ = false, finished_ = false;
  bool checked_ = false;  // the worker sends checksums
  ContentCheck check_;
  uint64_t next_token_index_, next_text_byte_;
  std::optional<Loss> loss_;  // since the end

  absl::Mutex mu_;
  absl::Status cancelled_ ABSL_GUARDED_BY(mu_);    // why; OK: it was not
  std::optional<Loss> left_ ABSL_GUARDED_BY(mu_);  // why the worker was left; none: it was not

  const WorkerLease lease_;  // last: until it is gone Leave may be called
};

}  // namespace clamor
