#include "services/retrieval/retrieval_service.h"

#include <chrono>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/status_macros.h"
#include "retrieval/bulk_files.h"
#include "services/faults/faults.h"
#include "services/log.h"
#include "services/retrieval/request_limits.h"
#include "services/rpc_error.h"
#include "services/tenant.h"

namespace clamor {
namespace {

constexpr size_t kMaxListedDocuments = 4096, kMaxListedChanges = 1024;
constexpr size_t kMaxAnsweredTokens = 1 << 20;

const prometheus::Histogram::BucketBoundaries kLookupSeconds = {0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002,
                                                                0.005,   0.01,   0.02,   0.05,   0.1,   1};
const prometheus::Histogram::BucketBoundaries kMatchLengths = {0,  1,  2,  3,  4,  6,   8,
                                                               12, 16, 24, 32, 64, 128, 256};

prometheus::Histogram& AddHistogram(prometheus::Registry* registry, const char* name, const char* help,
                                    const prometheus::Histogram::BucketBoundaries& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry).Add({}, buckets);
}

prometheus::Gauge& AddGauge(prometheus::Registry* registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add({});
}

prometheus::Counter& AddAppends(prometheus::Registry* registry, const char* outcome) {
  return prometheus::BuildCounter()
      .Name("clamor_retrieval_appends_total")
      .Help("Documents sent to Append, by what became of them")
      .Register(*registry)
      .Add({{"outcome", outcome}});
}

void FillNamespace(const retrieval::Namespace& ns, v1::Namespace* proto) {
  proto->set_tenant(ns.tenant);
  proto->set_tokenizer_fingerprint(ns.fingerprint);
}

void FillTrie(const retrieval::Trie& trie, v1::ContinuationTrie* proto) {
  proto->set_match_length(static_cast<uint32_t>(trie.match_length));
  proto->set_occurrences(trie.occurrences);
  for (const retrieval::Trie::Node& node : trie.nodes) {
    proto->add_tokens(node.token);
    proto->add_parents(static_cast<uint32_t>(node.parent + 1));
    proto->add_counts(node.count);
    proto->add_totals(node.total);
    proto->add_match_lengths(static_cast<uint32_t>(node.match_length));
  }
}

// A full store has its reason; other errors of the store cross as they are.
absl::Status WithReason(const absl::Status& status) {
  return absl::IsResourceExhausted(status) ? Refusal("STORE_FULL", status.message()) : status;
}

bool SameNamespace(const retrieval::Namespace& a, const retrieval::Namespace& b) {
  return a.tenant == b.tenant && a.fingerprint == b.fingerprint;
}

absl::Status Draining() { return Refusal("DRAINING", "this server is about to stop"); }

}  // namespace

RetrievalService::RetrievalService(retrieval::SuffixStore* store, Options options,
                                   prometheus::Registry* registry, Tracer* tracer)
    : store_(store),
      options_(std::move(options)),
      tracer_(tracer),
      lookup_seconds_(
          AddHistogram(registry, "clamor_retrieval_lookup_seconds", "Time of one query", kLookupSeconds)),
      match_length_(AddHistogram(registry, "clamor_retrieval_lookup_match_length",
                                 "Tokens of a context that matched", kMatchLengths)),
      stored_tokens_(AddGauge(registry, "clamor_retrieval_stored_tokens", "Tokens in the store")),
      stored_bytes_(AddGauge(registry, "clamor_retrieval_stored_bytes", "Bytes of the store on disk")),
      segments_(AddGauge(registry, "clamor_retrieval_segments", "Index segments")),
      disk_free_bytes_(
          AddGauge(registry, "clamor_retrieval_disk_free_bytes", "Free bytes of the store's disk")),
      appends_stored_(AddAppends(registry, "stored")),
      appends_unchanged_(AddAppends(registry, "unchanged")),
      appends_refused_(AddAppends(registry, "refused")) {}

Span RetrievalService::Traced(const char* name, const grpc::ServerContext& context) const {
  return TracePlace{tracer_, TraceContextOf(context)}.Start(name, Span::Kind::kServer);
}

