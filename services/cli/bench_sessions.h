// The conversations of a load: some sessions at a gateway that get a turn after the other; one that has had
// its turns, or has failed, is deleted and a new one takes its place.
//
// Threads: any. Tested by tests/services/cli/bench_test.py.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "clamor/v1/session.grpc.pb.h"
#include "grpcpp/channel.h"

namespace clamor::cli {

class LoadSessions {
 public:
  // Creates `sessions` of them. An error is the gateway's.
  static absl::StatusOr<std::unique_ptr<LoadSessions>> Create(std::shared_ptr<grpc::Channel> channel,
                                                              int32_t sessions, int32_t turns);
  // Deletes them. REQUIRES: all that were taken have been returned.
  ~LoadSessions();

  // One that has no turn under way; nothing if there is none.
  std::optional<std::string> Take();
  void Return(const std::string& name, bool good);

  int64_t turns_taken() const;

 private:
  LoadSessions(std::shared_ptr<grpc::Channel> channel, int32_t turns);
  absl::Status CreateOne();
  void Replace(const std::string& name);

  const std::unique_ptr<v1::SessionService::Stub> stub_;
  const int32_t turns_;
  const std::string prefix_;  // of names: of this run alone

  mutable absl::Mutex mu_;
  std::deque<std::string> free_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int32_t> turns_of_ ABSL_GUARDED_BY(mu_);  // of all, taken or free
  int64_t made_ ABSL_GUARDED_BY(mu_) = 0, taken_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t replacing_ ABSL_GUARDED_BY(mu_) = 0;  // calls under way
};

}  // namespace clamor::cli
