#include "services/cli/eval_bars.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/train/html_text.h"

namespace clamor::cli {
namespace {

constexpr int kColors = 6;

double Length(const BarPart& part) { return std::isfinite(part.value) ? std::max(part.value, 0.0) : 0; }

double Length(const Bar& bar) {
  double length = 0;
  for (const BarPart& part : bar.parts) length += Length(part);
  return length;
}

// The class and style that colour an element's text.
std::string Color(int color) {
  return color < 0 ? "style=\"color:var(--rule);" : absl::StrCat("class=\"c", color % kColors, "\" style=\"");
}

std::string RenderLegend(const Bar& bar) {
  std::string html = "<ul class=\"legend\" style=\"margin:.4rem 0 .6rem;font-size:.8125rem\">";
  for (const BarPart& part : bar.parts) {
    absl::StrAppend(&html, "<li><span ", Color(part.color), "\"><span class=\"swatch\"></span></span>",
                    EscapeHtml(part.name), "</li>");
  }
  return absl::StrCat(html, "</ul>\n");
}

std::string RenderBar(const Bar& bar, double longest) {
  std::string html =
      absl::StrCat("<span>", EscapeHtml(bar.label), "</span><div style=\"display:flex;height:.8rem\">");
  for (const BarPart& part : bar.parts) {
    if (Length(part) <= 0) continue;
    absl::StrAppend(
        &html, "<span ", Color(part.color), "width:", absl::StrFormat("%.2f", 100 * Length(part) / longest),
        "%;background:currentColor\" title=\"",
        EscapeHtml(absl::StrCat(part.name, part.name.empty() ? "" : " ", FormatNumber(part.value, 3))),
        "\"></span>");
  }
  return absl::StrCat(html, "</div><b style=\"font-weight:650;text-align:right\">", EscapeHtml(bar.text),
                      "</b>\n");
}

}  // namespace

std::string RenderBars(const BarChart& chart) {
  if (chart.bars.empty()) return "";
  double longest = std::max(chart.reaches, 1e-12);
  for (const Bar& bar : chart.bars) longest = std::max(longest, Length(bar));
  std::string html = absl::StrCat(
      "<figure style=\"margin:0;min-width:0\"><figcaption><h3>", EscapeHtml(chart.title), "</h3><p>",
      EscapeHtml(chart.unit), "</p></figcaption>\n", chart.legend ? RenderLegend(chart.bars.front()) : "",
      "<div style=\"display:grid;grid-template-columns:auto 1fr auto;gap:.2rem .75rem;"
      "align-items:center;margin-top:.6rem;font-size:.8125rem;"
      "font-variant-numeric:tabular-nums\">\n");
  for (const Bar& bar : chart.bars) html += RenderBar(bar, longest);
  return absl::StrCat(html, "</div></figure>\n");
}

}  // namespace clamor::cli
