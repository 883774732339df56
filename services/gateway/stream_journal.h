// Streams that can be given again: what is written of one when a worker has admitted it, and what a client
// that lost it still gets. Tested by tests/services/gateway/resume_test.cc.
#pragma once

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "clamor/v1/generation.pb.h"
#include "clamor/v1/stored.pb.h"
#include "services/gateway/pending_events.h"
#include "services/gateway/worker_call.h"
#include "services/session/session_keeper.h"

namespace clamor {

// Writes a stream to the store while the worker reads its prompt; `next` hears of its start when that is
// done, and whether it was. A store that does not answer costs the stream nothing but that it cannot be
// resumed.
class StreamJournal final : public GenerationListener {
 public:
  // Both pointers outlive this. `stream` is as the request was prepared.
  StreamJournal(SessionKeeper* keeper, v1::StoredStream stream, GenerationListener* next);

  void OnStarted(v1::Started started) override;
  void OnDelta(v1::Delta delta) override;
  void OnFinished(v1::Finished finished) override;
  void OnEnded(const absl::Status& status) override;

 private:
  template <class Event>
  void Add(Event event);
  void Write();
  void Release(bool kept);
  void PassOn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  SessionKeeper* const keeper_;
  GenerationListener* const next_;
  v1::StoredStream stream_;  // changed before it is written

  absl::Mutex mu_;
  PendingAnswers pending_ ABSL_GUARDED_BY(mu_);  // what came while it is being written
  bool written_ ABSL_GUARDED_BY(mu_) = false;    // or given up
  bool begun_ ABSL_GUARDED_BY(mu_) = false, kept_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

// Of an answer that is given again, what the client has not got: tokens and text are cut where it says.
class ResumedAnswer final : public GenerationListener {
 public:
  ResumedAnswer(const v1::ResumeStreamRequest& has, GenerationListener* next) : has_(has), next_(next) {}

  void OnStarted(v1::Started started) override;
  void OnDelta(v1::Delta delta) override;
  void OnFinished(v1::Finished finished) override;
  void OnEnded(const absl::Status& status) override;

 private:
  void CutTokens(v1::Delta& delta) const;
  absl::Status CutText(v1::Delta& delta) const;

  const v1::ResumeStreamRequest has_;
  GenerationListener* const next_;
  uint64_t tokens_ = 0, text_bytes_ = 0;  // of the answer so far
  absl::Status error_;                    // what the client has wrong
};

}  // namespace clamor
