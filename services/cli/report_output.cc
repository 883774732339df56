#include "services/cli/report_output.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/train/html_text.h"

namespace clamor::cli {
namespace {

// Characters of UTF-8.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

void AddReportFlags(CLI::App& verb, ReportFlags& flags) {
  verb.add_option("--output", flags.output, "table, json or html")
      ->check(CLI::IsMember({"table", "json", "html"}))
      ->capture_default_str()
      ->group("Output");
  verb.add_option("--file", flags.file, "Where it goes; else standard output")->group("Output");
}

absl::Status WriteReport(const std::string& text, const ReportFlags& flags) {
  if (!flags.file.empty()) {
    CLAMOR_RETURN_IF_ERROR(WriteFileAtomically(flags.file, text));
    std::fprintf(stderr, "wrote %s\n", flags.file.c_str());
    return absl::OkStatus();
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    return absl::DataLossError("standard output: cannot write");
  }
  return absl::OkStatus();
}

std::string RenderTableText(const ReportTable& table) {
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> lines = {table.header};
  lines.insert(lines.end(), table.rows.begin(), table.rows.end());
  for (const auto& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], Width(line[i]));
  }
  std::string text = absl::StrCat(table.title, table.note.empty() ? "" : ": ", table.note, "\n");
  for (const auto& line : lines) {
    std::string row;
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string pad(widths[i] - Width(line[i]), ' ');
      absl::StrAppend(&row, i > 0 ? "  " : "", i < table.names ? line[i] + pad : pad + line[i]);
    }
    absl::StrAppend(&text, row.substr(0, row.find_last_not_of(' ') + 1), "\n");
  }
  return text;
}

std::string RenderTableHtml(const ReportTable& table) {
  if (table.rows.empty()) return "";
  std::string html =
      absl::StrCat("<h3>", EscapeHtml(table.title), "</h3><p class=\"note\">", EscapeHtml(table.note),
                   "</p>\n<div class=\"scroll\"><table class=\"numbers\"><thead><tr>");
  for (const std::string& cell : table.header)
    absl::StrAppend(&html, "<th scope=\"col\">", EscapeHtml(cell), "</th>");
  absl::StrAppend(&html, "</tr></thead><tbody>\n");
  for (const auto& row : table.rows) {
    absl::StrAppend(&html, "<tr>");
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppend(&html, i < table.names ? "<th scope=\"row\">" : "<td>", EscapeHtml(row[i]),
                      i < table.names ? "</th>" : "</td>");
    }
    absl::StrAppend(&html, "</tr>\n");
  }
  return absl::StrCat(html, "</tbody></table></div><br>\n");
}

std::string Number(double value, int decimals) {
  return std::isfinite(value) ? absl::StrFormat("%.*f", decimals, value) : "-";
}

std::string Share(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.1f %%", 100 * part / whole) : "-";
}

}  // namespace clamor::cli
