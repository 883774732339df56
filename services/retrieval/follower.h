// Keeps a store the same as that of another server, so that it can answer in its place.
//
// Compares all documents page by page, fetches those that differ, removes those that the other has not, and
// then goes by the other's list of changes; whenever that does not reach back far enough (the other was
// restarted, or this one fell behind) it compares again. So it begins from whatever is there: nothing, a
// restored backup, its own state of last week. Documents are indexed here: the two stores share no files.
//
// Threads: one of its own, which alone changes the store, but for what expires.
// Tested by tests/integration/follower_test.py.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "grpcpp/channel.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"
#include "retrieval/suffix_store.h"
#include "services/security/tls.h"

namespace clamor {

class Follower {
 public:
  // A channel that takes what the leader sends at most, and looks for a lost leader every second.
  static std::shared_ptr<grpc::Channel> ChannelTo(const std::string& leader, const TlsOptions& tls);

  // `store` and `registry` must outlive it.
  Follower(retrieval::SuffixStore* store, const std::shared_ptr<grpc::ChannelInterface>& leader,
           prometheus::Registry* registry);
  ~Follower();

  // Brings the gauge up to date, before a scrape.
  void UpdateGauges();

 private:
  using Listed = retrieval::DocumentDb::Listed;
  struct Page {
    std::vector<Listed> documents;
    bool more = false;  // behind them
  };

  void Run();
  // Makes all documents the same; on return `position` is where to go on in the list of changes.
  absl::Status CompareAll(uint64_t& position);
  // Goes by the list of changes until that fails.
  absl::Status GoByChanges(uint64_t& position);
  absl::StatusOr<Page> ListLeader(const std::optional<Listed>& after);
  absl::StatusOr<Page> ListOwn(const std::optional<Listed>& after) const;
  // Makes the documents up to `end` (nothing: all) the same.
  absl::Status ComparePages(const Page& leader, const Page& own, const std::optional<Listed>& end);
  // Makes these documents of a namespace the same.
  absl::Status Fetch(const retrieval::Namespace& ns, std::span<const std::string> ids);
  absl::Status Take(const retrieval::Namespace& ns, std::span<const std::string> ids,
                    const v1::GetDocumentsResponse& found);
  absl::StatusOr<v1::ListChangesResponse> ListChanges(uint64_t position, absl::Duration wait);
  // A unary call to the leader, which ~Follower cancels.
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::RetrievalService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                       Response*),
                    const Request& request, Response* response);

  retrieval::SuffixStore* const store_;
  const std::unique_ptr<v1::RetrievalService::Stub> leader_;
  prometheus::Gauge& lag_seconds_;

  absl::Mutex mu_;
  absl::Time same_at_ ABSL_GUARDED_BY(mu_);  // when the stores were last seen to be the same
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* under_way_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::thread thread_;
};

}  // namespace clamor
