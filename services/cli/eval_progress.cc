#include "services/cli/eval_progress.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "model/train/html_text.h"

namespace clamor::cli {

EvalProgress::EvalProgress(size_t prompts, size_t modes)
    : prompts_(prompts), answers_(prompts * modes), begin_(absl::Now()) {}

void EvalProgress::Show(size_t prompt, const EvalQuestion& question, const std::string& mode,
                        const ModeAnswer& answer) {
  ++done_;
  const double left = absl::ToDoubleSeconds(absl::Now() - begin_) / static_cast<double>(done_) *
                      static_cast<double>(answers_ - done_);
  const double speed = answer.tokens_per_second();
  line_.Show(absl::StrFormat(
                 "prompt %d of %d (%s), %s: %s tokens/s, %s left", prompt + 1, prompts_, question.category,
                 mode, std::isfinite(speed) ? absl::StrFormat("%.1f", speed) : "-", FormatDuration(left)),
             done_ == answers_);
}

}  // namespace clamor::cli
