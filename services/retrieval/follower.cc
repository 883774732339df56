#include "services/retrieval/follower.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "kernels/status_macros.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

using retrieval::Namespace;

constexpr absl::Duration kCallTimeout = absl::Seconds(30), kWait = absl::Seconds(1);
constexpr absl::Duration kMinBackoff = absl::Milliseconds(100), kMaxBackoff = absl::Seconds(5);
constexpr int kMaxAnswerBytes = 64 << 20;
constexpr size_t kOwnPage = 4096, kFetched = 256;  // documents

std::string KeyOf(const retrieval::DocumentDb::Listed& document) {
  return retrieval::CatalogKey(retrieval::NamespacePrefix(document.ns), document.id);
}

void FillNamespace(const Namespace& ns, v1::Namespace* proto) {
  proto->set_tenant(ns.tenant);
  proto->set_tokenizer_fingerprint(ns.fingerprint);
}

Namespace FromProto(const v1::Namespace& proto) { return {proto.tenant(), proto.tokenizer_fingerprint()}; }

bool SameDocument(const retrieval::CatalogEntry& a, const retrieval::CatalogEntry& b) {
  return a.checksum == b.checksum && a.tokens == b.tokens && a.expires == b.expires;
}

}  // namespace

std::shared_ptr<grpc::Channel> Follower::ChannelTo(const std::string& leader, const TlsOptions& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 250);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);  // a leader that vanished without a word is noticed
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // as in MakeRetrievalChannel of the worker
  return grpc::CreateCustomChannel(leader, ChannelCredentialsOf(tls), arguments);
}

Follower::Follower(retrieval::SuffixStore* store, const std::shared_ptr<grpc::ChannelInterface>& leader,
                   prometheus::Registry* registry)
    : store_(store),
      leader_(v1::RetrievalService::NewStub(leader)),
      lag_seconds_(prometheus::BuildGauge()
                       .Name("clamor_retrieval_follower_lag_seconds")
                       .Help("Since this store was last seen to have all that the one it follows has")
                       .Register(*registry)
                       .Add({})),
      same_at_(absl::Now()),
      thread_([this] { Run(); }) {}

Follower::~Follower() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    if (under_way_ != nullptr) under_way_->TryCancel();
  }
  thread_.join();
}

void Follower::UpdateGauges() {
  absl::MutexLock lock(&mu_);
  lag_seconds_.Set(absl::ToDoubleSeconds(absl::Now() - same_at_));
}

void Follower::Run() {
  uint64_t position = 0;  // in the leader's list of changes; 0: none, compare
  for (absl::Duration backoff = kMinBackoff;; backoff = std::min(2 * backoff, kMaxBackoff)) {
    const uint64_t before = position;
    absl::Status status = position == 0 ? CompareAll(position) : absl::OkStatus();
    if (status.ok()) status = GoByChanges(position);
    if (absl::IsOutOfRange(status)) position = 0;
    if (position != before) backoff = kMinBackoff;  // it got somewhere
    absl::MutexLock lock(&mu_);
    if (stopping_) return;
    spdlog::warn("event=not_following error={} again_in_ms={}", Quoted(status.ToString()),
                 absl::ToInt64Milliseconds(backoff));
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), backoff)) return;
  }
}

template <typename Request, typename Response>
absl::Status Follower::Call(grpc::Status (v1::RetrievalService::Stub::*method)(grpc::ClientContext*,
                                                                               const Request&, Response*),
                            const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) return absl::CancelledError("this server is about to stop");
    under_way_ = &context;
  }
  const grpc::Status status = (leader_.get()->*method)(&context, request, response);
  absl::MutexLock lock(&mu_);
  under_way_ = nullptr;
  return FromGrpc(status);
}

absl::StatusOr<v1::ListChangesResponse> Follower::ListChanges(uint64_t position, absl::Duration wait) {
  v1::ListChangesRequest request;
  request.set_position(position);
  request.set_wait_milliseconds(static_cast<uint32_t>(absl::ToInt64Milliseconds(wait)));
  v1::ListChangesResponse response;
  CLAMOR_RETURN_IF_ERROR(Call(&v1::RetrievalService::Stub::ListChanges, request, &response));
  return response;
}

absl::Status Follower::CompareAll(uint64_t& position) {
  // Changes made while we compare are looked at again behind it.
  CLAMOR_ASSIGN_OR_RETURN(const v1::ListChangesResponse start, ListChanges(0, absl::ZeroDuration()));
  uint64_t pages = 0;
  for (std::optional<Listed> after;; ++pages) {
    CLAMOR_ASSIGN_OR_RETURN(const Page leader, ListLeader(after));
    CLAMOR_ASSIGN_OR_RETURN(const Page own, ListOwn(after));
    std::optional<Listed> end;  // of what both pages tell about
    for (const Page* page : {&leader, &own}) {
      if (page->more && (!end || KeyOf(page->documents.back()) < KeyOf(*end))) end = page->documents.back();
    }
    CLAMOR_RETURN_IF_ERROR(ComparePages(leader, own, end));
    if (!end) break;
    after = std::move(end);
  }
  position = start.next();
  spdlog::info("event=compared_with_leader pages={}", pages + 1);
  return absl::OkStatus();
}

