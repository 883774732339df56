#include "model/train/html_text.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

constexpr char kNoNumber[] = "–";

// "1234567.5" as "1,234,567.5".
std::string GroupThousands(std::string digits) {
  const size_t begin = digits.find_first_of("0123456789");
  for (size_t end = std::min(digits.find('.'), digits.size()); end > begin + 3;) {
    end -= 3;
    digits.insert(end, 1, ',');
  }
  return digits;
}

// "3.0e-04" as "3e-4".
std::string FormatScientific(double value, int digits) {
  const std::string text = absl::StrFormat("%.*e", std::max(digits - 1, 0), value);
  const size_t e = text.find('e');
  std::string mantissa = text.substr(0, e);
  if (mantissa.find('.') != std::string::npos) {
    mantissa.erase(mantissa.find_last_not_of('0') + 1);
    if (mantissa.back() == '.') mantissa.pop_back();
  }
  const bool negative = text[e + 1] == '-';
  const size_t digit = std::min(text.find_first_not_of('0', e + 2), text.size() - 1);
  return absl::StrCat(mantissa, negative ? "e-" : "e", text.substr(digit));
}

bool NeedsScientific(double value) {
  return value != 0 && (std::abs(value) < 1e-3 || std::abs(value) >= 1e7);
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string valid;
  AppendLossyUtf8(text, /*at_end=*/true, &valid);
  std::string escaped;
  escaped.reserve(valid.size());
  for (const char c : valid) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else if (c == '\'') {
      escaped += "&#39;";
    } else if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F) {
      escaped += "\uFFFD";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string FormatNumber(double value, int digits) {
  if (!std::isfinite(value)) return kNoNumber;
  if (NeedsScientific(value)) return FormatScientific(value, digits);
  const int whole = value == 0 ? 1 : static_cast<int>(std::floor(std::log10(std::abs(value)))) + 1;
  return GroupThousands(absl::StrFormat("%.*f", std::max(digits - whole, 0), value));
}

std::string FormatCount(int64_t count) { return GroupThousands(absl::StrCat(count)); }

std::string FormatShortCount(int64_t count) {
  constexpr struct {
    double unit;
    const char* name;
  } kUnits[] = {{1e12, " trillion"}, {1e9, " billion"}, {1e6, " million"}};
  for (const auto& [unit, name] : kUnits) {
    const double units = static_cast<double>(count) / unit;
    if (units >= 1) return absl::StrFormat("%.*f%s", units < 100 ? 1 : 0, units, name);
  }
  return FormatCount(count);
}

std::string FormatDuration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return kNoNumber;
  if (seconds < 10) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return absl::StrCat(whole, " s");
  if (whole < 3600) return absl::StrCat(whole / 60, " min ", whole % 60, " s");
  return absl::StrCat(FormatCount(whole / 3600), " h ", whole / 60 % 60, " min");
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto amount = static_cast<double>(bytes);
  size_t unit = 0;
  for (; amount >= 1024 && unit + 1 < std::size(kUnits); ++unit) amount /= 1024;
  const int decimals = unit > 0 && amount < 100 ? 1 : 0;
  return absl::StrCat(GroupThousands(absl::StrFormat("%.*f", decimals, amount)), " ", kUnits[unit]);
}

std::string FormatTick(double value, double step, double largest) {
  if (NeedsScientific(largest)) return value == 0 ? "0" : FormatScientific(value, 2);
  const int decimals = std::max(0, -static_cast<int>(std::floor(std::log10(step) + 1e-9)));
  return GroupThousands(absl::StrFormat("%.*f", decimals, value == 0 ? 0.0 : value));
}

}  // namespace clamor
