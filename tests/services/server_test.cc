#include "services/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "prometheus/counter.h"
#include "tests/services/child_process.h"
#include "tests/services/http_get.h"

namespace clamor {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using testing::AwaitPortFile;
using testing::ChildProcess;
using ::testing::HasSubstr;
using testing::HttpGet;

// GetStats waits for `release` or its own cancellation.
class SlowService final : public v1::RetrievalService::Service {
 public:
  grpc::Status GetStats(grpc::ServerContext* context, const v1::GetStatsRequest*,
                        v1::GetStatsResponse*) override {
    entered.Notify();
    while (!release.WaitForNotificationWithTimeout(absl::Milliseconds(5))) {
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
    }
    return grpc::Status::OK;
  }
  absl::Notification entered, release;
};

class ServerTest : public ::testing::Test {
 protected:
  void Start(double grace_seconds = 10, bool sends_clients_away = false) {
    const ServicePart parts[] = {{v1::RetrievalService::service_full_name(), &service_}};
    auto server = Server::Start({.name = "clamor-test",
                                 .listen = "127.0.0.1:0",
                                 .http = "127.0.0.1:0",
                                 .grace_seconds = grace_seconds,
                                 .sends_clients_away = sends_clients_away},
                                parts, &registry_, [this] { ++scrapes_; });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->grpc_address(), grpc::InsecureChannelCredentials());
    runner_ = std::thread([this] { server_->Run([this] { drained_ = true; }); });
  }
  void TearDown() override {
    if (!runner_.joinable()) return;
    server_->Stop();
    runner_.join();
  }
  grpc::Status GetStats() {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    return v1::RetrievalService::NewStub(channel_)->GetStats(&context, {}, &response);
  }

  SlowService service_;
  prometheus::Registry registry_;
  std::atomic<int> scrapes_ = 0;
  std::atomic<bool> drained_ = false;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::thread runner_;
};

TEST_F(ServerTest, HealthWatchFollowsReadinessUntilTheEnd) {
  Start();
  for (const std::string name : {"", "clamor.v1.RetrievalService"}) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    auto watch = Health::NewStub(channel_)->Watch(&context, request);
    ASSERT_TRUE(watch->Read(&response));
    EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
    EXPECT_EQ(HttpGet(server_->http_address(), "/readyz").status, 503);
    server_->SetReady(true);
    ASSERT_TRUE(watch->Read(&response));
    EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
    EXPECT_EQ(HttpGet(server_->http_address(), "/readyz").status, 200);
    server_->SetReady(false);
    ASSERT_TRUE(watch->Read(&response));
    EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
    context.TryCancel();
  }
  server_->SetReady(true);
  grpc::ClientContext context;
  HealthCheckResponse response;
  auto watch = Health::NewStub(channel_)->Watch(&context, {});
  ASSERT_TRUE(watch->Read(&response));
  server_->Stop();  // the open watch hears of it and does not hold it up
  const absl::Time start = absl::Now();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  runner_.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_TRUE(drained_);
}

TEST_F(ServerTest, SendsClientsAwayBeforeItsLastCallEnds) {
  Start(/*grace_seconds=*/60, /*sends_clients_away=*/true);
  grpc::Status status = grpc::Status::CANCELLED;
  std::thread call([&] { status = GetStats(); });
  service_.entered.WaitForNotification();
  ASSERT_EQ(channel_->GetState(false), GRPC_CHANNEL_READY);
  server_->Stop();
  const auto soon = [] { return std::chrono::system_clock::now() + std::chrono::seconds(20); };
  EXPECT_TRUE(channel_->WaitForStateChange(GRPC_CHANNEL_READY, soon())) << "its connection is given up";
  const auto late = grpc::CreateChannel(server_->grpc_address(), grpc::InsecureChannelCredentials());
  for (auto state = late->GetState(true); state != GRPC_CHANNEL_TRANSIENT_FAILURE;
       state = late->GetState(true)) {
    ASSERT_NE(state, GRPC_CHANNEL_READY);
    ASSERT_TRUE(late->WaitForStateChange(state, soon()));
  }
  EXPECT_EQ(HttpGet(server_->http_address(), "/healthz").status, 200) << "it still lives";
  service_.release.Notify();
  call.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  runner_.join();
}

TEST_F(ServerTest, HealthOfAnUnknownService) {
  Start();
  grpc::ClientContext check_context, watch_context;
  HealthCheckRequest request;
  request.set_service("clamor.v1.NoSuchService");
  HealthCheckResponse response;
  EXPECT_EQ(Health::NewStub(channel_)->Check(&check_context, request, &response).error_code(),
            grpc::NOT_FOUND);
  auto watch = Health::NewStub(channel_)->Watch(&watch_context, request);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  watch_context.TryCancel();
}