absl::Status RetrievalService::CheckMayChange() const {
  if (draining_) return Draining();
  if (options_.follower) return Refusal("FOLLOWER", "this server follows another one: send changes there");
  return absl::OkStatus();
}

// Where two servers change parts, one may follow the other for a moment after that has begun to follow it: it
// would lose whatever the other has not copied yet.
absl::Status RetrievalService::CheckMayBeFollowed() const {
  if (draining_) return Draining();
  if (options_.follower) return Refusal("FOLLOWER", "this server follows another one: follow that");
  return absl::OkStatus();
}

grpc::Status RetrievalService::Lookup(grpc::ServerContext* context, const v1::LookupRequest* request,
                                      v1::LookupResponse* response) {
  Span span = Traced("Lookup", *context);
  const absl::Status status = Look(*request, response);
  span.Set("clamor.queries", request->queries_size());
  if (!status.ok()) span.Fail(status);
  return ToGrpc(status);
}

absl::Status RetrievalService::Look(const v1::LookupRequest& request, v1::LookupResponse* response) {
  if (draining_) return Draining();
  CLAMOR_RETURN_IF_ERROR(CheckCount("queries", request.queries_size(), kMaxLookupQueries));
  for (int i = 0; i < request.queries_size(); ++i) {
    CLAMOR_ASSIGN_OR_RETURN(const auto lookup,
                            ToLookup(absl::StrCat("queries[", i, "]"), request.queries(i)));
    const absl::Time start = absl::Now();
    CLAMOR_ASSIGN_OR_RETURN(const retrieval::Trie trie,
                            store_->Draft(lookup.ns, lookup.context, lookup.options));
    lookup_seconds_.Observe(absl::ToDoubleSeconds(absl::Now() - start));
    match_length_.Observe(trie.match_length);
    FillTrie(trie, response->add_tries());
  }
  return absl::OkStatus();
}

grpc::Status RetrievalService::Append(grpc::ServerContext* context, const v1::AppendRequest* request,
                                      v1::AppendResponse* response) {
  Span span = Traced("Append", *context);
  const absl::Status status = Store(*request, response);
  span.Set("clamor.documents", request->documents_size());
  if (!status.ok()) span.Fail(status);
  return ToGrpc(status);
}

absl::Status RetrievalService::Store(const v1::AppendRequest& request, v1::AppendResponse* response) {
  CLAMOR_RETURN_IF_ERROR(CheckMayChange());
  const auto now = static_cast<uint64_t>(absl::ToUnixSeconds(faults::Now()));
  auto expiry_of = [&](const v1::Document& document) {
    const uint64_t ttl = document.has_ttl_seconds() ? document.ttl_seconds() : options_.document_ttl;
    return ttl == 0 ? 0 : now + ttl;
  };
  auto namespaces = CheckDocuments(request);  // all are checked before the first is stored
  absl::Status status = namespaces.status();
  const int count = request.documents_size();
  int done = 0;
  while (status.ok() && done < count) {
    // Neighbours of one namespace go together: the store waits for the disk once for all of them.
    const retrieval::Namespace& ns = (*namespaces)[done];
    std::vector<retrieval::Document> batch;
    for (int i = done; i < count && SameNamespace((*namespaces)[i], ns); ++i) {
      const v1::Document& document = request.documents(i);
      batch.push_back({.id = document.id(),
                       .tokens = {document.tokens().data(), static_cast<size_t>(document.tokens_size())},
                       .expires = expiry_of(document)});
    }
    auto stored = store_->AppendBatch(ns, batch);
    if (!stored.ok()) {
      status = WithReason(stored.status());
      break;
    }
    for (bool is_new : *stored) {
      (is_new ? appends_stored_ : appends_unchanged_).Increment();
      response->add_outcomes(is_new ? v1::APPEND_OUTCOME_STORED : v1::APPEND_OUTCOME_UNCHANGED);
    }
    done += static_cast<int>(batch.size());
  }
  if (!status.ok()) appends_refused_.Increment(count - done);
  return status;
}

