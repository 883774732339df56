// Who may begin, who waits, who is refused: the rules of one model's gate. Pure: time is passed in.
//
//   Enter -> runs | waits | refused      Advance -> those that run now, those that are too late      Leave
//
// A request costs tokens, its prompt and the answer it may get. It runs if the workers have room for that
// cost and a place in their batches, and if what is left then still holds what is reserved for the other
// ranks: a share of its own each, and for the highest what it has been using and a little more. Who has that
// rank takes the place of one of normal rank where there is no other: the worker makes that wait. A rank's
// first goes before its next; among those of one rank the tenant with the least running goes first, then who
// came first. Who has waited for `promote_after` counts as one rank higher, and so on. A request that would
// be too late when its turn comes is refused when it comes, so far as that can be foreseen from how long
// requests have been taking and how much of the workers higher ranks have been getting; but while a third of
// the places is free, whoever finds one runs. Who turns out to be too late nevertheless is refused in the
// queue.
//
// Not thread-safe. Tested by tests/services/gateway/admission_policy_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/gateway/request_pace.h"
#include "services/security/key_file.h"

namespace clamor {

enum class Rank : uint8_t { kLow, kNormal, kHigh };
inline constexpr size_t kRanks = 3;
const char* RankName(Rank rank);  // "low", "normal", "high"

struct AdmissionOptions {
  std::array<int32_t, kRanks> queue = {64, 256, 256};            // requests of each rank that may wait
  std::array<double, kRanks> reserved = {1.0 / 16, 0, 1.0 / 8};  // shares that other ranks leave to each
  absl::Duration follow =
      absl::Seconds(10);  // time constant of what high priority has been using; 0: its share
  absl::Duration promote_after = absl::Seconds(10);
  int64_t expected_answer = 256;  // tokens, of a request that sets no limit
};

// What the workers can hold together; 0: not known, no limit.
struct Capacity {
  int64_t tokens = 0;    // of their key/value caches
  int64_t requests = 0;  // in their batches, and at hand beside them
  int64_t largest = 0;   // the most tokens that any of them holds
};

struct AdmissionRequest {
  std::string tenant;
  Quota quota;  // of the tenant
  Rank rank = Rank::kNormal;
  int64_t tokens = 0;   // of the prompt and of all answers
  int64_t longest = 0;  // of the prompt and one answer, so far as the request says: they must fit in a worker
  absl::Time deadline = absl::InfiniteFuture();
};

class AdmissionPolicy {
 public:
  explicit AdmissionPolicy(const AdmissionOptions& options) : options_(options) {}

  void SetCapacity(const Capacity& capacity) { capacity_ = capacity; }

  // Whether it runs at once, else it waits. `id` is new. Refused at once: INVALID_ARGUMENT
  // "[CONTEXT_TOO_LONG]" (no worker could ever hold it), RESOURCE_EXHAUSTED "[TENANT_QUOTA]" and
  // "[QUEUE_FULL]" (no place in the queue, or it would wait until it is too late), both with RetryInfo.
  absl::StatusOr<bool> Enter(uint64_t id, AdmissionRequest request, absl::Time now);

  struct Change {
    uint64_t id;
    absl::Status status;  // OK: it runs now; DEADLINE_EXCEEDED "[DEADLINE]": it has left the queue
  };
  // To be called when something has left, capacity has grown, or NextChange has come.
  std::vector<Change> Advance(absl::Time now);

  // It is over, or was given up. `used` tokens are what it came to in the end.
  void Leave(uint64_t id, int64_t used, absl::Time now);

  // When, after `now`, the next waiting request is too late or promoted; infinite: nobody waits.
  absl::Time NextChange(absl::Time now) const;
  int64_t waiting(Rank rank) const { return waiting_[static_cast<size_t>(rank)]; }
  int64_t running() const { return running_requests_; }

  // Recounts everything.
  absl::Status CheckIntegrity() const;

 private:
  struct Tenant {
    int64_t requests = 0, running_tokens = 0;
    Quota quota;       // as last heard
    double level = 0;  // of its bucket; below 0 it waits
    absl::Time filled = absl::InfinitePast();
  };
  struct Entry {
    AdmissionRequest request;
    Tenant* tenant;
    absl::Time since;        // it waits, or runs
    double request_seconds;  // of all that ran, up to when it began to
    bool runs = false;
    Rank rank() const { return request.rank; }
  };
  using Waiting = std::map<uint64_t, Entry>::iterator;

  static void Fill(Tenant& tenant, absl::Time now);
  absl::Status CheckQuota(const Tenant& tenant, const AdmissionRequest& request) const;
  absl::Status CheckQueue(const AdmissionRequest& request) const;
  absl::Status CheckDeadline(const AdmissionRequest& request, bool runs, absl::Time now) const;
  absl::Duration Retry() const;  // when to come again
  bool HasRoom(const AdmissionRequest& request) const;
  bool InReserve(const AdmissionRequest& request) const;
  std::optional<Waiting> NextToRun(absl::Time now);
  void Run(Entry& entry, absl::Time now);
  void Count(absl::Time now);  // before what runs changes
  int64_t ReservedRequests(size_t rank) const;
  int64_t ReservedTokens(size_t rank) const;
  size_t RankNow(const Entry& entry, absl::Time now) const;
  double AtOnce() const;  // requests that will run beside one that comes now, itself included
  absl::Duration Takes(int64_t tokens) const;                  // a request of so many, once it runs
  absl::Duration WaitBehind(int64_t tokens, Rank rank) const;  // until so many have run before one of a rank
  double ShareAbove(Rank rank) const;                          // of what has run lately: of higher ranks
  void ForgetIdle(absl::Time now);

  const AdmissionOptions options_;
  Capacity capacity_;
  std::map<uint64_t, Entry> entries_;  // by id: in the order in which they came
  std::map<std::string, Tenant> tenants_;
  std::array<int64_t, kRanks> waiting_{}, waiting_tokens_{};
  std::array<int64_t, kRanks> running_by_rank_{}, running_tokens_by_rank_{};
  int64_t running_requests_ = 0, running_tokens_ = 0;
  double usual_requests_ = 0, usual_tokens_ = 0;  // of high priority that run
  double request_seconds_ = 0;                    // that requests have run for, all together
  absl::Time counted_ = absl::InfinitePast();     // up to when
  RequestPace pace_;
  std::array<double, kRanks> lately_{};  // tokens of those that began to run, the newer the more
};

}  // namespace clamor
