// Bars for a page: plain HTML whose lengths are percentages, coloured by the palette of
// model/train/report_style.h. Pure functions. Tested by tests/services/cli/eval_report_test.cc.
#pragma once

#include <string>
#include <vector>

namespace clamor::cli {

struct BarPart {
  std::string name;  // in the legend and under the pointer
  int color = 0;     // of the palette's six; -1: grey
  double value = 0;
};

struct Bar {
  std::string label;
  std::vector<BarPart> parts;  // stacked; a value that is not finite or below 0 has no length
  std::string text;            // at the end
};

struct BarChart {
  std::string title, unit;
  std::vector<Bar> bars;
  double reaches = 0;   // the longest bar has at least this value
  bool legend = false;  // of the parts of the first bar
};

// Empty if there are no bars.
std::string RenderBars(const BarChart& chart);

}  // namespace clamor::cli