grpc::Status RetrievalService::DeleteDocument(grpc::ServerContext*, const v1::DeleteDocumentRequest* request,
                                              v1::DeleteDocumentResponse* response) {
  if (options_.follower) return ToGrpc(CheckMayChange());
  auto ns = ToNamespace("namespace", request->namespace_());
  if (!ns.ok()) return ToGrpc(ns.status());
  if (absl::Status id = CheckDocumentId("id", request->id()); !id.ok()) return ToGrpc(id);
  auto found = store_->DeleteDocument(*ns, request->id());
  if (!found.ok()) return ToGrpc(found.status());
  response->set_found(*found);
  return grpc::Status::OK;
}

grpc::Status RetrievalService::DeleteTenant(grpc::ServerContext*, const v1::DeleteTenantRequest* request,
                                            v1::DeleteTenantResponse* response) {
  if (options_.follower) return ToGrpc(CheckMayChange());
  if (absl::Status tenant = CheckTenant("tenant", request->tenant()); !tenant.ok()) return ToGrpc(tenant);
  auto documents = store_->DeleteTenant(request->tenant());
  if (!documents.ok()) return ToGrpc(documents.status());
  spdlog::info("event=tenant_deleted tenant={} documents={}", request->tenant(), *documents);
  response->set_documents(*documents);
  return grpc::Status::OK;
}

grpc::Status RetrievalService::Checkpoint(grpc::ServerContext*, const v1::CheckpointRequest* request,
                                          v1::CheckpointResponse* response) {
  if (absl::Status name = CheckFolderName(request->name()); !name.ok()) return ToGrpc(name);
  const std::filesystem::path folder = std::filesystem::path(options_.checkpoint_path) / request->name();
  std::error_code error;
  std::filesystem::create_directories(options_.checkpoint_path, error);
  if (error) {
    return ToGrpc(absl::InternalError(absl::StrCat(options_.checkpoint_path, ": ", error.message())));
  }
  if (std::filesystem::exists(folder, error)) {
    return ToGrpc(
        absl::AlreadyExistsError(absl::StrCat("name: there is a checkpoint \"", request->name(), "\"")));
  }
  if (absl::Status status = store_->Checkpoint(folder.string()); !status.ok()) return ToGrpc(status);
  spdlog::info("event=checkpoint path={}", Quoted(folder.string()));
  response->set_path(folder.string());
  return grpc::Status::OK;
}

grpc::Status RetrievalService::LoadSegments(grpc::ServerContext*, const v1::LoadSegmentsRequest* request,
                                            v1::LoadSegmentsResponse* response) {
  if (absl::Status may = CheckMayChange(); !may.ok()) return ToGrpc(may);
  if (absl::Status name = CheckFolderName(request->name()); !name.ok()) return ToGrpc(name);
  const std::filesystem::path folder = std::filesystem::path(options_.load_path) / request->name();
  auto paths = retrieval::ListBulkSegments(folder);
  if (!paths.ok()) return ToGrpc(paths.status());
  for (const std::string& path : *paths) {
    if (draining_) return ToGrpc(Draining());
    auto loaded = store_->LoadSegment(path);
    if (!loaded.ok()) return ToGrpc(WithReason(loaded.status()));
    response->set_segments(response->segments() + 1);
    response->set_stored(response->stored() + loaded->stored);
    response->set_unchanged(response->unchanged() + loaded->unchanged);
    response->set_tokens(response->tokens() + loaded->tokens);
  }
  spdlog::info("event=segments_loaded path={} segments={} documents={} tokens={}", Quoted(folder.string()),
               response->segments(), response->stored(), response->tokens());
  return grpc::Status::OK;
}

