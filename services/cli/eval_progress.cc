#include "services/cli/eval_progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "model/train/html_text.h"

namespace clamor::cli {

EvalProgress::EvalProgress(size_t prompts, size_t modes)
    : prompts_(prompts),
      answers_(prompts * modes),
      terminal_(isatty(STDERR_FILENO) != 0),
      begin_(absl::Now()) {}

EvalProgress::~EvalProgress() {
  if (terminal_) std::fprintf(stderr, "\r\033[K");
}

void EvalProgress::Show(size_t prompt, const EvalQuestion& question, const std::string& mode,
                        const ModeAnswer& answer) {
  ++done_;
  const absl::Time now = absl::Now();
  const absl::Duration interval = terminal_ ? absl::ZeroDuration() : absl::Seconds(10);
  if (now - shown_ < interval && done_ != answers_) return;
  shown_ = now;
  const double left = absl::ToDoubleSeconds(now - begin_) / static_cast<double>(done_) *
                      static_cast<double>(answers_ - done_);
  const double speed = answer.tokens_per_second();
  const std::string line = absl::StrFormat(
      "prompt %d of %d (%s), %s: %s tokens/s, %s left", prompt + 1, prompts_, question.category, mode,
      std::isfinite(speed) ? absl::StrFormat("%.1f", speed) : "-", FormatDuration(left));
  std::fprintf(stderr, terminal_ ? "\r%s\033[K" : "%s\n", line.c_str());
}

}  // namespace clamor::cli
