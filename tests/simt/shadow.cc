#include "tests/simt/shadow.h"

#include <cstring>
#include <unordered_map>
#include <vector>

#include "tests/simt/report.h"

namespace clamor::simt {
namespace {

std::vector<const void*> sites = {nullptr};

bool SameWarp(uint32_t a, uint32_t b, const Actor& actor) {
  return (a - actor.block_begin) / 32 == (b - actor.block_begin) / 32;
}

bool OperationsOrdered(OperationId a, OperationId b) {
  static OperationId last_a = 0, last_b = 0;  // most accesses of a launch ask about the same one
  if (a == last_a && b == last_b) return true;
  if (!HappensBefore(a, b)) return false;
  last_a = a;
  last_b = b;
  return true;
}

bool Ordered(const Record& before, const Actor& now) {
  if (before.id() != now.operation) return OperationsOrdered(before.id(), now.operation);
  if (before.thread == now.thread) return true;
  if (before.thread < now.block_begin || before.thread >= now.block_end) return false;
  if (SameWarp(before.thread, now.thread, now) && before.time < now.time) return true;
  return before.time < now.block_time;
}

// What `did` to the byte before.
std::string Conflict(const Record& before, const Actor& now, const char* did) {
  const OperationId id = before.id();
  if (id != now.operation) {
    return "which " + Describe(id) + ", " + did +
           (before.site == 0 ? "" : " at " + PlaceOf(sites[before.site])) +
           ": nothing orders the two (a race between streams)";
  }
  const bool same_block = before.thread >= now.block_begin && before.thread < now.block_end;
  return "which " + DescribeThread(id, before.thread) + " " + did + " at " + PlaceOf(sites[before.site]) +
         (same_block ? " with no barrier between (a race)" : ": blocks are not ordered (a race)");
}

void AddRead(Cell& cell, const Record& read, const Actor& actor) {
  const Record latest = cell.reads[0];
  cell.reads[0] = read;
  if (latest.operation == 0 || (latest.operation == read.operation && latest.thread == read.thread)) return;
  const bool same_warp = latest.operation == read.operation && latest.thread >= actor.block_begin &&
                         latest.thread < actor.block_end && SameWarp(latest.thread, read.thread, actor);
  cell.reads[same_warp ? 1 : 2] = latest;
}

std::optional<std::string> EnterOne(Cell& cell, Access access, const Record& own, const Actor& actor,
                                    OperationId unwritten) {
  const Record write = cell.write.operation != 0 ? cell.write : Record{.operation = unwritten};
  if (write.operation & Record::kUnfilled) {
    return "which the copy of " + DescribeThread(write.id(), write.thread) + " at " +
           PlaceOf(sites[write.site]) + " may not have filled yet (cp.async)";
  }
  if (write.operation != 0 && !(access == Access::kAtomic && (write.operation & Record::kAtomic)) &&
      !Ordered(write, actor)) {
    return Conflict(write, actor, cell.write.operation != 0 ? "wrote" : "allocates");
  }
  if (access == Access::kRead) {
    if (cell.write.operation == 0) return "which nothing has written";
    AddRead(cell, own, actor);
    return std::nullopt;
  }
  for (const Record& read : cell.reads) {
    if (read.operation != 0 && !Ordered(read, actor)) return Conflict(read, actor, "read");
  }
  cell = {.write = own};
  return std::nullopt;
}

}  // namespace

uint32_t SiteOf(const void* return_address) {
  struct Entry {
    const void* address = nullptr;
    uint32_t site = 0;
  };
  static Entry recent[4096];
  static std::unordered_map<const void*, uint32_t> known = {{nullptr, 0}};
  Entry& entry = recent[reinterpret_cast<uintptr_t>(return_address) % 4093];
  if (entry.address != return_address) {
    const auto [at, added] = known.try_emplace(return_address, static_cast<uint32_t>(sites.size()));
    if (added) sites.push_back(return_address);
    entry = {return_address, at->second};
  }
  return entry.site;
}

std::optional<std::string> Enter(Cell* cells, size_t n, Access access, const Actor& actor, uint32_t site,
                                 OperationId unwritten) {
  const uint32_t flag = access == Access::kAtomic ? Record::kAtomic : 0;
  const Record own = {actor.operation | flag, actor.thread, actor.time, site};
  Cell before;
  for (size_t i = 0; i < n; ++i) {
    // The bytes of a word mostly share one history.
    if (i > 0 && std::memcmp(&cells[i], &before, sizeof(Cell)) == 0) {
      cells[i] = cells[i - 1];
      continue;
    }
    before = cells[i];
    if (auto wrong = EnterOne(cells[i], access, own, actor, unwritten)) return wrong;
  }
  return std::nullopt;
}

std::optional<std::string> EnterUnfilled(Cell* cells, size_t n, const Actor& actor, uint32_t site) {
  if (auto wrong = Enter(cells, n, Access::kWrite, actor, site, 0)) return wrong;
  for (size_t i = 0; i < n; ++i) cells[i].write.operation |= Record::kUnfilled;
  return std::nullopt;
}

}  // namespace clamor::simt
