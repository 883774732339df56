// One answer on its way to one client: what the engine emits becomes messages of a gRPC stream.
//
// At most one write is in flight; tokens that come meanwhile join the next message. A reader that leaves too
// much unread is cut off, so that it holds neither memory nor a place in the engine. Nothing, headers
// included, is sent before the request leaves the engine's queue.
//
// Threads: the sink's methods come from the engine's thread, the reactor's from gRPC's. Deletes itself when
// both sides are done with it.
//
// Tested by tests/services/worker/token_stream_test.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "services/content_check.h"
#include "services/reset_alarm.h"
#include "services/worker/request.h"

namespace clamor {

struct TokenStreamOptions {
  int max_unread_tokens = 4096;                // waiting for the write in flight; more: SLOW_CONSUMER
  size_t max_unread_bytes = 256 << 10;         // of text, likewise
  absl::Duration farewell = absl::Seconds(2);  // for a slow reader to see that status; then a reset
};

class TokenStream final : public grpc::ServerWriteReactor<v1::WorkerServiceStreamGenerateResponse>,
                          public TokenSink {
 public:
  using Canceller = std::function<void(FinishReason)>;
  // Told how the answer ended, with the ids that were emitted here; on the engine's thread.
  using Ending = std::function<void(const Finished& finished, std::vector<int32_t> ids)>;

  // `started` is sent when the engine admits the request. `ending` may be null. `context` is the call's.
  TokenStream(grpc::CallbackServerContext* context, v1::Started started, const TokenStreamOptions& options,
              Ending ending);

  // Exactly one of these follows construction, from the thread that handles the call. Accepted: the engine
  // has the request and `cancel` ends it there; it is called at once if the client has gone already. Refused:
  // it has not.
  void OnAccepted(Canceller cancel);
  void OnRefused(const absl::Status& status);

  void OnStarted(int32_t cached_tokens) override;
  void OnDelta(const Delta& delta) override;
  void OnFinished(const Finished& finished) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  ~TokenStream() override = default;

  // Writes what is due if no write is in flight.
  void Pump();
  absl::Status FinalStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Cancel(FinishReason reason);
  void Release();

  const TokenStreamOptions options_;
  const Ending ending_;
  std::vector<int32_t> ids_;  // for ending_; the engine thread's
  ResetAlarm farewell_;         // of a slow reader
  std::atomic<int> owners_{2};  // engine, gRPC

  absl::Mutex mu_;
  v1::WorkerServiceStreamGenerateResponse message_ ABSL_GUARDED_BY(mu_);  // being written while writing_
  ContentCheck check_ ABSL_GUARDED_BY(mu_);                               // of what has been written
  v1::Started started_ ABSL_GUARDED_BY(mu_);
  v1::Delta unread_ ABSL_GUARDED_BY(mu_);
  std::optional<Finished> finished_ ABSL_GUARDED_BY(mu_);
  Canceller canceller_ ABSL_GUARDED_BY(mu_);
  std::optional<FinishReason> cancel_ ABSL_GUARDED_BY(mu_);  // the first reason to end early
  bool started_due_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;  // Finish was called
};

}  // namespace clamor
