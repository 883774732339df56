#include "services/cli/train_progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"

namespace clamor::cli {
namespace {

std::string Duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return absl::StrFormat("%d s", s);
  if (s < 3600) return absl::StrFormat("%d min %02d s", s / 60, s % 60);
  return absl::StrFormat("%d h %02d min", s / 3600, s / 60 % 60);
}

}  // namespace

TrainProgress::TrainProgress(int64_t steps, int64_t begun)
    : steps_(steps), begun_(begun), terminal_(isatty(STDERR_FILENO) != 0) {}

void TrainProgress::Show(const TrainingStep& step, double seconds) {
  constexpr double kSmoothing = 0.05;
  loss_ = tokens_ == 0 ? step.loss : loss_ + kSmoothing * (step.loss - loss_);
  tokens_ += step.tokens;
  const double interval = terminal_ ? 0.1 : 10.0;
  if (seconds - shown_at_ < interval && step.step != steps_) return;
  shown_at_ = seconds;
  const double per_step = seconds / static_cast<double>(step.step - begun_);
  const double left = per_step * static_cast<double>(steps_ - step.step);
  std::string bar;
  if (terminal_) {
    constexpr int kWidth = 24;
    const int filled = static_cast<int>(kWidth * step.step / steps_);
    bar = "[" + std::string(filled, '=') + std::string(kWidth - filled, ' ') + "] ";
  }
  const std::string line =
      absl::StrFormat("%s%d/%d  loss %.4f  %.0f tokens/s  %s left", bar, step.step, steps_, loss_,
                      static_cast<double>(tokens_) / std::max(seconds, 1e-9), Duration(left));
  if (terminal_) {
    std::fprintf(stderr, "\r%s\033[K", line.c_str());
    bar_shown_ = true;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

void TrainProgress::Say(const std::string& line) {
  std::fprintf(stderr, "%s%s\n", bar_shown_ ? "\r\033[K" : "", line.c_str());
  bar_shown_ = false;
}

void TrainProgress::Finish() {
  if (bar_shown_) std::fprintf(stderr, "\n");
  bar_shown_ = false;
}

}  // namespace clamor::cli
