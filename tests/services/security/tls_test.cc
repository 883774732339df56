// Real handshakes with certificates that openssl makes here: who is let in, who is not, and what a rotation
// does to those who are inside.
#include "services/security/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "prometheus/registry.h"
#include "services/security/authenticator.h"
#include "services/server.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;

// Tells who calls: the first name of the certificate.
class WhoService final : public v1::RetrievalService::Service {
 public:
  grpc::Status Checkpoint(grpc::ServerContext* context, const v1::CheckpointRequest*,
                          v1::CheckpointResponse* response) override {
    const Credentials credentials = CredentialsOf(*context);
    response->set_path(credentials.certificate_names.empty() ? "-" : credentials.certificate_names[0]);
    return grpc::Status::OK;
  }
};

class TlsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = ::testing::TempDir() + "tls-" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
    MakeAuthority("ca");
    MakeAuthority("other-ca");
    Make("server", "ca", "DNS:localhost,IP:127.0.0.1");
    Make("client", "ca", "DNS:client.example,URI:spiffe://example/client");
    Make("stranger", "other-ca", "DNS:localhost,IP:127.0.0.1");
    Make("elsewhere", "ca", "DNS:elsewhere.example");
    Make("late", "ca", "DNS:localhost,IP:127.0.0.1", -1);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  static void Run(const std::string& command) {
    ASSERT_EQ(std::system(absl::StrCat("cd ", folder_, " && ", command, " >openssl.log 2>&1").c_str()), 0)
        << command;
  }
  static void MakeAuthority(const std::string& name) {
    Run(absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=", name,
        " -keyout ", name, ".key -out ", name, ".pem"));
  }
  // A certificate for `days` days; negative: one whose time is over.
  static void Make(const std::string& name, const std::string& authority, const std::string& names,
                   int days = 2) {
    std::ofstream(absl::StrCat(folder_, "/", name, ".ext")) << "subjectAltName=" << names << "\n";
    Run(absl::StrCat("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=", name,
                     " -keyout ", name, ".key -out ", name, ".csr"));
    Run(absl::StrCat("openssl x509 -req -in ", name, ".csr -CA ", authority, ".pem -CAkey ", authority,
                     ".key -CAcreateserial -days ", days, " -extfile ", name, ".ext -out ", name, ".pem"));
  }
  static std::string File(const std::string& name) { return absl::StrCat(folder_, "/", name); }
  static TlsOptions Shows(const std::string& name, TlsOptions tls = {}) {
    tls.certificate = File(name + ".pem");
    tls.key = File(name + ".key");
    return tls;
  }

  void Start(const TlsOptions& tls, const std::string& health = "") {
    const ServicePart parts[] = {{v1::RetrievalService::service_full_name(), &service_}};
    auto server = Server::Start(
        {.name = "test", .listen = "127.0.0.1:0", .http = "127.0.0.1:0", .health = health, .tls = tls}, parts,
        &registry_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  static std::shared_ptr<grpc::Channel> NewChannel(const std::string& address, const TlsOptions& tls) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address, ChannelCredentialsOf(tls), arguments);
  }
  static grpc::Status Ask(const std::shared_ptr<grpc::Channel>& channel, std::string* who) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::CheckpointResponse response;
    const grpc::Status status = v1::RetrievalService::NewStub(channel)->Checkpoint(&context, {}, &response);
    *who = response.path();
    return status;
  }
  // Who the server takes the caller for; "refused" if there is no connection.
  std::string WhoAmI(const TlsOptions& tls) {
    std::string who;
    const grpc::Status status = Ask(NewChannel(server_->grpc_address(), tls), &who);
    if (status.ok()) return who;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
    return "refused";
  }

  static std::string folder_;
  WhoService service_;
  prometheus::Registry registry_;
  std::unique_ptr<Server> server_;
};

std::string TlsTest::folder_;

TEST_F(TlsTest, AClientBelievesOnlyItsAuthorityAndTheRightName) {
  Start(Shows("server"));
  EXPECT_EQ(WhoAmI({.ca = File("ca.pem")}), "-");
  EXPECT_EQ(WhoAmI({.ca = File("other-ca.pem")}), "refused");
  EXPECT_EQ(WhoAmI({}), "refused");  // plaintext
  for (const char* wrong : {"elsewhere", "stranger", "late"}) {
    server_.reset();
    Start(Shows(wrong));
    EXPECT_EQ(WhoAmI({.ca = File("ca.pem")}), "refused") << wrong;
  }
  server_.reset();
  Start({});
  EXPECT_EQ(WhoAmI({.ca = File("ca.pem")}), "refused");  // TLS to a plaintext port
}

