#include "services/gateway/worker_discovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "absl/synchronization/notification.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using testing::Eventually;
using testing::FakeWorker;
using ::testing::HasSubstr;

TEST(WorkerEntryTest, Forms) {
  EXPECT_FALSE(ParseWorkerEntry("a.example:77")->is_name);
  EXPECT_EQ(ParseWorkerEntry("[::1]:77")->host, "[::1]");
  for (const char* name : {"dns:///w.ns.svc:7710", "dns:w.ns.svc:7710"}) {
    const auto entry = ParseWorkerEntry(name);
    ASSERT_TRUE(entry.ok()) << entry.status();
    EXPECT_TRUE(entry->is_name);
    EXPECT_EQ(entry->host, "w.ns.svc");
    EXPECT_EQ(entry->port, "7710");
  }
  for (const char* wrong : {"", "a", ":7", "a:", "a:0", "a:70000", "dns://8.8.8.8/a:1", "http://a:1"}) {
    EXPECT_FALSE(ParseWorkerEntry(wrong).ok()) << wrong;
  }
}

class DiscoveryTest : public testing::GatewayTest {
 protected:
  std::vector<std::string> Addresses() {
    std::vector<std::string> addresses;
    v1::GetStatusResponse response;
    grpc::ClientContext context;
    models_->GetStatus(&context, {}, &response);
    for (const auto& worker : response.workers()) addresses.push_back(worker.address());
    return addresses;
  }
  bool BothAreReady() {
    v1::GetStatusResponse response;
    grpc::ClientContext context;
    models_->GetStatus(&context, {}, &response);
    return response.workers_size() == 2 && response.workers(0).state() == v1::WORKER_STATE_READY &&
           response.workers(1).state() == v1::WORKER_STATE_READY;
  }
};

TEST_F(DiscoveryTest, FollowsAFile) {
  const std::string path = ::testing::TempDir() + "workers-" + std::to_string(getpid());
  FakeWorker a, b;
  std::ofstream(path) << "# workers\n" << a.address() << "\n";
  GatewayLimits limits;
  limits.discovery = {.file = path, .every = absl::Milliseconds(20)};
  StartGateway({}, limits);
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  EXPECT_THAT(Addresses(), ElementsAre(a.address()));

  // A stream of the one that goes ends there, since the other begins only later.
  absl::Notification release;
  a.SetScript([&](auto& context, const auto& request, auto& writer) {
    FakeWorker::WriteStarted(writer, request);
    release.WaitForNotification();
    for (uint32_t i = 0; i < 3; ++i) FakeWorker::WriteDelta(writer, i, 1, "x");
    FakeWorker::WriteFinished(writer);
    return context.IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
  });
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 3));
  ASSERT_TRUE(Eventually([&] { return a.streams() == 1; }));
  std::ofstream(path) << "\n";
  EXPECT_TRUE(Eventually([&] { return Addresses().empty() && !Ready(); }));
  release.Notify();
  EXPECT_EQ(ReadAll(*reader).ids.size(), 3u);

  std::ofstream(path) << b.address() << "\n";
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  EXPECT_THAT(Addresses(), ElementsAre(b.address()));
  EXPECT_TRUE(Stream(IdsRequest({1}, 1)).status.ok());
  EXPECT_EQ(b.streams(), 1);
  // The series of those that went are gone as well.
  const std::string metrics = testing::HttpGet(gateway_->server().http_address(), "/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("clamor_gateway_worker_up{worker=\"" + b.address()));
  EXPECT_THAT(metrics, ::testing::Not(HasSubstr("worker=\"" + a.address())));
  std::filesystem::remove(path);
}

TEST_F(DiscoveryTest, FollowsAName) {
  FakeWorker a, b;
  struct Answer {
    absl::Mutex mu;
    absl::StatusOr<std::vector<std::string>> addresses;
  };
  const auto answer = std::make_shared<Answer>();  // the gateway outlives this function
  const auto set = [answer](const absl::StatusOr<std::vector<std::string>>& addresses) {
    absl::MutexLock lock(&answer->mu);
    answer->addresses = addresses;
  };
  set(std::vector<std::string>{a.address()});
  GatewayLimits limits;
  limits.discovery.every = absl::Milliseconds(10);
  limits.discovery.resolve = [answer](const std::string& name, const std::string& port) {
    EXPECT_EQ(name + " " + port, "workers.example 7710");
    absl::MutexLock lock(&answer->mu);
    return answer->addresses;
  };
  StartGateway({"dns:///workers.example:7710"}, limits);
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  set(std::vector<std::string>{a.address(), b.address()});
  EXPECT_TRUE(Eventually([&] { return Addresses().size() == 2; }));
  set(absl::UnavailableError("no such name"));  // what is known stays
  set(std::vector<std::string>{b.address()});
  EXPECT_TRUE(Eventually([&] { return Addresses() == std::vector<std::string>{b.address()}; }));
  EXPECT_TRUE(Eventually([&] { return Stream(IdsRequest({1}, 1)).status.ok(); }));
  EXPECT_EQ(b.streams(), 1);
}

TEST_F(DiscoveryTest, LocalhostIsAName) {
  FakeWorker a;
  StartGateway({"dns:///localhost:" + std::to_string(a.port())});
  EXPECT_TRUE(Eventually([&] { return Ready(); }));
}

// A worker that breaks what it is given is kept away from, but tried again now and then.
TEST_F(DiscoveryTest, AFailingWorkerIsEjectedAndComesBack) {
  FakeWorker good, bad;
  std::atomic<bool> broken = true;
  bad.SetScript([&](auto& context, const auto& request, auto& writer) {
    return broken ? grpc::Status(grpc::StatusCode::INTERNAL, "broken")
                  : FakeWorker::Echo(context, request, writer);
  });
  StartGateway({good.address(), bad.address()});
  ASSERT_TRUE(Eventually([&] { return BothAreReady(); }));
  int failed = 0;
  for (int i = 0; i < 60; ++i) failed += Stream(IdsRequest({1}, 1)).status.ok() ? 0 : 1;
  EXPECT_GE(failed, 3);
  EXPECT_LE(failed, 15);  // and a probe now and then, of thirty that would be its part
  const auto open = [&] {
    const std::string text = testing::HttpGet(gateway_->server().http_address(), "/metrics").body;
    return text.find("clamor_gateway_breaker_open{worker=\"" + bad.address() + "\"} 1") != text.npos;
  };
  broken = false;
  const int before = bad.streams();
  EXPECT_TRUE(
      Eventually([&] { return Stream(IdsRequest({1}, 1)).status.ok() && bad.streams() >= before + 3; }));
  EXPECT_FALSE(open());
}

// One that breaks the streams that it is given, though it answers whoever asks how it is: requests go on
// elsewhere, and it costs them few attempts however slowly they come.
TEST_F(DiscoveryTest, AWorkerThatBreaksStreamsCostsFewAttempts) {
  FakeWorker good, bad;
  bad.SetScript(
      [](auto&, const auto&, auto&) { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone"); });
  StartGateway({good.address(), bad.address()});
  constexpr int kRequests = 100;
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(Eventually([&] { return BothAreReady(); }));
    EXPECT_TRUE(Stream(IdsRequest({1}, 1)).status.ok());
  }
  EXPECT_GE(bad.streams(), 3);
  EXPECT_LE(good.streams() + bad.streams(), kRequests * 11 / 10);
}

}  // namespace
}  // namespace clamor
