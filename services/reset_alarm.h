// Resets a call whose client does not take what is left for it: a status waits behind data that nobody reads,
// and would wait for ever.
//
// Threads: Set and Forget from any thread; not both at once with the destructor.
// Tested by tests/services/worker/token_stream_test.cc and tests/services/gateway/failure_test.cc.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "grpcpp/alarm.h"
#include "grpcpp/server_context.h"

namespace clamor {

class ResetAlarm {
 public:
  // `call` must live until Forget or the destructor.
  explicit ResetAlarm(grpc::CallbackServerContext* call);
  ~ResetAlarm() { Forget(); }
  ResetAlarm(const ResetAlarm&) = delete;
  ResetAlarm& operator=(const ResetAlarm&) = delete;

  // The call is reset then, if nobody forgets it before. At most once.
  void Set(absl::Time when);
  // From now on the call is not touched.
  void Forget();

 private:
  struct Call;
  const std::shared_ptr<Call> call_;  // shared with the alarm, which may ring or be put off later than we go
  grpc::Alarm alarm_;
};

}  // namespace clamor
