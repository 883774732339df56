// Text and numbers as a page shows them. Pure functions. Tested by tests/model/train/report_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace clamor {

// `text` as the content of an element or of a quoted attribute. Invalid UTF-8 and control characters, which
// HTML does not allow, become U+FFFD.
std::string EscapeHtml(std::string_view text);

// With `digits` significant digits: 2.338, 0.0412, 12.5, 3e-4, 1,830. Not finite: an en dash.
std::string FormatNumber(double value, int digits);
std::string FormatCount(int64_t count);       // 1,093,201
std::string FormatShortCount(int64_t count);  // 5.5 million
std::string FormatDuration(double seconds);   // 18 min 20 s
std::string FormatBytes(int64_t bytes);       // 1.4 GiB

// The label of a tick at `value` on an axis with ticks every `step` up to the absolute value `largest`; the
// labels of one axis have as many decimals as each other.
std::string FormatTick(double value, double step, double largest);

}  // namespace clamor
