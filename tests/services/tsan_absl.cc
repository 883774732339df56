// Shows ThreadSanitizer the synchronization of Abseil, which Debian builds without instrumentation: the locks
// of our own code and those of gRPC. Linked into tests of the preset `tsan` alone, in front of
// libabsl_synchronization: each function tells the sanitizer what it orders and calls the real one.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/base/config.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

// The function that ours hides; `name` is mangled, without what stands before the class. `prefix`: "_ZN", or
// "_ZNK" of a const function.
void* Real(const char* name, const char* prefix = "_ZN") {
  constexpr char kNamespace[] = ABSL_INTERNAL_TOKEN_STR(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  char symbol[256];
  std::snprintf(symbol, sizeof(symbol), "%s4absl%zu%s%s", prefix, std::strlen(kNamespace), kNamespace, name);
  void* found = dlsym(RTLD_NEXT, symbol);
  if (found == nullptr) std::abort();
  return found;
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto real = reinterpret_cast<void (*)(Mutex*)>(Real("5Mutex4LockEv"));
  real(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto real = reinterpret_cast<void (*)(Mutex*)>(Real("5Mutex6UnlockEv"));
  __tsan_release(this);
  real(this);
}

bool Mutex::TryLock() {
  static const auto real = reinterpret_cast<bool (*)(Mutex*)>(Real("5Mutex7TryLockEv"));
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::LockWhen(const Condition& condition) {
  static const auto real =
      reinterpret_cast<void (*)(Mutex*, const Condition&)>(Real("5Mutex8LockWhenERKNS0_9ConditionE"));
  real(this, condition);
  __tsan_acquire(this);
}

void Mutex::ReaderLock() {
  static const auto real = reinterpret_cast<void (*)(Mutex*)>(Real("5Mutex10ReaderLockEv"));
  real(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  static const auto real = reinterpret_cast<void (*)(Mutex*)>(Real("5Mutex12ReaderUnlockEv"));
  __tsan_release(this);
  real(this);
}

void Mutex::ReaderLockWhen(const Condition& condition) {
  static const auto real =
      reinterpret_cast<void (*)(Mutex*, const Condition&)>(Real("5Mutex14ReaderLockWhenERKNS0_9ConditionE"));
  real(this, condition);
  __tsan_acquire(this);
}

void Mutex::Await(const Condition& condition) {
  static const auto real =
      reinterpret_cast<void (*)(Mutex*, const Condition&)>(Real("5Mutex5AwaitERKNS0_9ConditionE"));
  __tsan_release(this);
  real(this, condition);
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static const auto real = reinterpret_cast<bool (*)(Mutex*, const Condition&, Duration)>(
      Real("5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE"));
  __tsan_release(this);
  const bool held = real(this, condition, timeout);
  __tsan_acquire(this);
  return held;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  static const auto real = reinterpret_cast<bool (*)(Mutex*, const Condition&, Time)>(
      Real("5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE"));
  __tsan_release(this);
  const bool held = real(this, condition, deadline);
  __tsan_acquire(this);
  return held;
}

void CondVar::Wait(Mutex* mutex) {
  static const auto real = reinterpret_cast<void (*)(CondVar*, Mutex*)>(Real("7CondVar4WaitEPNS0_5MutexE"));
  __tsan_release(mutex);
  real(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static const auto real = reinterpret_cast<bool (*)(CondVar*, Mutex*, Duration)>(
      Real("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE"));
  __tsan_release(mutex);
  const bool timed_out = real(this, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static const auto real = reinterpret_cast<bool (*)(CondVar*, Mutex*, Time)>(
      Real("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE"));
  __tsan_release(mutex);
  const bool timed_out = real(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

void Notification::Notify() {
  static const auto real = reinterpret_cast<void (*)(Notification*)>(Real("12Notification6NotifyEv"));
  __tsan_release(this);
  real(this);
}

void Notification::WaitForNotification() const {
  static const auto real =
      reinterpret_cast<void (*)(const Notification*)>(Real("12Notification19WaitForNotificationEv", "_ZNK"));
  real(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static const auto real = reinterpret_cast<bool (*)(const Notification*, Duration)>(
      Real("12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", "_ZNK"));
  const bool notified = real(this, timeout);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
