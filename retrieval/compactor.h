// The threads that keep indexes small: merge segments of like size, and move what is on the heap into files.
//
// Merging four or more segments of like size at a time leaves O(log n) of them and touches each token O(log
// n) times. A segment of kFileTokens or more becomes a file; smaller ones stay on the heap until all heap
// segments together pass the limit, then the namespaces with most of them are written out. So memory is
// bounded by 8 bytes x 2 x hot limit, plus the inputs of two merges, whatever is stored. Merges of
// kLargeTokens or more, which take their time, have a thread of their own: who appends does not wait for
// them.
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
inline constexpr uint64_t kLargeTokens = 4u << 20;

// Which parts to merge next, as indexes into `parts`; none if they are well as they are. One part alone is
// rewritten when a quarter of it is dead. `max_tokens` is the most that a segment may have, end marks
// included.
std::vector<size_t> PickMerge(const Parts& parts, uint64_t max_tokens = kMaxSegmentTokens);

class Compactor {
 public:
  // Writes files `folder`/<number>.seg, numbers from `next_file` on.
  Compactor(std::string folder, uint64_t next_file, int64_t hot_limit, uint64_t large_tokens = kLargeTokens);
  ~Compactor();  // gives up the merges under way

  // Counts the tokens on the heap over all indexes.
  std::atomic<int64_t>& hot_tokens() { return hot_tokens_; }

  // Looks at `index` soon. To be called after each change.
  void Schedule(const std::shared_ptr<NamespaceIndex>& index);

  // Holds up who adds faster than merging goes: for a second at most where there are more than a few segments
  // and some are to be merged at once, without end where there is no room. If a merge that begins now fails
  // and there is still none, its error.
  absl::Status WaitForRoom(const std::shared_ptr<NamespaceIndex>& index);

  // The path of the next segment file.
  std::string NextFile();

  // While it is held no segment file takes the place of others, so that those in the folder hold all that was
  // moved into files.
  std::mutex& files_mutex() { return files_mu_; }

  // Until nothing is left to do.
  void WaitUntilIdle();

 private:
  // A merge that was left to the thread for large ones.
  struct LargeMerge {
    std::shared_ptr<NamespaceIndex> index;
    Parts inputs;
  };

  void Enqueue(const std::shared_ptr<NamespaceIndex>& index);  // REQUIRES: mu_ is held
  void End(uint64_t run, absl::Status status);                 // REQUIRES: mu_ is held
  void Run();
  void RunLarge();
  absl::Status Compact(const std::shared_ptr<NamespaceIndex>& index);
  absl::Status SpillHot();
  // The parts of `index` that no large merge holds.
  Parts FreeParts(const NamespaceIndex& index);
  absl::Status Merge(NamespaceIndex& index, std::span<const Part> inputs, bool to_file);
  // REQUIRES: mu_ is held
  bool Idle() const { return queue_.empty() && large_queue_.empty() && running_ == nullptr && !busy_large_; }
  bool Due(NamespaceIndex* index) const { return running_ == index || queued_.contains(index); }

  const std::string folder_;
  const int64_t hot_limit_;
  const uint64_t large_tokens_;
  std::atomic<int64_t> hot_tokens_{0};
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> next_file_;
  std::mutex files_mu_;
  std::mutex mu_;  // guards what follows
  std::condition_variable work_, large_work_, progress_;
  std::deque<std::shared_ptr<NamespaceIndex>> queue_;
  std::deque<LargeMerge> large_queue_;
  absl::flat_hash_set<NamespaceIndex*> queued_;
  absl::flat_hash_set<const Segment*> in_large_merges_;
  absl::flat_hash_map<NamespaceIndex*, std::weak_ptr<NamespaceIndex>> known_;
  const NamespaceIndex* running_ = nullptr;  // whose merges are under way, but for large ones
  bool busy_large_ = false;
  uint64_t begun_ = 0, failed_ = 0;  // runs of both threads, from 1: the last to begin, the last that failed
  absl::Status last_error_;          // of that one
  std::thread thread_, large_thread_;
};

}  // namespace clamor::retrieval
