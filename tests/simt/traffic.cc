#include "tests/simt/traffic.h"

#include <algorithm>
#include <utility>

#include "tests/simt/report.h"

namespace clamor::simt {
namespace {

// By kernel, or by what else it was.
std::map<std::pair<const void*, const char*>, Traffic> all;

Traffic& TrafficOf(OperationId id) {
  static OperationId last = 0;
  static Traffic* of_last = nullptr;
  if (all.empty() || id != last) {
    const Operation& operation = GetOperation(id);
    last = id;
    of_last = &all[{operation.kernel, operation.kernel != nullptr ? "" : operation.what}];
  }
  return *of_last;
}

}  // namespace

void CountTraffic(const Cell* cells, size_t n, Access access, OperationId by) {
  Traffic& traffic = TrafficOf(by);
  (access == Access::kRead ? traffic.loaded : traffic.stored) += n;
  for (size_t i = 0; i < n; ++i) {
    const Cell& cell = cells[i];
    if (cell.write.id() == by) continue;
    if (access != Access::kRead) {
      ++traffic.distinct_stored;
    } else if (std::none_of(std::begin(cell.reads), std::end(cell.reads),
                            [by](const Record& read) { return read.id() == by; })) {
      ++traffic.distinct_loaded;
    }
  }
}

std::map<std::string, Traffic> TrafficByName() {
  std::map<std::string, Traffic> named;
  for (const auto& [key, traffic] : all) {
    Traffic& to = named[key.first != nullptr ? NameOf(key.first) : key.second];
    to.loaded += traffic.loaded;
    to.stored += traffic.stored;
    to.distinct_loaded += traffic.distinct_loaded;
    to.distinct_stored += traffic.distinct_stored;
  }
  return named;
}

void ForgetTraffic() { all.clear(); }

}  // namespace clamor::simt
