// One line chart as inline SVG that stays legible at every width: curves are a stretched SVG whose strokes
// keep their width, labels are HTML placed by percentages, so that text is never scaled. Needs
// report_style.h's style sheet; needs no JavaScript. Pure functions. Tested by
// tests/model/train/report_test.cc.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace clamor {

struct Point {
  double x, y;  // y not finite: a gap
};

enum class Stroke {
  kLine,
  kMarked,  // a dot at each point, where they are few
  kFaint,   // raw values behind a line: spikes may leave the chart
};

struct Curve {
  std::string name;  // beside its last value, unless empty
  int color = 0;     // of the palette; past its end colours return, dashed
  Stroke stroke = Stroke::kLine;
  std::vector<Point> points;  // ascending x
};

struct LineChart {
  std::string title;
  std::string unit;  // of y
  std::vector<Curve> curves;
  std::optional<double> reaches;  // the y axis has this value, too; a line marks it
  std::string reaches_name;       // what that line is
  std::string note;               // under the chart
  int digits = 4;                 // of values in labels
  std::string x_name = "step";    // what x counts
  bool wide = false;              // over the whole page
};

// Values that a chart can show: finite, and far from where double arithmetic on them would overflow.
bool CanDraw(double value);

// At most `most` points: means of buckets of consecutive ones, of what can be drawn in them. REQUIRES: most >
// 0.
std::vector<Point> Thinned(absl::Span<const Point> points, size_t most);

// Each value as the mean of what can be drawn among it and `reach` neighbours on both sides. O(points).
std::vector<Point> Smoothed(absl::Span<const Point> points, size_t reach);

struct Axis {
  double low, high;           // low < high
  double step;                // between ticks
  std::vector<double> ticks;  // multiples of step in [low, high]
};

// An axis with ticks at multiples of 1, 2 or 5 times a power of ten, about `intervals` of them. `rounded`: it
// ends at ticks; else at low and high. REQUIRES: CanDraw of both, low <= high.
Axis NiceAxis(double low, double high, int intervals, bool rounded);

// Empty if no curve has a point that can be drawn. Coordinates in the SVG run from 0 to 1000, y downwards;
// the figure's data-x and data-y hold the ends of the axes.
std::string RenderLineChart(const LineChart& chart);

}  // namespace clamor