TEST_F(ServerTest, ReflectionListsOurServices) {
  Start();
  // ServerReflectionRequest{list_services: "*"}, by hand: no generated code of reflection is installed.
  grpc::Slice bytes("\x3a\x01*", 3);
  grpc::ByteBuffer request(&bytes, 1), response;
  grpc::ClientContext context;
  grpc::GenericStub stub(channel_);
  absl::Notification done;
  grpc::Status status;
  stub.UnaryCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", {}, &request,
                 &response, [&](grpc::Status s) {
                   status = std::move(s);
                   done.Notify();
                 });
  done.WaitForNotification();
  ASSERT_TRUE(status.ok()) << status.error_message();
  grpc::Slice reply;
  ASSERT_TRUE(response.DumpToSingleSlice(&reply).ok());
  EXPECT_THAT(std::string(reply.begin(), reply.end()), HasSubstr("clamor.v1.RetrievalService"));
}

TEST_F(ServerTest, MetricsAndLiveness) {
  Start();
  prometheus::BuildCounter()
      .Name("clamor_test_total")
      .Help("x")
      .Register(registry_)
      .Add({{"reason", "A"}})
      .Increment(3);
  EXPECT_EQ(HttpGet(server_->http_address(), "/healthz").status, 200);
  const auto metrics = HttpGet(server_->http_address(), "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_THAT(metrics.body, HasSubstr("clamor_test_total{reason=\"A\"} 3"));
  EXPECT_EQ(scrapes_, 1);
  EXPECT_EQ(HttpGet(server_->http_address(), "/etc/passwd").status, 404);
}

TEST_F(ServerTest, DrainWaitsForRunningCalls) {
  Start();
  grpc::Status status;
  std::thread caller([&] { status = GetStats(); });
  service_.entered.WaitForNotification();
  server_->Stop();
  while (!drained_) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(HttpGet(server_->http_address(), "/readyz").status, 503);
  server_->SetReady(true);  // too late
  EXPECT_EQ(HttpGet(server_->http_address(), "/readyz").status, 503);
  service_.release.Notify();
  caller.join();
  runner_.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ServerTest, GraceTimeEnds) {
  Start(/*grace_seconds=*/0.2);
  grpc::Status status;
  std::thread caller([&] { status = GetStats(); });
  service_.entered.WaitForNotification();
  const absl::Time start = absl::Now();
  server_->Stop();
  runner_.join();
  caller.join();
  EXPECT_FALSE(status.ok());
  EXPECT_GE(absl::Now() - start, absl::Seconds(0.2));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(ServerTest, PortsThatAreTakenAreNamed) {
  Start();
  const ServicePart parts[] = {{v1::RetrievalService::service_full_name(), &service_}};
  auto grpc_taken = Server::Start({.name = "b", .listen = server_->grpc_address(), .http = "127.0.0.1:0"},
                                  parts, &registry_);
  EXPECT_THAT(std::string(grpc_taken.status().message()), HasSubstr("--listen"));
  EXPECT_THAT(std::string(grpc_taken.status().message()), HasSubstr(server_->grpc_address()));
  auto http_taken = Server::Start({.name = "b", .listen = "127.0.0.1:0", .http = server_->http_address()},
                                  parts, &registry_);
  EXPECT_THAT(std::string(http_taken.status().message()), HasSubstr("--http"));
  auto no_folder = Server::Start(
      {.name = "b", .listen = "127.0.0.1:0", .http = "127.0.0.1:0", .port_file = "/does/not/exist"}, parts,
      &registry_);
  EXPECT_THAT(std::string(no_folder.status().message()), HasSubstr("/does/not/exist"));
}

// A line of the Prometheus text format that is neither a comment nor empty.
bool IsSample(const std::string& line) {
  static const std::regex sample(
      R"re([a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (-?[0-9.eE+-]+|\+Inf|NaN))re");
  return std::regex_match(line, sample);
}

TEST(ServerBinaryTest, StartsAnswersAndEndsOnSigterm) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "server_binary_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const std::string port_file = folder / "ports";
  ChildProcess server({CLAMOR_RETRIEVAL, "--store", folder / "store", "--listen", "127.0.0.1:0", "--http",
                       "127.0.0.1:0", "--port-file", port_file});
  auto ports = AwaitPortFile(port_file);
  ASSERT_EQ(ports.size(), 2u);
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (HttpGet(ports["http"], "/readyz").status != 200 && absl::Now() < deadline)
    absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(HttpGet(ports["http"], "/readyz").status, 200);
  std::istringstream metrics(HttpGet(ports["http"], "/metrics").body);
  int samples = 0;
  for (std::string line; std::getline(metrics, line);) {
    if (line.empty() || line[0] == '#') continue;
    EXPECT_TRUE(IsSample(line)) << line;
    ++samples;
  }
  EXPECT_GT(samples, 10);
  auto channel = grpc::CreateChannel(ports["grpc"], grpc::InsecureChannelCredentials());
  grpc::ClientContext context;
  HealthCheckResponse response;
  auto watch = Health::NewStub(channel)->Watch(&context, {});
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server.Signal(SIGTERM);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(server.Wait(), 0);
}

}  // namespace
}  // namespace clamor
