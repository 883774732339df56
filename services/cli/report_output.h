// What the reports of `eval` and `bench` have in common: where they go, and tables for a terminal and a page.
//
// Tested by tests/services/cli/eval_report_test.cc.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace clamor::cli {

struct ReportFlags {
  std::string output = "table", file;
};

// --output (table, json or html) and --file, in the group "Output".
void AddReportFlags(CLI::App& verb, ReportFlags& flags);

// `text` to the file, else to standard output.
absl::Status WriteReport(const std::string& text, const ReportFlags& flags);

// Cells are text of bounded length.
struct ReportTable {
  std::string title, note;
  std::vector<std::string> header;
  size_t names = 1;  // leading columns that name the row
  std::vector<std::vector<std::string>> rows;
};

// With its title: names to the left, numbers to the right.
std::string RenderTableText(const ReportTable& table);
// Empty if it has no rows.
std::string RenderTableHtml(const ReportTable& table);

// "-" if it is not finite.
std::string Number(double value, int decimals);
// Percent.
std::string Share(double part, double whole);

}  // namespace clamor::cli
