#include "services/reset_alarm.h"

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace clamor {

struct ResetAlarm::Call {
  explicit Call(grpc::CallbackServerContext* call) : context(call) {}

  absl::Mutex mu;
  grpc::CallbackServerContext* context ABSL_GUARDED_BY(mu);  // null: forgotten
};

ResetAlarm::ResetAlarm(grpc::CallbackServerContext* call) : call_(std::make_shared<Call>(call)) {}

void ResetAlarm::Set(absl::Time when) {
  alarm_.Set(absl::ToChronoTime(when), [call = call_](bool rang) {
    absl::MutexLock lock(&call->mu);
    if (rang && call->context != nullptr) call->context->TryCancel();
  });
}

void ResetAlarm::Forget() {
  {
    absl::MutexLock lock(&call_->mu);
    call_->context = nullptr;
  }
  alarm_.Cancel();
}

}  // namespace clamor