grpc::Status RetrievalService::ListDocuments(grpc::ServerContext*, const v1::ListDocumentsRequest* request,
                                             v1::ListDocumentsResponse* response) {
  if (absl::Status may = CheckMayBeFollowed(); !may.ok()) return ToGrpc(may);
  std::string after;
  if (request->has_namespace_()) {
    auto ns = ToNamespace("namespace", request->namespace_());
    if (!ns.ok()) return ToGrpc(ns.status());
    after = retrieval::CatalogKey(retrieval::NamespacePrefix(*ns), request->id());
  }
  auto listed = store_->List(after, kMaxListedDocuments);
  if (!listed.ok()) return ToGrpc(listed.status());
  for (const auto& [ns, id, entry] : *listed) {
    v1::ListedDocument& document = *response->add_documents();
    FillNamespace(ns, document.mutable_namespace_());
    document.set_id(id);
    document.set_tokens(entry.tokens);
    document.set_checksum(entry.checksum);
    document.set_expires(entry.expires);
  }
  response->set_more(listed->size() == kMaxListedDocuments);
  return grpc::Status::OK;
}

grpc::Status RetrievalService::GetDocuments(grpc::ServerContext*, const v1::GetDocumentsRequest* request,
                                            v1::GetDocumentsResponse* response) {
  if (absl::Status may = CheckMayBeFollowed(); !may.ok()) return ToGrpc(may);
  auto ns = ToNamespace("namespace", request->namespace_());
  if (!ns.ok()) return ToGrpc(ns.status());
  if (absl::Status count = CheckCount("ids", request->ids_size(), kMaxAppendDocuments); !count.ok())
    return ToGrpc(count);
  size_t tokens = 0;
  for (const std::string& id : request->ids()) {
    auto found = store_->Find(*ns, id);
    if (!found.ok()) return ToGrpc(found.status());
    tokens += found->has_value() ? (*found)->tokens.size() : 0;
    if (response->documents_size() > 0 && tokens > kMaxAnsweredTokens) break;
    v1::StoredDocument& document = *response->add_documents();
    if (!found->has_value()) continue;
    document.set_found(true);
    document.mutable_tokens()->Assign((*found)->tokens.begin(), (*found)->tokens.end());
    document.set_expires((*found)->expires);
  }
  return grpc::Status::OK;
}

grpc::Status RetrievalService::ListChanges(grpc::ServerContext*, const v1::ListChangesRequest* request,
                                           v1::ListChangesResponse* response) {
  if (absl::Status may = CheckMayBeFollowed(); !may.ok()) return ToGrpc(may);
  if (request->wait_milliseconds() > 10000) {
    return ToGrpc(InvalidField("wait_milliseconds",
                               absl::StrCat("is ", request->wait_milliseconds(), ", must be 0 to 10000")));
  }
  const retrieval::ChangeLog& log = store_->changes();
  if (request->position() == 0) {
    response->set_next(log.next());
    return grpc::Status::OK;
  }
  auto slice = log.Read(request->position(), kMaxListedChanges,
                        std::chrono::milliseconds(request->wait_milliseconds()));
  if (!slice.ok()) return ToGrpc(slice.status());
  for (const auto& [ns, id] : slice->changes) {
    v1::DocumentChange& change = *response->add_changes();
    FillNamespace(ns, change.mutable_namespace_());
    change.set_id(id);
  }
  response->set_next(slice->next);
  response->set_more(slice->more);
  return grpc::Status::OK;
}

grpc::Status RetrievalService::GetStats(grpc::ServerContext*, const v1::GetStatsRequest* request,
                                        v1::GetStatsResponse* response) {
  if (!request->tenant().empty()) {
    if (absl::Status tenant = CheckTenant("tenant", request->tenant()); !tenant.ok()) return ToGrpc(tenant);
  }
  const retrieval::Stats stats = store_->GetStats(request->tenant());
  response->set_documents(stats.documents);
  response->set_tokens(stats.tokens);
  response->set_bytes_on_disk(stats.bytes_on_disk);
  response->set_charged_bytes(stats.charged_bytes);
  return grpc::Status::OK;
}

void RetrievalService::UpdateGauges() {
  const retrieval::Stats stats = store_->GetStats();
  stored_tokens_.Set(static_cast<double>(stats.tokens));
  stored_bytes_.Set(static_cast<double>(stats.bytes_on_disk));
  segments_.Set(static_cast<double>(stats.segments));
  std::error_code error;
  const auto space = std::filesystem::space(options_.store_path, error);
  if (!error) disk_free_bytes_.Set(static_cast<double>(space.available));
}

}  // namespace clamor
