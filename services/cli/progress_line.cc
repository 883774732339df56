#include "services/cli/progress_line.h"

#include <unistd.h>

#include <cstdio>

#include "absl/time/clock.h"

namespace clamor::cli {

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() {
  if (terminal_) std::fprintf(stderr, "\r\033[K");
}

void ProgressLine::Show(const std::string& line, bool last) {
  const absl::Time now = absl::Now();
  if (!terminal_ && !last && now - shown_ < absl::Seconds(10)) return;
  shown_ = now;
  std::fprintf(stderr, terminal_ ? "\r%s\033[K" : "%s\n", line.c_str());
}

}  // namespace clamor::cli
