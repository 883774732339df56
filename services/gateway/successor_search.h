// Finds workers for answers that have lost theirs; one that is not there yet is waited for.
//
// A thread tries again whenever the fleet has changed. Threads: all methods, any thread.
// Tested by tests/services/gateway/successor_search_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/model.pb.h"
#include "services/gateway/worker_channel.h"

namespace clamor {

class SuccessorSearch {
 public:
  struct Wanted {
    v1::ModelInfo like;                 // a worker that answers as this one would
    std::vector<std::string> excluded;  // addresses
  };
  using Find = std::function<std::optional<WorkerLease>(const Wanted&)>;
  // Nothing: none was found in time, or the search was given up.
  using Found = std::function<void(std::optional<WorkerLease>)>;

  // `find` must not wait; it is called on the search's thread, with its lock held.
  explicit SuccessorSearch(Find find);
  // REQUIRES: nobody searches.
  ~SuccessorSearch();

  // `found` is called once, on the search's thread, by `deadline` at the latest. Returns a ticket.
  uint64_t Begin(Wanted wanted, absl::Time deadline, Found found);
  // Ends a search soon; nothing if it has ended.
  void GiveUp(uint64_t ticket);
  void FleetChanged();

 private:
  struct Search {
    Wanted wanted;
    absl::Time deadline;
    Found found;
  };
  struct End {
    Found found;
    std::optional<WorkerLease> lease;
  };
  void Run();
  std::optional<End> NextEnd(uint64_t* from) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Find find_;
  absl::Mutex mu_;
  std::map<uint64_t, Search> searches_ ABSL_GUARDED_BY(mu_);  // by ticket
  uint64_t next_ticket_ ABSL_GUARDED_BY(mu_) = 0;
  bool changed_ ABSL_GUARDED_BY(mu_) = false;  // since the last try
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: runs over all of the above
};

}  // namespace clamor