TEST_F(TlsTest, AServerLetsInOnlyClientsOfItsAuthority) {
  Start(Shows("server", {.client_ca = File("ca.pem")}));
  const TlsOptions believes = {.ca = File("ca.pem")};
  EXPECT_EQ(WhoAmI(Shows("client", believes)), "client.example");
  EXPECT_EQ(WhoAmI(believes), "refused");  // shows nothing
  EXPECT_EQ(WhoAmI(Shows("stranger", believes)), "refused");
  EXPECT_EQ(WhoAmI(Shows("late", believes)), "refused");
  EXPECT_EQ(WhoAmI({}), "refused");
}

TEST_F(TlsTest, VersionsBefore12AreRefused) {
  Start(Shows("server"));
  const auto handshake = [&](const std::string& version) {
    return std::system(absl::StrCat("openssl s_client -connect ", server_->grpc_address(), " ", version,
                                    " -alpn h2 -cipher 'ALL:@SECLEVEL=0' -CAfile ", File("ca.pem"),
                                    " </dev/null >", File("s_client.log"), " 2>&1")
                           .c_str());
  };
  EXPECT_EQ(handshake("-tls1_2"), 0);
  EXPECT_EQ(handshake("-tls1_3"), 0);
  EXPECT_NE(handshake("-tls1_1"), 0);
  EXPECT_NE(handshake("-tls1"), 0);
}

TEST_F(TlsTest, ProbesNeedNoCertificate) {
  using grpc::health::v1::HealthCheckResponse;
  Start(Shows("server", {.client_ca = File("ca.pem")}), "127.0.0.1:0");
  const auto channel = NewChannel(server_->health_address(), {});
  const auto check = [&](const std::string& service) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    const grpc::Status status =
        grpc::health::v1::Health::NewStub(channel)->Check(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.status();
  };
  EXPECT_EQ(check("clamor.v1.RetrievalService"), HealthCheckResponse::NOT_SERVING);
  server_->SetReady(true);
  EXPECT_EQ(check("clamor.v1.RetrievalService"), HealthCheckResponse::SERVING);
  EXPECT_EQ(check(""), HealthCheckResponse::SERVING);
  std::string who;
  EXPECT_EQ(Ask(channel, &who).error_code(), grpc::StatusCode::UNIMPLEMENTED);  // nothing else is there
}

// Server, clients and authority change their certificates while calls come in: those inside go on, and who
// comes later is judged by the new ones.
TEST_F(TlsTest, RotationUnderLoad) {
  const auto copy = [](const std::string& from, const std::string& to) {
    for (const char* ending : {".pem", ".key"}) {
      std::filesystem::copy_file(File(from + ending), File(to + ending + ".new"),
                                 std::filesystem::copy_options::overwrite_existing);
      std::filesystem::rename(File(to + ending + ".new"), File(to + ending));
    }
  };
  copy("server", "live");
  copy("ca", "live-ca");
  Start(Shows("live", {.client_ca = File("live-ca.pem")}));
  const TlsOptions before = Shows("client", {.ca = File("ca.pem")});
  const TlsOptions after = Shows("stranger", {.ca = File("other-ca.pem")});
  EXPECT_EQ(WhoAmI(after), "refused");

  std::atomic<bool> stop = false;
  std::atomic<int> calls = 0, failures = 0;
  std::thread inside([&, channel = NewChannel(server_->grpc_address(), before)] {
    for (std::string who; !stop; ++calls) failures += Ask(channel, &who).ok() ? 0 : 1;
  });
  copy("stranger", "live");  // of the other authority
  copy("other-ca", "live-ca");
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (WhoAmI(after) == "refused" && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(50));
  const int calls_then = calls;
  EXPECT_EQ(WhoAmI(after), "localhost");
  EXPECT_EQ(WhoAmI(before), "refused");
  while (calls < calls_then + 5 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  stop = true;
  inside.join();
  EXPECT_GE(calls, calls_then + 5);
  EXPECT_EQ(failures, 0);
}

TEST_F(TlsTest, MistakesShowAtTheStart) {
  const std::pair<TlsOptions, const char*> wrong[] = {
      {{.certificate = File("none.pem"), .key = File("server.key")}, "--tls-cert"},
      {{.certificate = File("server.key"), .key = File("server.key")}, "has no PEM certificate"},
      {{.certificate = File("server.pem"), .key = File("client.key")}, "--tls-key"},
      {{.certificate = File("server.pem"), .key = File("none.key")}, "--tls-key"},
      {{.ca = File("none.pem")}, "--tls-ca"},
      {Shows("server", {.client_ca = File("server.key")}), "--tls-client-ca"}};
  for (const auto& [tls, problem] : wrong) {
    EXPECT_THAT(std::string(CheckTls(tls).message()), HasSubstr(problem));
  }
  EXPECT_TRUE(CheckTls(Shows("late", {.ca = File("ca.pem"), .client_ca = File("ca.pem")})).ok());
  EXPECT_TRUE(CheckTls({}).ok());
}

}  // namespace
}  // namespace clamor
