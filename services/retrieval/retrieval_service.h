// RetrievalService over a SuffixStore: checks, converts and counts; the store does the work.
//
// Synchronous on purpose: every call may wait for the disk.
// Threads: gRPC calls from many.
// Tested by tests/services/retrieval/retrieval_service_test.cc.
#pragma once

#include <atomic>
#include <string>

#include "clamor/v1/retrieval.grpc.pb.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "retrieval/suffix_store.h"
#include "services/tracing/tracer.h"

namespace clamor {

class RetrievalService final : public v1::RetrievalService::Service {
 public:
  struct Options {
    std::string store_path;       // for the free space of its disk
    std::string checkpoint_path;  // folder that Checkpoint puts its copies in; made when first needed
    std::string load_path;        // folder that LoadSegments finds its folders in
    bool follower = false;        // what changes documents is refused: another server's are copied
    uint64_t document_ttl = 0;    // seconds that a document stays unless it says otherwise; 0: for ever
  };
  // `store`, `registry` and `tracer` must outlive the service. Calls that come in a recorded trace have
  // spans, without a tracer none has.
  RetrievalService(retrieval::SuffixStore* store, Options options, prometheus::Registry* registry,
                   Tracer* tracer = nullptr);

  grpc::Status Lookup(grpc::ServerContext* context, const v1::LookupRequest* request,
                      v1::LookupResponse* response) override;
  grpc::Status Append(grpc::ServerContext* context, const v1::AppendRequest* request,
                      v1::AppendResponse* response) override;
  grpc::Status DeleteDocument(grpc::ServerContext*, const v1::DeleteDocumentRequest* request,
                              v1::DeleteDocumentResponse* response) override;
  grpc::Status DeleteTenant(grpc::ServerContext*, const v1::DeleteTenantRequest* request,
                            v1::DeleteTenantResponse* response) override;
  grpc::Status Checkpoint(grpc::ServerContext*, const v1::CheckpointRequest* request,
                          v1::CheckpointResponse* response) override;
  grpc::Status LoadSegments(grpc::ServerContext*, const v1::LoadSegmentsRequest* request,
                            v1::LoadSegmentsResponse* response) override;
  grpc::Status ListDocuments(grpc::ServerContext*, const v1::ListDocumentsRequest* request,
                             v1::ListDocumentsResponse* response) override;
  grpc::Status GetDocuments(grpc::ServerContext*, const v1::GetDocumentsRequest* request,
                            v1::GetDocumentsResponse* response) override;
  grpc::Status ListChanges(grpc::ServerContext*, const v1::ListChangesRequest* request,
                           v1::ListChangesResponse* response) override;
  grpc::Status GetStats(grpc::ServerContext*, const v1::GetStatsRequest* request,
                        v1::GetStatsResponse* response) override;

  // From now on lookups, appends, loads and waits for changes are refused with DRAINING.
  void Drain() { draining_ = true; }

  // Brings the gauges up to date, before a scrape.
  void UpdateGauges();

 private:
  absl::Status CheckMayChange() const;
  absl::Status CheckMayBeFollowed() const;
  absl::Status Look(const v1::LookupRequest& request, v1::LookupResponse* response);
  absl::Status Store(const v1::AppendRequest& request, v1::AppendResponse* response);
  // Of a call that has come.
  Span Traced(const char* name, const grpc::ServerContext& context) const;

  retrieval::SuffixStore* const store_;
  const Options options_;
  Tracer* const tracer_;
  prometheus::Histogram& lookup_seconds_;
  prometheus::Histogram& match_length_;
  prometheus::Gauge& stored_tokens_;
  prometheus::Gauge& stored_bytes_;
  prometheus::Gauge& segments_;
  prometheus::Gauge& disk_free_bytes_;
  prometheus::Counter& appends_stored_;
  prometheus::Counter& appends_unchanged_;
  prometheus::Counter& appends_refused_;
  std::atomic<bool> draining_ = false;
};

}  // namespace clamor
