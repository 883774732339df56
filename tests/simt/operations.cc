#include "tests/simt/operations.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <utility>

#include "tests/simt/report.h"

namespace clamor::simt {
namespace {

struct Lane {
  uint32_t count = 0;
  OperationId last = 0;
};
std::vector<Lane> lanes;
Clock all;
std::deque<Operation> operations;  // id - 1; a deque, so that references stay good

}  // namespace

void Clock::Set(int lane, uint32_t count) {
  if (counts_.size() <= static_cast<size_t>(lane)) counts_.resize(lane + 1);
  counts_[lane] = count;
}

void Clock::Join(const Clock& other) {
  if (counts_.size() < other.counts_.size()) counts_.resize(other.counts_.size());
  for (size_t i = 0; i < other.counts_.size(); ++i) counts_[i] = std::max(counts_[i], other.counts_[i]);
}

int NewLane() {
  lanes.emplace_back();
  return static_cast<int>(lanes.size()) - 1;
}

OperationId AddOperation(Operation operation) {
  if (operations.size() == kIdBits) Fail("more operations than the emulator can number");
  Lane& lane = lanes[operation.lane];
  if (lane.last != 0) operation.seen.Join(GetOperation(lane.last).seen);
  operation.seen.Set(operation.lane, ++lane.count);
  all.Set(operation.lane, lane.count);
  operations.push_back(std::move(operation));
  return lane.last = LastOperation();
}

Operation& GetOperation(OperationId id) { return operations[id - 1]; }
OperationId LastOperation() { return static_cast<OperationId>(operations.size()); }
const Clock& AllOperations() { return all; }
OperationId LastOnLane(int lane) { return lanes[lane].last; }

bool HappensBefore(OperationId a, OperationId b) {
  if (a == 0) return true;
  if (b == 0) return false;
  const Operation& first = GetOperation(a);
  return GetOperation(b).seen.at(first.lane) >= first.seen.at(first.lane);
}

std::string Describe(OperationId id) {
  if (id == 0) return "the host";
  const Operation& op = GetOperation(id);
  if (op.kernel != nullptr) return NameOf(op.kernel) + ", launched at " + PlaceOf(op.issued_at);
  return std::string(op.what) + " at " + PlaceOf(op.issued_at);
}

std::string DescribeThread(OperationId id, uint32_t thread) {
  const Operation& op = GetOperation(id);
  const unsigned* const g = op.grid;
  const unsigned* const t = op.threads;
  const uint32_t size = t[0] * t[1] * t[2];
  const uint32_t block = thread / size, in_block = thread % size;
  char text[128];
  std::snprintf(text, sizeof(text), "block (%u,%u,%u) thread (%u,%u,%u)", block % g[0], block / g[0] % g[1],
                block / g[0] / g[1], in_block % t[0], in_block / t[0] % t[1], in_block / t[0] / t[1]);
  return text;
}

}  // namespace clamor::simt
