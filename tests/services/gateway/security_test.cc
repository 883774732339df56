// Keys, quotas and operators at a whole gateway.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "clamor/v1/admin.grpc.pb.h"
#include "clamor/v1/session.grpc.pb.h"
#include "services/security/key_file.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;
using ::testing::HasSubstr;

class SecurityTest : public testing::GatewayTest {
 protected:
  SecurityTest() : path_(::testing::TempDir() + "gateway-keys-" + std::to_string(getpid())) {
    std::ofstream(path_) << Line("secret-a", "a") << Line("secret-b", "b methods=StreamGenerate")
                         << Line("secret-root", "root methods=*")
                         << "tenant b tokens-per-second=1 burst-tokens=5\n";
    limits_.api_keys = path_;
    limits_.audit_log = path_ + ".audit";
  }
  ~SecurityTest() override {
    std::filesystem::remove(path_);
    std::filesystem::remove(path_ + ".audit");
  }
  static std::string Line(const std::string& key, const std::string& rest) {
    const Sha256 hash = Sha256Of(key);
    return absl::StrCat("key ",
                        absl::BytesToHexString({reinterpret_cast<const char*>(hash.data()), hash.size()}),
                        " ", rest, "\n");
  }
  static std::unique_ptr<grpc::ClientContext> With(const std::string& key, const std::string& tenant = "") {
    auto context = std::make_unique<grpc::ClientContext>();
    if (!key.empty()) context->AddMetadata("authorization", "Bearer " + key);
    if (!tenant.empty()) context->AddMetadata("x-clamor-tenant", tenant);
    return context;
  }
  Answer Ask(const std::string& key, const std::string& tenant = "", uint32_t tokens = 3) {
    const auto context = With(key, tenant);
    auto reader = stub_->StreamGenerate(context.get(), IdsRequest({1, 2}, tokens));
    return ReadAll(*reader);
  }
  // What each call of the services says to a caller with this key.
  std::vector<grpc::StatusCode> EveryCall(const std::string& key) {
    std::vector<grpc::StatusCode> codes;
    const auto note = [&](auto call) {
      const auto context = With(key);
      codes.push_back(call(context.get()).error_code());
    };
    note([&](auto* c) {
      v1::GenerateResponse response;
      return stub_->Generate(c, {}, &response);
    });
    note([&](auto* c) { return stub_->StreamGenerate(c, {})->Finish(); });
    note([&](auto* c) {
      v1::ChatResponse response;
      return stub_->Chat(c, {}, &response);
    });
    note([&](auto* c) { return stub_->StreamChat(c, {})->Finish(); });
    note([&](auto* c) { return stub_->ResumeStream(c, {})->Finish(); });
    const auto sessions = v1::SessionService::NewStub(channel_);
    note([&](auto* c) {
      v1::CreateSessionResponse response;
      return sessions->CreateSession(c, {}, &response);
    });
    note([&](auto* c) {
      v1::GetSessionResponse response;
      return sessions->GetSession(c, {}, &response);
    });
    note([&](auto* c) {
      v1::ListSessionsResponse response;
      return sessions->ListSessions(c, {}, &response);
    });
    note([&](auto* c) { return sessions->ExportSession(c, {})->Finish(); });
    note([&](auto* c) {
      v1::DeleteSessionResponse response;
      return sessions->DeleteSession(c, {}, &response);
    });
    note([&](auto* c) {
      v1::TokenizeResponse response;
      return stub_->Tokenize(c, {}, &response);
    });
    note([&](auto* c) {
      v1::DetokenizeResponse response;
      return stub_->Detokenize(c, {}, &response);
    });
    note([&](auto* c) {
      v1::ListModelsResponse response;
      return models_->ListModels(c, {}, &response);
    });
    note([&](auto* c) {
      v1::GetModelInfoResponse response;
      return models_->GetModelInfo(c, {}, &response);
    });
    note([&](auto* c) {
      v1::GetStatusResponse response;
      return models_->GetStatus(c, {}, &response);
    });
    note([&](auto* c) {
      v1::GetUsageResponse response;
      return admin()->GetUsage(c, {}, &response);
    });
    note([&](auto* c) {
      v1::SetWorkerHoldRequest request;
      request.set_hold(v1::WORKER_HOLD_NONE);
      v1::SetWorkerHoldResponse response;
      return admin()->SetWorkerHold(c, request, &response);
    });
    note([&](auto* c) {
      v1::AdminServiceDeleteTenantRequest request;
      request.set_tenant("nobody");
      v1::AdminServiceDeleteTenantResponse response;
      return admin()->DeleteTenant(c, request, &response);
    });
    return codes;
  }
  std::unique_ptr<v1::AdminService::Stub> admin() { return v1::AdminService::NewStub(channel_); }
  std::string audit() {
    std::ifstream in(path_ + ".audit");
    return {std::istreambuf_iterator<char>(in), {}};
  }

  const std::string path_;
  GatewayLimits limits_;
};

