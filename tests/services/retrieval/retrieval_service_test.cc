// The service over a real store and real gRPC.
#include "services/retrieval/retrieval_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <ctime>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/create_channel.h"
#include "retrieval/bulk_files.h"
#include "services/rpc_error.h"
#include "services/server.h"
#include "tests/services/http_get.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RetrievalServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    Start();
  }
  void TearDown() override { Stop(); }

  void Start() {
    auto store = retrieval::SuffixStore::Open({.path = folder_ / "store",
                                               .max_bytes_per_tenant = 12000,  // about 1000 tokens
                                               .clock = [this] { return now_.load(); }});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    registry_ = std::make_unique<prometheus::Registry>();
    service_ =
        std::make_unique<RetrievalService>(store_.get(),
                                           RetrievalService::Options{.store_path = folder_ / "store",
                                                                     .checkpoint_path = folder_ / "copies",
                                                                     .load_path = folder_ / "loads",
                                                                     .document_ttl = document_ttl_},
                                           registry_.get());
    const ServicePart parts[] = {{v1::RetrievalService::service_full_name(), service_.get()}};
    auto server = Server::Start({.name = "clamor-retrieval", .listen = "127.0.0.1:0", .http = "127.0.0.1:0"},
                                parts, registry_.get(), [this] { service_->UpdateGauges(); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::RetrievalService::NewStub(
        grpc::CreateChannel(server_->grpc_address(), grpc::InsecureChannelCredentials()));
  }
  void Stop() {
    server_.reset();
    service_.reset();
    store_.reset();
  }

  static void SetNamespace(v1::Namespace* ns, const std::string& tenant) {
    ns->set_tenant(tenant);
    ns->set_tokenizer_fingerprint("abc123");
  }
  static void AddDocument(v1::AppendRequest* request, const std::string& tenant, const std::string& id,
                          const std::vector<uint32_t>& tokens) {
    v1::Document& document = *request->add_documents();
    SetNamespace(document.mutable_namespace_(), tenant);
    document.set_id(id);
    document.mutable_tokens()->Add(tokens.begin(), tokens.end());
  }
  static v1::LookupQuery* AddQuery(v1::LookupRequest* request, const std::string& tenant,
                                   const std::vector<uint32_t>& context) {
    v1::LookupQuery* query = request->add_queries();
    SetNamespace(query->mutable_namespace_(), tenant);
    query->mutable_context()->Add(context.begin(), context.end());
    return query;
  }
  grpc::Status Append(const v1::AppendRequest& request) {
    grpc::ClientContext context;
    appended_.Clear();
    return stub_->Append(&context, request, &appended_);
  }
  grpc::Status Append(const std::string& tenant, const std::string& id, const std::vector<uint32_t>& tokens) {
    v1::AppendRequest request;
    AddDocument(&request, tenant, id, tokens);
    return Append(request);
  }
  grpc::Status Lookup(const v1::LookupRequest& request) {
    grpc::ClientContext context;
    found_.Clear();
    return stub_->Lookup(&context, request, &found_);
  }
  v1::ContinuationTrie Lookup(const std::string& tenant, const std::vector<uint32_t>& tokens) {
    v1::LookupRequest request;
    AddQuery(&request, tenant, tokens);
    const grpc::Status status = Lookup(request);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return found_.tries_size() == 1 ? found_.tries(0) : v1::ContinuationTrie();
  }
  v1::GetStatsResponse Stats(const std::string& tenant) {
    grpc::ClientContext context;
    v1::GetStatsRequest request;
    request.set_tenant(tenant);
    v1::GetStatsResponse response;
    EXPECT_TRUE(stub_->GetStats(&context, request, &response).ok());
    return response;
  }

  std::filesystem::path folder_;
  std::atomic<uint64_t> now_{0};  // of the store
  uint64_t document_ttl_ = 0;
  std::unique_ptr<retrieval::SuffixStore> store_;
  std::unique_ptr<prometheus::Registry> registry_;
  std::unique_ptr<RetrievalService> service_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::RetrievalService::Stub> stub_;
  v1::AppendResponse appended_;
  v1::LookupResponse found_;
};

TEST_F(RetrievalServiceTest, WhatWasAppendedIsFoundInOrder) {
  v1::AppendRequest documents;
  AddDocument(&documents, "acme", "1", {1, 2, 3, 4, 5});
  AddDocument(&documents, "acme", "2", {9, 2, 3, 4, 6});
  AddDocument(&documents, "acme", "3", {8, 2, 3, 7});
  AddDocument(&documents, "beta", "1", {1, 2, 3, 4, 5});
  ASSERT_TRUE(Append(documents).ok());
  EXPECT_THAT(appended_.outcomes(), ElementsAre(v1::APPEND_OUTCOME_STORED, v1::APPEND_OUTCOME_STORED,
                                                v1::APPEND_OUTCOME_STORED, v1::APPEND_OUTCOME_STORED));
  ASSERT_TRUE(Append("acme", "1", {1, 2, 3, 4, 5}).ok());
  EXPECT_THAT(appended_.outcomes(), ElementsAre(v1::APPEND_OUTCOME_UNCHANGED));
  v1::LookupRequest request;
  AddQuery(&request, "acme", {0x7fffffff, 2, 3});
  AddQuery(&request, "acme", {77, 78});
  AddQuery(&request, "other", {2, 3});
  AddQuery(&request, "acme", {});
  const grpc::Status status = Lookup(request);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(found_.tries_size(), 4);
  const v1::ContinuationTrie& trie = found_.tries(0);
  EXPECT_EQ(trie.match_length(), 2u);
  EXPECT_EQ(trie.occurrences(), 3u);
  // {4 x2 -> {5, 6}, 7}, whatever the order of the nodes: children after parents.
  ASSERT_EQ(trie.tokens_size(), 4);
  ASSERT_EQ(trie.parents_size(), 4);
  ASSERT_EQ(trie.counts_size(), 4);
  EXPECT_THAT(std::vector<uint32_t>(trie.tokens().begin(), trie.tokens().end()),
              ::testing::UnorderedElementsAre(4, 5, 6, 7));
  for (int i = 0; i < 4; ++i) {
    ASSERT_LE(trie.parents(i), static_cast<uint32_t>(i));
    const uint32_t parent = trie.parents(i) == 0 ? 0 : trie.tokens(static_cast<int>(trie.parents(i)) - 1);
    EXPECT_EQ(parent, trie.tokens(i) == 5 || trie.tokens(i) == 6 ? 4u : 0u);
    EXPECT_EQ(trie.counts(i), trie.tokens(i) == 4 ? 2u : 1u);
    EXPECT_EQ(trie.totals(i), parent == 0 ? 3u : 2u);
    EXPECT_EQ(trie.match_lengths(i), parent == 0 ? 2u : 3u);
  }
  for (int i = 1; i < 4; ++i) {
    EXPECT_EQ(found_.tries(i).match_length(), 0u);
    EXPECT_EQ(found_.tries(i).tokens_size(), 0);
  }
}

TEST_F(RetrievalServiceTest, OptionsOfALookup) {
  ASSERT_TRUE(Append("acme", "1", {1, 2, 3, 4, 5, 6, 7, 8}).ok());
  v1::LookupRequest request;
  v1::LookupQuery* query = AddQuery(&request, "acme", {1, 2, 3});
  query->set_max_match(1);  // and so min_match is 1, too
  query->set_max_depth(2);
  ASSERT_TRUE(Lookup(request).ok());
  EXPECT_EQ(found_.tries(0).match_length(), 1u);
  EXPECT_THAT(found_.tries(0).tokens(), ElementsAre(4, 5));
  query->clear_max_depth();
  query->set_max_nodes(3);
  ASSERT_TRUE(Lookup(request).ok());
  EXPECT_THAT(found_.tries(0).tokens(), ElementsAre(4, 5, 6));
  query->set_max_match(8);
  query->set_min_match(4);
  ASSERT_TRUE(Lookup(request).ok());
  EXPECT_EQ(found_.tries(0).match_length(), 0u);
}

TEST_F(RetrievalServiceTest, DeletedIsGoneAndStoredSurvives) {
  ASSERT_TRUE(Append("acme", "1", {1, 2, 3, 4}).ok());
  ASSERT_TRUE(Append("acme", "2", {5, 6, 7, 8}).ok());
  ASSERT_TRUE(Append("other", "1", {1, 2, 3, 9}).ok());
  for (bool found : {true, false}) {
    grpc::ClientContext context;
    v1::DeleteDocumentRequest request;
    SetNamespace(request.mutable_namespace_(), "acme");
    request.set_id("1");
    v1::DeleteDocumentResponse response;
    ASSERT_TRUE(stub_->DeleteDocument(&context, request, &response).ok());
    EXPECT_EQ(response.found(), found);
  }
  EXPECT_EQ(Lookup("acme", {1, 2}).match_length(), 0u);
  EXPECT_EQ(Lookup("acme", {5, 6}).match_length(), 2u);
  Stop();
  Start();
  EXPECT_EQ(Lookup("acme", {1, 2}).match_length(), 0u);
  EXPECT_EQ(Lookup("acme", {5, 6}).match_length(), 2u);
  EXPECT_EQ(Stats("").documents(), 2u);
  EXPECT_EQ(Stats("other").tokens(), 4u);
  grpc::ClientContext context;
  v1::DeleteTenantRequest request;
  request.set_tenant("acme");
  v1::DeleteTenantResponse response;
  ASSERT_TRUE(stub_->DeleteTenant(&context, request, &response).ok());
  EXPECT_EQ(response.documents(), 1u);
  EXPECT_EQ(Stats("acme").documents(), 0u);
  EXPECT_EQ(Lookup("other", {1, 2}).match_length(), 2u);
}

TEST_F(RetrievalServiceTest, FullStoreHasItsReasonAndKeepsWhatFitted) {
  v1::AppendRequest documents;
  AddDocument(&documents, "acme", "1", std::vector<uint32_t>(900, 1));
  AddDocument(&documents, "beta", "1", std::vector<uint32_t>(500, 1));
  AddDocument(&documents, "beta", "2", std::vector<uint32_t>(501, 2));
  const grpc::Status status = Append(documents);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(FromGrpc(status)), "STORE_FULL");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::QuotaFailure quota;
  bool found_retry = false;
  for (const auto& any : details.details()) {
    any.UnpackTo(&quota);
    found_retry |= any.Is<google::rpc::RetryInfo>();
  }
  ASSERT_EQ(quota.violations_size(), 1);
  EXPECT_THAT(quota.violations(0).description(), HasSubstr("bytes, limit is 12000"));
  EXPECT_FALSE(found_retry) << "waiting does not help";
  EXPECT_EQ(Stats("acme").documents(), 1u);
  EXPECT_GE(Stats("acme").charged_bytes(), 12u * 900);
  EXPECT_EQ(Stats("beta").documents(), 0u);
  const std::string metrics = testing::HttpGet(server_->http_address(), "/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("clamor_retrieval_appends_total{outcome=\"stored\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("clamor_retrieval_appends_total{outcome=\"refused\"} 2"));
  EXPECT_THAT(metrics, HasSubstr("clamor_retrieval_stored_tokens 900"));
}

TEST_F(RetrievalServiceTest, CheckpointIsAStore) {
  ASSERT_TRUE(Append("acme", "1", {1, 2, 3, 4}).ok());
  v1::CheckpointRequest request;
  request.set_name("monday");
  v1::CheckpointResponse response;
  {
    grpc::ClientContext context;
    const grpc::Status status = stub_->Checkpoint(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  grpc::ClientContext context;
  v1::CheckpointResponse second;
  EXPECT_EQ(stub_->Checkpoint(&context, request, &second).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  auto copy = retrieval::SuffixStore::Open({.path = response.path()});
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ((*copy)->GetStats().documents, 1u);
  EXPECT_EQ(std::filesystem::path(response.path()).parent_path(), folder_ / "copies");
}

TEST_F(RetrievalServiceTest, DocumentsGoWhenTheirTimeIsUp) {
  Stop();
  document_ttl_ = 100;
  Start();
  v1::AppendRequest request;
  for (const char* id : {"default", "long", "never"}) AddDocument(&request, "acme", id, {1, 2, 3});
  request.mutable_documents(1)->set_ttl_seconds(1000);
  request.mutable_documents(2)->set_ttl_seconds(0);
  const auto before = static_cast<uint64_t>(std::time(nullptr));
  ASSERT_TRUE(Append(request).ok());
  const auto after = static_cast<uint64_t>(std::time(nullptr));
  const std::pair<uint64_t, uint64_t> documents_at[] = {
      {before + 99, 3}, {after + 100, 2}, {before + 999, 2}, {after + 1000, 1}, {after + (1ull << 40), 1}};
  for (const auto& [now, documents] : documents_at) {
    now_ = now;
    ASSERT_TRUE(store_->RemoveExpired().ok());
    EXPECT_EQ(Stats("acme").documents(), documents) << now;
  }
}

TEST_F(RetrievalServiceTest, SegmentsAreLoaded) {
  {
    retrieval::BulkWriter writer(folder_ / "loads" / "monday", {"acme", "abc123"}, 100);
    ASSERT_TRUE(writer.Add("1", std::vector<uint32_t>{1, 2, 3, 4}).ok());
    ASSERT_TRUE(writer.Add("2", std::vector<uint32_t>(98, 7)).ok());
    ASSERT_TRUE(writer.Finish().ok());
  }
  ASSERT_TRUE(Append("acme", "1", {1, 2, 3, 4}).ok());
  auto load = [&](const std::string& name, v1::LoadSegmentsResponse* response) {
    grpc::ClientContext context;
    v1::LoadSegmentsRequest request;
    request.set_name(name);
    return stub_->LoadSegments(&context, request, response);
  };
  v1::LoadSegmentsResponse response;
  const grpc::Status status = load("monday", &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.segments(), 2u);
  EXPECT_EQ(response.stored(), 1u);
  EXPECT_EQ(response.unchanged(), 1u);
  EXPECT_EQ(response.tokens(), 98u);
  EXPECT_EQ(Lookup("acme", {7, 7}).match_length(), 2u);
  EXPECT_EQ(Stats("acme").documents(), 2u);
  EXPECT_EQ(load("tuesday", &response).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(load("../store", &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const std::string metrics = testing::HttpGet(server_->http_address(), "/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("clamor_retrieval_segments 2"));
  EXPECT_THAT(metrics, HasSubstr("clamor_retrieval_stored_bytes "));
  EXPECT_THAT(metrics, HasSubstr("clamor_retrieval_disk_free_bytes "));
  service_->Drain();
  EXPECT_EQ(ReasonOf(FromGrpc(load("monday", &response))), "DRAINING");
}

TEST_F(RetrievalServiceTest, EveryWrongFieldIsNamed) {
  auto expect = [](const grpc::Status& status, const std::string& field) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_EQ(ReasonOf(FromGrpc(status)), "INVALID_FIELD") << field;
    google::rpc::Status details;
    details.ParseFromString(status.error_details());
    google::rpc::BadRequest bad_request;
    for (const auto& any : details.details()) any.UnpackTo(&bad_request);
    ASSERT_EQ(bad_request.field_violations_size(), 1) << field;
    EXPECT_EQ(bad_request.field_violations(0).field(), field);
  };
  expect(Lookup(v1::LookupRequest()), "queries");
  v1::LookupRequest many;
  for (int i = 0; i < 257; ++i) AddQuery(&many, "a", {1});
  expect(Lookup(many), "queries");
  const std::pair<const char*, std::function<void(v1::LookupQuery*)>> queries[] = {
      {"queries[0].namespace.tenant", [](auto* q) { q->mutable_namespace_()->clear_tenant(); }},
      {"queries[0].namespace.tenant", [](auto* q) { q->mutable_namespace_()->set_tenant("a/b"); }},
      {"queries[0].namespace.tokenizer_fingerprint",
       [](auto* q) { q->mutable_namespace_()->set_tokenizer_fingerprint("ABC"); }},
      {"queries[0].namespace.tokenizer_fingerprint",
       [](auto* q) { q->mutable_namespace_()->set_tokenizer_fingerprint(std::string(65, 'a')); }},
      {"queries[0].namespace.tenant", [](auto* q) { q->clear_namespace_(); }},
      {"queries[0].context", [](auto* q) { q->mutable_context()->Resize(4097, 1); }},
      {"queries[0].context[1]", [](auto* q) { q->add_context(1u << 31); }},
      {"queries[0].max_match", [](auto* q) { q->set_max_match(0); }},
      {"queries[0].max_match", [](auto* q) { q->set_max_match(257); }},
      {"queries[0].min_match", [](auto* q) { q->set_min_match(0); }},
      {"queries[0].min_match", [](auto* q) { q->set_max_match(4), q->set_min_match(5); }},
      {"queries[0].max_nodes", [](auto* q) { q->set_max_nodes(0xffffffff); }},
      {"queries[0].max_depth", [](auto* q) { q->set_max_depth(0); }},
  };
  for (const auto& [field, spoil] : queries) {
    v1::LookupRequest request;
    spoil(AddQuery(&request, "a", {1}));
    expect(Lookup(request), field);
  }
  expect(Append(v1::AppendRequest()), "documents");
  expect(Append("", "1", {1}), "documents[0].namespace.tenant");
  expect(Append("a", "", {1}), "documents[0].id");
  expect(Append("a", std::string(257, 'i'), {1}), "documents[0].id");
  expect(Append("a", "1", {}), "documents[0].tokens");
  expect(Append("a", "1", {1, 0xffffffff}), "documents[0].tokens[1]");
  v1::AppendRequest too_long;
  AddDocument(&too_long, "a", "1", {1, 2});
  too_long.mutable_documents(0)->set_ttl_seconds((uint64_t{1} << 32) + 1);
  expect(Append(too_long), "documents[0].ttl_seconds");
  v1::AppendRequest too_much;
  for (int i = 0; i < 5; ++i)
    AddDocument(&too_much, "a", std::to_string(i), std::vector<uint32_t>(1 << 20, 1));
  expect(Append(too_much), "documents");
  v1::AppendRequest second_wrong;
  AddDocument(&second_wrong, "a", "1", {1, 2, 3});
  AddDocument(&second_wrong, "a", "2", {});
  expect(Append(second_wrong), "documents[1].tokens");
  EXPECT_EQ(Stats("").documents(), 0u) << "a wrong request stores nothing";
  for (const std::string& name :
       {std::string(), std::string("../up"), std::string("a.b"), std::string(129, 'a')}) {
    grpc::ClientContext context;
    v1::CheckpointRequest request;
    request.set_name(name);
    v1::CheckpointResponse response;
    expect(stub_->Checkpoint(&context, request, &response), "name");
  }
}

TEST_F(RetrievalServiceTest, ReadersAndWritersAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string tenant = absl::StrCat("t", t);
      for (uint32_t i = 0; i < 20; ++i) {
        grpc::ClientContext append_context, lookup_context;
        v1::AppendRequest append;
        AddDocument(&append, tenant, std::to_string(i), {100 * t, i, 7, 8});
        v1::AppendResponse appended;
        wrong += !stub_->Append(&append_context, append, &appended).ok();
        v1::LookupRequest lookup;
        AddQuery(&lookup, tenant, {100 * t, i});
        v1::LookupResponse found;
        wrong += !stub_->Lookup(&lookup_context, lookup, &found).ok();
        wrong +=
            found.tries_size() != 1 || found.tries(0).match_length() != 2 || found.tries(0).tokens(0) != 7;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(Stats("").documents(), 80u);
  EXPECT_TRUE(store_->CheckIntegrity().ok());
}

}  // namespace
}  // namespace clamor
