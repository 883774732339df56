#include "model/train/report_charts.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/train/html_text.h"

namespace clamor {
namespace {

constexpr size_t kMostPoints = 1000;  // of a curve
constexpr size_t kMostDrafts = 8;     // on a page

// Points of a curve when `runs` share a page of bounded size.
size_t PointsPerCurve(size_t runs) {
  return std::max<size_t>(kMostPoints * 3 / std::max<size_t>(runs, 3), 50);
}

template <typename Value>
std::vector<Point> StepCurve(const TrainingLog& log, Value value) {
  std::vector<Point> points;
  points.reserve(log.steps.size());
  for (const LoggedStep& step : log.steps) points.push_back({static_cast<double>(step.step), value(step)});
  return points;
}

void AddDrafts(const TrainingLog& log, std::vector<std::string>& drafts) {
  for (const LoggedEvaluation& evaluation : log.evaluations) {
    for (const LoggedSpeed& speed : evaluation.speeds) {
      const bool known = std::find(drafts.begin(), drafts.end(), speed.draft) != drafts.end();
      if (!known && drafts.size() < kMostDrafts) drafts.push_back(speed.draft);
    }
  }
}

// A noisy quantity: its smoothed curve, over the raw one where no other run is in its way.
template <typename Value>
std::vector<Curve> NoisyCurves(absl::Span<const Run> runs, Value value) {
  std::vector<Curve> faint, smooth;
  const size_t most = PointsPerCurve(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::vector<Point> raw = StepCurve(*runs[i].log, value);
    const size_t reach = SmoothingReach(raw.size());
    const int color = static_cast<int>(i);
    if (runs.size() == 1 && reach > 0) faint.push_back({"", color, Stroke::kFaint, Thinned(raw, most)});
    smooth.push_back({runs[i].name, color, Stroke::kLine, Thinned(Smoothed(raw, reach), most)});
  }
  faint.insert(faint.end(), smooth.begin(), smooth.end());
  return faint;
}

template <typename Points>
std::vector<Curve> CleanCurves(absl::Span<const Run> runs, Stroke stroke, Points points) {
  std::vector<Curve> curves;
  for (size_t i = 0; i < runs.size(); ++i) {
    curves.push_back({runs[i].name, static_cast<int>(i), stroke,
                      Thinned(points(*runs[i].log), PointsPerCurve(runs.size()))});
  }
  return curves;
}

std::string SmoothingNote(absl::Span<const Run> runs) {
  if (runs.size() > 1) return "Smoothed.";
  const size_t reach = SmoothingReach(runs[0].log->steps.size());
  if (reach == 0) return "";
  const char* raw =
      runs[0].log->steps.size() > kMostPoints ? "means of a few logged steps" : "each logged step";
  return absl::StrCat("Thin line: ", raw, ". Thick line: mean of ", 2 * reach + 1, " logged steps.");
}

// The highest gradient norm is worth a word: the curve may have left the chart there.
std::string HighestNorm(absl::Span<const Run> runs) {
  const LoggedStep* highest = nullptr;
  for (const LoggedStep& step : runs[0].log->steps) {
    if (!CanDraw(step.gradient_norm)) continue;
    if (highest == nullptr || step.gradient_norm > highest->gradient_norm) highest = &step;
  }
  if (runs.size() > 1 || highest == nullptr) return "";
  return absl::StrCat("Highest: ", FormatNumber(highest->gradient_norm, 3), " at step ",
                      FormatCount(highest->step), ".");
}

// One run: its drafts in one chart. Several: a chart for each draft.
std::string RenderSpeedCharts(absl::Span<const Run> runs) {
  LineChart chart{.unit = "mean of greedy decoding, by step",
                  .reaches = 1.0,
                  .reaches_name = "plain decoding",
                  .digits = 3};
  const std::vector<std::string> drafts = DraftsOf(runs);
  if (runs.size() == 1) {
    chart.title = "Tokens per forward";
    for (size_t i = 0; i < drafts.size(); ++i) {
      chart.curves.push_back({DraftName(drafts[i]), static_cast<int>(i), Stroke::kMarked,
                              Thinned(SpeedCurve(*runs[0].log, drafts[i]), kMostPoints)});
    }
    return RenderLineChart(chart);
  }
  std::string html;
  for (const std::string& draft : drafts) {
    chart.title = absl::StrCat("Tokens per forward, ", DraftName(draft));
    chart.curves =
        CleanCurves(runs, Stroke::kMarked, [&](const TrainingLog& log) { return SpeedCurve(log, draft); });
    html += RenderLineChart(chart);
  }
  return html;
}

}  // namespace

size_t SmoothingReach(size_t steps) { return steps < 20 ? 0 : std::max<size_t>(steps / 50, 2); }

std::string DraftName(const std::string& draft) {
  int64_t nodes = 0;
  if (!absl::SimpleAtoi(draft, &nodes)) return draft;
  return nodes == 0 ? "plain" : absl::StrCat(draft, " nodes");
}

std::vector<std::string> DraftsOf(const TrainingLog& log) {
  std::vector<std::string> drafts;
  AddDrafts(log, drafts);
  return drafts;
}

std::vector<std::string> DraftsOf(absl::Span<const Run> runs) {
  std::vector<std::string> drafts;
  for (const Run& run : runs) AddDrafts(*run.log, drafts);
  return drafts;
}

std::vector<Point> HeldoutCurve(const TrainingLog& log) {
  std::vector<Point> points;
  for (const LoggedEvaluation& evaluation : log.evaluations) {
    points.push_back({static_cast<double>(evaluation.step), evaluation.heldout_loss});
  }
  return points;
}

std::vector<Point> SpeedCurve(const TrainingLog& log, const std::string& draft) {
  std::vector<Point> points;
  for (const LoggedEvaluation& evaluation : log.evaluations) {
    for (const LoggedSpeed& speed : evaluation.speeds) {
      if (speed.draft != draft) continue;
      points.push_back({static_cast<double>(evaluation.step), speed.tokens_per_forward});
    }
  }
  return points;
}

std::string RenderCharts(absl::Span<const Run> runs) {
  if (runs.empty()) return "";
  std::string html = RenderLineChart({.title = "Training loss",
                                      .unit = "nats per learned token, by step",
                                      .curves = NoisyCurves(runs, [](const LoggedStep& s) { return s.loss; }),
                                      .note = SmoothingNote(runs),
                                      .digits = 3,
                                      .wide = true});
  html += RenderLineChart({.title = "Held-out loss",
                           .unit = "nats per response token, by step",
                           .curves = CleanCurves(runs, Stroke::kMarked, HeldoutCurve)});
  html += RenderSpeedCharts(runs);
  const auto rate = [](const TrainingLog& log) {
    return StepCurve(log, [](const LoggedStep& s) { return s.learning_rate; });
  };
  html += RenderLineChart({.title = "Learning rate",
                           .unit = "by step",
                           .curves = CleanCurves(runs, Stroke::kLine, rate),
                           .reaches = 0.0,
                           .digits = 2});
  html += RenderLineChart({.title = "Gradient norm",
                           .unit = "before clipping, by step",
                           .curves = NoisyCurves(runs, [](const LoggedStep& s) { return s.gradient_norm; }),
                           .reaches = 0.0,
                           .note = HighestNorm(runs),
                           .digits = 3});
  return html.empty() ? "" : absl::StrCat("<div class=\"charts\">\n", html, "</div>\n");
}

}  // namespace clamor
