// The figures of a load as tables, which the text and the page share.
#pragma once

#include <vector>

#include "services/cli/bench_report.h"
#include "services/cli/report_output.h"

namespace clamor::cli {

std::vector<ReportTable> TablesOf(const BenchReport& report);

}  // namespace clamor::cli
