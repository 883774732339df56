// The thread that keeps indexes small: merges segments of like size, and moves what is on the heap into
// files.
//
// Merging four or more segments of like size at a time leaves O(log n) of them and touches each token O(log
// n) times. A segment of kFileTokens or more becomes a file; smaller ones stay on the heap until all heap
// segments together pass the limit, then the namespaces with most of them are written out. So memory is
// bounded by 8 bytes x 2 x hot limit, plus the inputs of one merge, whatever is stored.
//
// Threads: all methods may be called from any thread. Tested by tests/retrieval/compactor_test.cc.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "retrieval/draft.h"
#include "retrieval/namespace_index.h"

namespace clamor::retrieval {

inline constexpr uint64_t kFileTokens = 1u << 18;

// Which parts to merge next, as indexes into `parts`; none if they are well as they are. One part alone is
// rewritten when a quarter of it is dead.
std::vector<size_t> PickMerge(const Parts& parts);

class Compactor {
 public:
  // Writes files `folder`/<number>.seg, numbers from `next_file` on.
  Compactor(std::string folder, uint64_t next_file, int64_t hot_limit);
  ~Compactor();  // gives up the merge under way

  // Counts the tokens on the heap over all indexes.
  std::atomic<int64_t>& hot_tokens() { return hot_tokens_; }

  // Looks at `index` soon. To be called after each change.
  void Schedule(const std::shared_ptr<NamespaceIndex>& index);

  // Holds up who adds faster than merging goes. The error of the last merge if there is no room and it
  // failed.
  absl::Status WaitForRoom(const NamespaceIndex& index);

  // Until nothing is left to do.
  void WaitUntilIdle();

 private:
  void Run();
  absl::Status Compact(NamespaceIndex& index);
  absl::Status SpillHot();
  absl::Status Merge(NamespaceIndex& index, std::span<const Part> inputs, bool to_file);
  bool Idle() const { return queue_.empty() && !busy_; }  // REQUIRES: mu_ is held

  const std::string folder_;
  const int64_t hot_limit_;
  std::atomic<int64_t> hot_tokens_{0};
  std::atomic<bool> stop_{false};
  uint64_t next_file_;  // of the thread
  std::mutex mu_;       // guards what follows
  std::condition_variable work_, progress_;
  std::deque<std::shared_ptr<NamespaceIndex>> queue_;
  absl::flat_hash_set<NamespaceIndex*> queued_;
  absl::flat_hash_map<NamespaceIndex*, std::weak_ptr<NamespaceIndex>> known_;
  bool busy_ = false;
  absl::Status last_error_;
  std::thread thread_;
};

}  // namespace clamor::retrieval