TEST_F(SecurityTest, TheTenantIsThatOfTheKey) {
  StartWithWorker(limits_);
  EXPECT_TRUE(Ask("secret-a").status.ok());
  EXPECT_EQ(worker_->last_request().tenant(), "a");
  EXPECT_EQ(ReasonOf(Ask("secret-a", "b").status), "NOT_ALLOWED");
  EXPECT_EQ(ReasonOf(Ask("", "a").status), "UNAUTHENTICATED");
  const Answer wrong = Ask("secret-c");
  EXPECT_EQ(wrong.status.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(ReasonOf(wrong.status), "UNAUTHENTICATED");
  EXPECT_EQ(worker_->streams(), 1);
  EXPECT_THAT(audit(), HasSubstr("\"reason\":\"UNAUTHENTICATED\""));
}

TEST_F(SecurityTest, NoCallIsLeftOut) {
  StartWithWorker(limits_);
  EXPECT_THAT(EveryCall(""), ::testing::Each(grpc::StatusCode::UNAUTHENTICATED));
  EXPECT_THAT(EveryCall("wrong"), ::testing::Each(grpc::StatusCode::UNAUTHENTICATED));
  // What is allowed gets further: to its own errors.
  std::vector<grpc::StatusCode> codes = EveryCall("secret-b");
  EXPECT_EQ(codes[1], grpc::StatusCode::INVALID_ARGUMENT);
  codes.erase(codes.begin() + 1);
  EXPECT_THAT(codes, ::testing::Each(grpc::StatusCode::PERMISSION_DENIED));
  codes = EveryCall("secret-a");
  EXPECT_THAT(std::vector(codes.end() - 3, codes.end()),
              ::testing::Each(grpc::StatusCode::PERMISSION_DENIED));
  codes.resize(codes.size() - 3);
  EXPECT_THAT(codes, ::testing::Not(::testing::Contains(grpc::StatusCode::PERMISSION_DENIED)));
  EXPECT_THAT(EveryCall("secret-root"),
              ::testing::Not(::testing::Contains(grpc::StatusCode::PERMISSION_DENIED)));
}

TEST_F(SecurityTest, QuotasAreKept) {
  StartWithWorker(limits_);
  EXPECT_TRUE(Ask("secret-b", "", 20).status.ok());
  const Answer over = Ask("secret-b");
  EXPECT_EQ(ReasonOf(over.status), "TENANT_QUOTA");
  EXPECT_TRUE(over.status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  EXPECT_TRUE(Ask("secret-a").status.ok());
}

TEST_F(SecurityTest, UsageIsOfTenants) {
  StartWithWorker(limits_);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Ask("secret-a", "", 5).status.ok());
  const auto context = With("secret-root");
  v1::GetUsageResponse response;
  ASSERT_TRUE(admin()->GetUsage(context.get(), {}, &response).ok());
  ASSERT_EQ(response.tenants_size(), 1);
  EXPECT_EQ(response.tenants(0).tenant(), "a");
  EXPECT_EQ(response.tenants(0).requests(), 2u);
  EXPECT_EQ(response.tenants(0).prompt_tokens(), 4u);
  EXPECT_EQ(response.tenants(0).completion_tokens(), 10u);
}

TEST_F(SecurityTest, AHeldWorkerGetsNoRequests) {
  StartWithWorker(limits_);
  const auto hold = [&](v1::WorkerHold hold, const std::string& address) {
    const auto context = With("secret-root");
    v1::SetWorkerHoldRequest request;
    request.set_address(address);
    request.set_hold(hold);
    v1::SetWorkerHoldResponse response;
    return admin()->SetWorkerHold(context.get(), request, &response).error_code();
  };
  EXPECT_EQ(hold(v1::WORKER_HOLD_CORDONED, worker_->address()), grpc::StatusCode::OK);
  EXPECT_EQ(ReasonOf(Ask("secret-a").status), "NO_WORKER");
  EXPECT_FALSE(Ready());
  EXPECT_EQ(hold(v1::WORKER_HOLD_NONE, worker_->address()), grpc::StatusCode::OK);
  EXPECT_TRUE(Ask("secret-a").status.ok());
  EXPECT_EQ(hold(v1::WORKER_HOLD_NONE, "1.2.3.4:5"), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(audit(),
              HasSubstr(absl::StrCat("\"object\":\"", worker_->address(), " WORKER_HOLD_CORDONED\"")));
}

TEST_F(SecurityTest, DeletingATenantReachesEveryWorker) {
  FakeWorker other;
  worker_ = std::make_unique<FakeWorker>();
  StartGateway({worker_->address(), other.address()}, limits_);
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  const auto erase = [&] {
    const auto context = With("secret-root");
    v1::AdminServiceDeleteTenantRequest request;
    request.set_tenant("a");
    v1::AdminServiceDeleteTenantResponse response;
    EXPECT_TRUE(admin()->DeleteTenant(context.get(), request, &response).ok());
    return response;
  };
  EXPECT_TRUE(Ask("secret-a").status.ok());
  const auto response = erase();
  EXPECT_TRUE(response.complete()) << response.ShortDebugString();
  EXPECT_EQ(response.places_size(), 3);
  EXPECT_THAT(worker_->deleted(), ::testing::ElementsAre("a"));
  EXPECT_THAT(other.deleted(), ::testing::ElementsAre("a"));
  const auto context = With("secret-root");
  v1::GetUsageResponse usage;
  ASSERT_TRUE(admin()->GetUsage(context.get(), {}, &usage).ok());
  EXPECT_EQ(usage.tenants_size(), 0);
  other.Stop();  // cannot be reached: said so
  const auto partly = erase();
  EXPECT_FALSE(partly.complete());
  int failed = 0;
  for (const auto& place : partly.places()) failed += place.deleted() ? 0 : 1;
  EXPECT_EQ(failed, 1);
  EXPECT_THAT(audit(), HasSubstr(R"("event":"tenant_deleted","tenant":"a","complete":"false")"));
}

}  // namespace
}  // namespace clamor
