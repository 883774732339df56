// A retrieval service for tests: a real gRPC server on a loopback port that answers, stalls, fails or lies on
// demand, and can be stopped and started again on the same port.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace clamor {

class FakeRetrieval final : public v1::RetrievalService::Service {
 public:
  using OnLookup = std::function<grpc::Status(const v1::LookupRequest&, v1::LookupResponse*)>;
  using OnAppend = std::function<grpc::Status(const v1::AppendRequest&, v1::AppendResponse*)>;

  FakeRetrieval() { Start(); }
  ~FakeRetrieval() override { Stop(); }

  void Start() {
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  void SetLookup(OnLookup on_lookup) {
    absl::MutexLock lock(&mu_);
    on_lookup_ = std::move(on_lookup);
  }
  void SetAppend(OnAppend on_append) {
    absl::MutexLock lock(&mu_);
    on_append_ = std::move(on_append);
  }
  std::vector<v1::LookupRequest> lookups() const {
    absl::MutexLock lock(&mu_);
    return lookups_;
  }
  // Tokens by "tenant/id", and the number of Append calls.
  std::map<std::string, std::vector<uint32_t>> documents() const {
    absl::MutexLock lock(&mu_);
    return documents_;
  }
  int appends() const {
    absl::MutexLock lock(&mu_);
    return appends_;
  }

  grpc::Status Lookup(grpc::ServerContext*, const v1::LookupRequest* request,
                      v1::LookupResponse* response) override {
    OnLookup on_lookup;
    {
      absl::MutexLock lock(&mu_);
      lookups_.push_back(*request);
      on_lookup = on_lookup_;
    }
    return on_lookup(*request, response);
  }
  grpc::Status Append(grpc::ServerContext*, const v1::AppendRequest* request,
                      v1::AppendResponse* response) override {
    OnAppend on_append;
    {
      absl::MutexLock lock(&mu_);
      ++appends_;
      on_append = on_append_;
    }
    if (on_append) {
      if (grpc::Status status = on_append(*request, response); !status.ok()) return status;
    }
    absl::MutexLock lock(&mu_);
    for (const v1::Document& document : request->documents()) {
      const std::string key = absl::StrCat(document.namespace_().tenant(), "/", document.id());
      const bool added =
          documents_.emplace(key, std::vector<uint32_t>(document.tokens().begin(), document.tokens().end()))
              .second;
      response->add_outcomes(added ? v1::APPEND_OUTCOME_STORED : v1::APPEND_OUTCOME_UNCHANGED);
    }
    return grpc::Status::OK;
  }

  // An honest answer: after a context that ends in t comes t + 1, then t + 2.
  static grpc::Status Successors(const v1::LookupRequest& request, v1::LookupResponse* response) {
    for (const v1::LookupQuery& query : request.queries()) {
      v1::ContinuationTrie& trie = *response->add_tries();
      const uint32_t last = query.context(query.context_size() - 1);
      trie.set_match_length(1);
      trie.set_occurrences(2);
      for (uint32_t i = 0; i < 2; ++i) {
        trie.add_tokens(last + 1 + i);
        trie.add_parents(i);
        trie.add_counts(2 - i);
      }
    }
    return grpc::Status::OK;
  }

 private:
  mutable absl::Mutex mu_;
  OnLookup on_lookup_ ABSL_GUARDED_BY(mu_) = Successors;
  OnAppend on_append_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::LookupRequest> lookups_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::vector<uint32_t>> documents_ ABSL_GUARDED_BY(mu_);
  int appends_ ABSL_GUARDED_BY(mu_) = 0;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// Waits until `reached` holds; false after ten seconds.
inline bool Eventually(const std::function<bool()>& reached) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!reached()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

}  // namespace clamor
