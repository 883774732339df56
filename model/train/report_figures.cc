#include "model/train/report_figures.h"

#include <algorithm>

#include "absl/types/span.h"
#include "model/train/line_chart.h"
#include "model/train/report_charts.h"

namespace clamor {
namespace {

Course CourseOf(absl::Span<const Point> points) {
  Course course;
  for (const Point& point : points) {
    if (!CanDraw(point.y)) continue;
    const auto step = static_cast<int64_t>(point.x);
    if (course.values++ == 0) {
      course.first = point.y;
      course.first_step = step;
    }
    course.last = point.y;
    course.last_step = step;
    if (!(course.lowest <= point.y)) {
      course.lowest = point.y;
      course.lowest_step = step;
    }
  }
  return course;
}

double MedianSpeed(const std::vector<LoggedStep>& steps) {
  std::vector<double> speeds;
  for (const LoggedStep& step : steps) {
    if (CanDraw(step.tokens_per_second)) speeds.push_back(step.tokens_per_second);
  }
  if (speeds.empty()) return NAN;
  const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>(speeds.size() / 2);
  std::nth_element(speeds.begin(), middle, speeds.end());
  return *middle;
}

void AddSteps(const std::vector<LoggedStep>& steps, Figures& figures) {
  std::vector<Point> losses;
  for (const LoggedStep& step : steps) {
    losses.push_back({static_cast<double>(step.step), step.loss});
    if (std::isfinite(step.loss)) continue;
    if (figures.bad_losses++ == 0) figures.first_bad_step = step.step;
  }
  figures.training_loss = CourseOf(Smoothed(losses, SmoothingReach(losses.size())));
  figures.tokens_per_second = MedianSpeed(steps);
  if (steps.empty()) return;
  figures.steps = steps.back().step;
  figures.epochs = steps.back().epoch;
  figures.tokens = steps.back().tokens;
  figures.seconds = steps.back().seconds;
}

}  // namespace

Figures FiguresOf(const TrainingLog& log) {
  Figures figures;
  AddSteps(log.steps, figures);
  figures.heldout_loss = CourseOf(HeldoutCurve(log));
  if (!log.evaluations.empty()) figures.steps = std::max(figures.steps, log.evaluations.back().step);
  for (const std::string& draft : DraftsOf(log)) {
    figures.speeds.push_back({draft, CourseOf(SpeedCurve(log, draft))});
  }
  if (log.end) {
    figures.steps = std::max(figures.steps, log.end->step);
    if (log.end->tokens > 0) figures.tokens = log.end->tokens;
    if (std::isfinite(log.end->seconds)) figures.seconds = log.end->seconds;
    figures.peak_memory_bytes = log.end->peak_memory_bytes;
  }
  return figures;
}

}  // namespace clamor
