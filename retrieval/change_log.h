// What changed lately, for whoever keeps a copy of a store: which documents, not what became of them.
//
// Kept in memory, and no more than the limit: who is too far behind compares all documents instead. Positions
// begin at the clock's nanoseconds, so that those of an earlier process are behind all that is kept.
//
// Threads: all methods may be called from any thread. Tested by tests/retrieval/change_log_test.cc.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "retrieval/key_codec.h"

namespace clamor::retrieval {

class ChangeLog {
 public:
  // A document that was put, removed or told another expiry. No fingerprint and no id: all of a tenant went.
  struct Change {
    Namespace ns;
    std::string id;
  };
  struct Slice {
    std::vector<Change> changes;
    uint64_t next = 0;  // the position behind them
    bool more = false;  // there are some behind it
  };

  explicit ChangeLog(size_t limit);

  void Add(Change change);

  // The position behind all changes so far.
  uint64_t next() const;

  // Up to `limit` changes from position `from` on; if there is none, waits for one as long as `wait`.
  // OUT_OF_RANGE if what was there is forgotten.
  absl::StatusOr<Slice> Read(uint64_t from, size_t limit, std::chrono::milliseconds wait) const;

 private:
  const size_t limit_;
  mutable std::mutex mu_;  // guards what follows
  mutable std::condition_variable added_;
  uint64_t first_;  // position of the first of
  std::deque<Change> changes_;
};

}  // namespace clamor::retrieval
