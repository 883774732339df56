#include "services/security/audit_log.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "services/log.h"

namespace clamor {

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& path) {
  const int fd = path.empty() ? -1 : open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 && !path.empty()) {
    return absl::UnavailableError(absl::StrCat("--audit-log: cannot write \"", path, "\""));
  }
  return std::unique_ptr<AuditLog>(new AuditLog(fd));
}

AuditLog::~AuditLog() {
  if (fd_ >= 0) close(fd_);
}

void AuditLog::Record(absl::string_view event, std::initializer_list<Field> fields) {
  const absl::Time now = absl::Now();
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime(absl::RFC3339_full, now, absl::UTCTimeZone());
  line["event"] = std::string(event);
  for (const Field& field : fields) line[std::string(field.first)] = std::string(field.second);
  absl::MutexLock lock(&mu_);
  if (now >= second_ + absl::Seconds(1)) {
    second_ = now;
    lines_ = 0;
  }
  if (++lines_ > kPerSecond) {
    ++left_out_;
    return;
  }
  if (left_out_ > 0) line["lines_left_out"] = left_out_;
  left_out_ = 0;
  // What a caller wrote may be no UTF-8.
  std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (fd_ < 0) {
    spdlog::info("event=audit line={}", Quoted(text));
    return;
  }
  text += '\n';
  if (write(fd_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    spdlog::error("event=audit_not_written line={}", Quoted(text));
  }
}

}  // namespace clamor