absl::StatusOr<Follower::Page> Follower::ListLeader(const std::optional<Listed>& after) {
  v1::ListDocumentsRequest request;
  if (after) {
    FillNamespace(after->ns, request.mutable_namespace_());
    request.set_id(after->id);
  }
  v1::ListDocumentsResponse response;
  CLAMOR_RETURN_IF_ERROR(Call(&v1::RetrievalService::Stub::ListDocuments, request, &response));
  Page page{.documents = {}, .more = response.more()};
  for (const v1::ListedDocument& document : response.documents()) {
    page.documents.push_back({FromProto(document.namespace_()),
                              document.id(),
                              {.number = 0,
                               .checksum = document.checksum(),
                               .tokens = document.tokens(),
                               .expires = document.expires()}});
  }
  if (page.more && page.documents.empty()) return absl::InternalError("the leader sent an empty page");
  return page;
}

absl::StatusOr<Follower::Page> Follower::ListOwn(const std::optional<Listed>& after) const {
  CLAMOR_ASSIGN_OR_RETURN(std::vector<Listed> documents,
                          store_->List(after ? KeyOf(*after) : std::string(), kOwnPage));
  const bool more = documents.size() == kOwnPage;
  return Page{std::move(documents), more};
}

absl::Status Follower::ComparePages(const Page& leader, const Page& own, const std::optional<Listed>& end) {
  const std::string last = end ? KeyOf(*end) : std::string();
  auto covered = [&](const std::string& key) { return !end || key <= last; };
  std::map<std::string, const Listed*> differing;
  for (const Listed& document : own.documents) {
    if (std::string key = KeyOf(document); covered(key)) differing[std::move(key)] = &document;
  }
  for (const Listed& document : leader.documents) {
    std::string key = KeyOf(document);
    if (!covered(key)) continue;
    const auto found = differing.find(key);
    if (found != differing.end() && SameDocument(found->second->entry, document.entry)) {
      differing.erase(found);
    } else {
      differing[std::move(key)] = &document;
    }
  }
  // By key, so those of a namespace are together.
  for (auto begin = differing.begin(), next = begin; begin != differing.end(); begin = next) {
    const Namespace& ns = begin->second->ns;
    std::vector<std::string> ids;
    for (; next != differing.end() && next->second->ns == ns; ++next) ids.push_back(next->second->id);
    CLAMOR_RETURN_IF_ERROR(Fetch(ns, ids));
  }
  return absl::OkStatus();
}

absl::Status Follower::Fetch(const Namespace& ns, std::span<const std::string> ids) {
  while (!ids.empty()) {
    v1::GetDocumentsRequest request;
    FillNamespace(ns, request.mutable_namespace_());
    const std::span<const std::string> some = ids.first(std::min(ids.size(), kFetched));
    for (const std::string& id : some) request.add_ids(id);
    v1::GetDocumentsResponse response;
    CLAMOR_RETURN_IF_ERROR(Call(&v1::RetrievalService::Stub::GetDocuments, request, &response));
    const auto answered = static_cast<size_t>(response.documents_size());
    if (answered == 0 || answered > some.size()) {
      return absl::InternalError(
          absl::StrCat("the leader sent ", answered, " documents, was asked for ", some.size()));
    }
    CLAMOR_RETURN_IF_ERROR(Take(ns, some.first(answered), response));
    ids = ids.subspan(answered);
  }
  return absl::OkStatus();
}

absl::Status Follower::Take(const Namespace& ns, std::span<const std::string> ids,
                            const v1::GetDocumentsResponse& found) {
  std::vector<retrieval::Document> documents;
  for (size_t i = 0; i < ids.size(); ++i) {
    const v1::StoredDocument& document = found.documents(static_cast<int>(i));
    // A document that is sent again goes at the later of both times: one that is to go sooner starts anew.
    CLAMOR_ASSIGN_OR_RETURN(const auto own, store_->Find(ns, ids[i]));
    if (own && (!document.found() || own->expires != document.expires()))
      CLAMOR_RETURN_IF_ERROR(store_->DeleteDocument(ns, ids[i]).status());
    if (!document.found()) continue;
    documents.push_back({.id = ids[i],
                         .tokens = {document.tokens().data(), static_cast<size_t>(document.tokens_size())},
                         .expires = document.expires()});
  }
  if (documents.empty()) return absl::OkStatus();
  return store_->AppendBatch(ns, documents).status();
}

absl::Status Follower::GoByChanges(uint64_t& position) {
  for (;;) {
    const absl::Time asked = absl::Now();
    CLAMOR_ASSIGN_OR_RETURN(const v1::ListChangesResponse response, ListChanges(position, kWait));
    for (auto begin = response.changes().begin(), next = begin; begin != response.changes().end();
         begin = next) {
      const Namespace ns = FromProto(begin->namespace_());
      if (ns.fingerprint.empty()) {
        CLAMOR_RETURN_IF_ERROR(store_->DeleteTenant(ns.tenant).status());
        ++next;
        continue;
      }
      std::set<std::string> ids;  // each once, as it is now
      for (; next != response.changes().end() && FromProto(next->namespace_()) == ns; ++next)
        ids.insert(next->id());
      CLAMOR_RETURN_IF_ERROR(Fetch(ns, std::vector<std::string>(ids.begin(), ids.end())));
    }
    position = response.next();
    if (response.more()) continue;
    // It had no more when it answered, which was after it was asked.
    absl::MutexLock lock(&mu_);
    same_at_ = response.changes().empty() ? absl::Now() : asked;
  }
}

}  // namespace clamor
