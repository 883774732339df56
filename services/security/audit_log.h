// Who did what that an auditor asks about: callers that were refused, keys that changed, tenants that were
// deleted. One JSON object a line.
//
// Never keys, prompts or answers. What can come without end (refusals) is at most kPerSecond lines a second;
// the next line tells how many were left out.
// Threads: any. Tested by tests/services/security/audit_log_test.cc.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace clamor {

class AuditLog {
 public:
  static constexpr int kPerSecond = 100;
  using Field = std::pair<absl::string_view, absl::string_view>;

  // Appends to `path`; empty: lines go to the log as event=audit. An error names the flag and the file.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& path);
  ~AuditLog();

  // {"time":...,"event":EVENT,FIELDS...}; in the file when it returns.
  void Record(absl::string_view event, std::initializer_list<Field> fields);

 private:
  explicit AuditLog(int fd) : fd_(fd) {}

  const int fd_;  // below 0: none
  absl::Mutex mu_;
  absl::Time second_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  int lines_ ABSL_GUARDED_BY(mu_) = 0;  // in that second
  uint64_t left_out_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace clamor
