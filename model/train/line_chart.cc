#include "model/train/line_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/train/html_text.h"

namespace clamor {
namespace {

constexpr double kSvgSize = 1000;  // both ways, whatever the size on the page
constexpr int kColors = 6;         // report_style.cc
constexpr int kHeight = 240;       // pixels
constexpr int kWideHeight = 320;
constexpr double kLabelGap = 17;  // pixels between the middles of two labels
constexpr size_t kMostMarks = 40;

bool IsDrawn(const Point& point) { return CanDraw(point.x) && CanDraw(point.y); }

double OnAxis(const Axis& axis, double value) { return (value - axis.low) / (axis.high - axis.low); }

// "12.3", without a needless ".0".
std::string Coordinate(double value) {
  std::string text = absl::StrFormat("%.1f", value * kSvgSize);
  if (text.size() > 2 && text.substr(text.size() - 2) == ".0") text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

std::string Percent(double share) { return absl::StrFormat("%.2f%%", 100 * share); }

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void Cover(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

// Where most of a faint curve is: all but the hundredth part at either end.
Range CoreOf(const Curve& curve) {
  std::vector<double> values;
  for (const Point& point : curve.points) {
    if (IsDrawn(point)) values.push_back(point.y);
  }
  std::sort(values.begin(), values.end());
  if (values.empty()) return {};
  const size_t cut = values.size() / 100;
  return {values[cut], values[values.size() - 1 - cut]};
}

struct Axes {
  Axis x, y;
};

std::optional<Axes> AxesOf(const LineChart& chart) {
  Range x, y;
  for (const Curve& curve : chart.curves) {
    for (const Point& point : curve.points) {
      if (!IsDrawn(point)) continue;
      x.Cover(point.x);
      if (curve.stroke != Stroke::kFaint) y.Cover(point.y);
    }
    if (const Range core = CoreOf(curve); curve.stroke == Stroke::kFaint && !core.empty()) {
      y.Cover(core.low);
      y.Cover(core.high);
    }
  }
  if (x.empty()) return std::nullopt;
  if (chart.reaches) y.Cover(*chart.reaches);
  return Axes{NiceAxis(x.low, x.high, 5, /*rounded=*/false),
              NiceAxis(y.low, y.high, chart.wide ? 5 : 4, /*rounded=*/true)};
}

// The path through `points`; each run between gaps begins with M. A lone point is a line to itself: a round
// dot.
std::string PathThrough(const std::vector<Point>& points, const Axes& axes) {
  std::string path;
  size_t run = 0;
  std::string lone;
  for (const Point& point : points) {
    if (!IsDrawn(point)) {
      if (run == 1) absl::StrAppend(&path, "L", lone);
      run = 0;
      continue;
    }
    lone = absl::StrCat(Coordinate(OnAxis(axes.x, point.x)), " ", Coordinate(1 - OnAxis(axes.y, point.y)));
    absl::StrAppend(&path, run == 0 ? "M" : "L", lone);
    ++run;
  }
  if (run == 1) absl::StrAppend(&path, "L", lone);
  return path;
}

std::string MarksAt(const std::vector<Point>& points, const Axes& axes) {
  std::string path;
  for (const Point& point : points) {
    if (IsDrawn(point)) absl::StrAppend(&path, PathThrough({point}, axes));
  }
  return path;
}

std::string ColorClass(int color) {
  return absl::StrCat("c", color % kColors, color >= kColors ? " dashed" : "");
}

std::string RenderCurve(const Curve& curve, const Axes& axes) {
  const std::string path = PathThrough(curve.points, axes);
  if (path.empty()) return "";
  const char* kind = curve.stroke == Stroke::kFaint ? "faint" : "line";
  std::string svg = absl::StrCat("<path class=\"", kind, " ", ColorClass(curve.color), "\" data-name=\"",
                                 EscapeHtml(curve.name), "\" d=\"", path, "\"/>");
  if (curve.stroke == Stroke::kMarked && curve.points.size() <= kMostMarks) {
    absl::StrAppend(&svg, "<path class=\"marks ", ColorClass(curve.color), "\" d=\"",
                    MarksAt(curve.points, axes), "\"/>");
  }
  return svg;
}

const Point* LastDrawn(const Curve& curve) {
  const auto last = std::find_if(curve.points.rbegin(), curve.points.rend(),
                                 [](const Point& point) { return IsDrawn(point); });
  return last == curve.points.rend() ? nullptr : &*last;
}

// Moves labels apart, in order, so that each is `gap` from the next and none leaves [0, height] while there
// is room.
void Spread(std::vector<double>& middles, double gap, double height) {
  for (size_t i = 1; i < middles.size(); ++i) middles[i] = std::max(middles[i], middles[i - 1] + gap);
  double limit = height;
  for (size_t i = middles.size(); i-- > 0; limit = middles[i] - gap) middles[i] = std::min(middles[i], limit);
}

// Name and last value of each curve, right of the chart at the height where it ends.
std::string RenderEndLabels(const LineChart& chart, const Axes& axes, int height) {
  struct Label {
    const Curve* curve;
    double value;
  };
  std::vector<Label> labels;
  for (const Curve& curve : chart.curves) {
    const Point* last = LastDrawn(curve);
    if (curve.stroke != Stroke::kFaint && last != nullptr) labels.push_back({&curve, last->y});
  }
  std::stable_sort(labels.begin(), labels.end(),
                   [](const Label& a, const Label& b) { return a.value > b.value; });
  std::vector<double> middles;
  for (const Label& label : labels) middles.push_back((1 - OnAxis(axes.y, label.value)) * height);
  Spread(middles, kLabelGap, height);
  std::string html;
  for (size_t i = 0; i < labels.size(); ++i) {
    const std::string name =
        labels[i].curve->name.empty() ? "" : absl::StrCat("<i>", EscapeHtml(labels[i].curve->name), "</i> ");
    absl::StrAppend(&html, "<span class=\"end ", ColorClass(labels[i].curve->color),
                    "\" style=\"top:", Percent(middles[i] / height), "\">", name, "<b>",
                    FormatNumber(labels[i].value, chart.digits), "</b></span>");
  }
  return html;
}

std::string RenderGrid(const LineChart& chart, const Axes& axes) {
  std::string path;
  for (const double tick : axes.y.ticks) {
    absl::StrAppend(&path, "M0 ", Coordinate(1 - OnAxis(axes.y, tick)), "H1000");
  }
  std::string svg = absl::StrCat("<path class=\"grid\" d=\"", path, "\"/>");
  if (chart.reaches && !chart.reaches_name.empty()) {
    const std::string y = Coordinate(1 - OnAxis(axes.y, *chart.reaches));
    absl::StrAppend(&svg, "<path class=\"mark\" d=\"M0 ", y, "H1000\"/>");
  }
  return svg;
}

std::string RenderTicks(const LineChart& chart, const Axes& axes) {
  std::string html;
  const double largest = std::max(std::abs(axes.y.low), std::abs(axes.y.high));
  for (const double tick : axes.y.ticks) {
    absl::StrAppend(&html, "<span class=\"y\" style=\"top:", Percent(1 - OnAxis(axes.y, tick)), "\">",
                    FormatTick(tick, axes.y.step, largest), "</span>");
  }
  for (const double tick : axes.x.ticks) {
    if (tick != std::floor(tick)) continue;  // what x counts is whole
    absl::StrAppend(&html, "<span class=\"x\" style=\"left:", Percent(OnAxis(axes.x, tick)), "\">",
                    FormatCount(static_cast<int64_t>(tick)), "</span>");
  }
  if (chart.reaches && !chart.reaches_name.empty()) {
    absl::StrAppend(&html, "<span class=\"mark\" style=\"top:", Percent(1 - OnAxis(axes.y, *chart.reaches)),
                    "\">", EscapeHtml(chart.reaches_name), "</span>");
  }
  return html;
}

// The chart in words, for whoever does not see it.
std::string Describe(const LineChart& chart) {
  std::string text = chart.title;
  const std::string at = absl::StrCat(" at ", chart.x_name, " ");
  for (const Curve& curve : chart.curves) {
    const Point* last = LastDrawn(curve);
    if (curve.stroke == Stroke::kFaint || last == nullptr) continue;
    const auto first = std::find_if(curve.points.begin(), curve.points.end(),
                                    [](const Point& point) { return IsDrawn(point); });
    absl::StrAppend(&text, "; ", curve.name, curve.name.empty() ? "" : " ", "from ",
                    FormatNumber(first->y, chart.digits), at, FormatNumber(first->x, 7), " to ",
                    FormatNumber(last->y, chart.digits), at, FormatNumber(last->x, 7));
  }
  return text;
}

std::string AxisData(const Axis& axis) { return absl::StrFormat("%.17g %.17g", axis.low, axis.high); }

}  // namespace

bool CanDraw(double value) { return std::abs(value) <= 1e12; }

std::vector<Point> Thinned(absl::Span<const Point> points, size_t most) {
  if (points.size() <= most) return {points.begin(), points.end()};
  std::vector<Point> means;
  for (size_t bucket = 0; bucket < most; ++bucket) {
    double x = 0, y = 0;
    size_t count = 0;
    const size_t begin = points.size() * bucket / most, end = points.size() * (bucket + 1) / most;
    for (const Point& point : points.subspan(begin, end - begin)) {
      if (!IsDrawn(point)) continue;
      x += point.x;
      y += point.y;
      ++count;
    }
    if (count == 0) {
      means.push_back({points[begin].x, NAN});
    } else {
      means.push_back({x / static_cast<double>(count), y / static_cast<double>(count)});
    }
  }
  return means;
}

std::vector<Point> Smoothed(absl::Span<const Point> points, size_t reach) {
  std::vector<Point> smooth(points.begin(), points.end());
  double sum = 0;
  size_t count = 0, begin = 0, end = 0;
  const auto add = [&](const Point& point, bool entering) {
    if (!IsDrawn(point)) return;
    sum += entering ? point.y : -point.y;
    count += entering ? 1 : -1;
  };
  for (size_t i = 0; i < points.size(); ++i) {
    for (; end < points.size() && end <= i + reach; ++end) add(points[end], true);
    for (; begin + reach < i; ++begin) add(points[begin], false);
    if (IsDrawn(points[i])) smooth[i].y = sum / static_cast<double>(count);
  }
  return smooth;
}

Axis NiceAxis(double low, double high, int intervals, bool rounded) {
  const double size = std::max(std::abs(low), std::abs(high));
  if (high - low <= std::max(size * 1e-9, 1e-30)) {  // one value: in the middle
    const double pad = size > 1e-20 ? size * 0.05 : 0.5;
    low -= pad;
    high += pad;
  }
  const double rough = (high - low) / intervals;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double leading = rough / power;  // in [1, 10), up to rounding
  const double step = power * (leading < 1.5 ? 1 : leading < 3.2 ? 2 : leading < 7.1 ? 5 : 10);
  constexpr double kSlack = 1e-6;  // of a step: an end that is a tick up to rounding
  double first = std::ceil(low / step - kSlack), last = std::floor(high / step + kSlack);
  if (rounded) {
    first = std::floor(low / step + kSlack);
    last = std::ceil(high / step - kSlack);
    low = std::min(low, first * step);
    high = std::max(high, last * step);
  }
  Axis axis{low, high, step, {}};
  for (double tick = first; tick <= last; ++tick) axis.ticks.push_back(tick * step);
  return axis;
}

std::string RenderLineChart(const LineChart& chart) {
  const std::optional<Axes> axes = AxesOf(chart);
  if (!axes) return "";
  const int height = chart.wide ? kWideHeight : kHeight;
  std::string faint, lines;
  bool named = false;
  for (const Curve& curve : chart.curves) {
    (curve.stroke == Stroke::kFaint ? faint : lines) += RenderCurve(curve, *axes);
    named |= !curve.name.empty();
  }
  // An inner <svg> ends at its edges, the outer one does not: dots there stay round.
  if (!faint.empty()) faint = absl::StrCat("<svg width=\"1000\" height=\"1000\">", faint, "</svg>");
  return absl::StrCat(
      "<figure class=\"chart", chart.wide ? " wide" : "", named ? " named" : "", "\" data-x=\"",
      AxisData(axes->x), "\" data-y=\"", AxisData(axes->y), "\" data-digits=\"", chart.digits,
      "\" data-x-name=\"", EscapeHtml(chart.x_name), "\">\n<figcaption><h3>", EscapeHtml(chart.title),
      "</h3><p>", EscapeHtml(chart.unit), "</p></figcaption>\n<div class=\"plot\" style=\"height:", height,
      "px\"><svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"",
      EscapeHtml(Describe(chart)), "\">", RenderGrid(chart, *axes), faint, lines, "</svg>",
      RenderTicks(chart, *axes), RenderEndLabels(chart, *axes, height), "</div>\n",
      chart.note.empty() ? "" : "<p class=\"note\">", EscapeHtml(chart.note),
      chart.note.empty() ? "" : "</p>\n", "</figure>\n");
}

}  // namespace clamor
