// Connections to real redis-servers: with passwords, with TLS.
#include "services/session/redis_connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/rpc_error.h"
#include "tests/services/session/redis_server.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;
using testing::RedisServer;
using testing::TempFolder;
using Words = std::vector<std::string>;

class RedisConnectionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
  }
  void Write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  void Shell(const std::string& command) {
    ASSERT_EQ(system(absl::StrCat("cd ", folder_.path(), " && ", command, " >/dev/null 2>&1").c_str()), 0)
        << command;
  }

  const TempFolder folder_;
};

TEST_F(RedisConnectionTest, CarriesAnyBytes) {
  const RedisServer server;
  RedisOptions options{.address = *RedisAddress::Parse(server.url())};
  auto connection = *RedisConnection::Connect(options);
  std::string large(3 << 20, 'x');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * i >> 3);
  EXPECT_TRUE(connection->Command(Words{"SET", "k", large}).ok());
  EXPECT_EQ(connection->Command(Words{"GET", "k"})->text(), large);
  EXPECT_TRUE(connection->Command(Words{"GET", "none"})->is_nil());
  const absl::Status nonsense = connection->Command(Words{"NONSENSE"}).status();
  EXPECT_EQ(nonsense.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(connection->Command(Words{"GET", "k"})->text().size(), large.size()) << "of use after an error";
  options.address.database = 4;
  EXPECT_TRUE((*RedisConnection::Connect(options))->Command(Words{"GET", "k"})->is_nil());
}

TEST_F(RedisConnectionTest, LogsIn) {
  const RedisServer server({"--requirepass", "open sesame", "--user", "me", "on", ">mine", "~*", "+@all"});
  Write("password", "open sesame\n");
  Write("mine", "mine");
  RedisOptions options{.address = *RedisAddress::Parse(server.url())};
  absl::Status refused = RedisConnection::Connect(options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(refused.message(), HasSubstr("NOAUTH"));
  options.password_file = folder_ / "password";
  EXPECT_TRUE(RedisConnection::Connect(options).ok());
  options.password_file = folder_ / "mine";
  refused = RedisConnection::Connect(options).status();
  EXPECT_THAT(refused.message(), HasSubstr("WRONGPASS"));
  EXPECT_THAT(refused.message(), ::testing::Not(HasSubstr("mine")));
  options.address.user = "me";
  EXPECT_TRUE(RedisConnection::Connect(options).ok());
  options.password_file = folder_ / "none";
  EXPECT_THAT(RedisConnection::Connect(options).status().message(), HasSubstr("--sessions-password-file"));
}

TEST_F(RedisConnectionTest, NobodyThere) {
  RedisOptions options{.address =
                           *RedisAddress::Parse(absl::StrCat("redis://127.0.0.1:", RedisServer::FreePort()))};
  EXPECT_EQ(RedisConnection::Connect(options).status().code(), absl::StatusCode::kUnavailable);
  options.address.host = "no-such-host.invalid";
  EXPECT_EQ(RedisConnection::Connect(options).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(RedisConnectionTest, WhoDoesNotAnswerIsGivenUp) {
  const RedisServer server;
  const RedisOptions options{.address = *RedisAddress::Parse(server.url())};
  const auto connection = *RedisConnection::Connect(options);
  server.Pause();
  EXPECT_THAT(connection->Command(Words{"PING"}).status().message(), HasSubstr("no answer within 1s"));
  server.Resume();
}

TEST_F(RedisConnectionTest, AFullMemoryIsAFullStore) {
  const RedisServer server({"--maxmemory", "1mb"});
  auto connection = *RedisConnection::Connect({.address = *RedisAddress::Parse(server.url())});
  absl::Status status;
  for (int i = 0; status.ok() && i < 100; ++i)
    status = connection->Command(Words{"SET", absl::StrCat(i), std::string(100'000, 'x')}).status();
  EXPECT_EQ(ReasonOf(status), "STORE_FULL");
}

TEST_F(RedisConnectionTest, TlsTrustsNobodyElse) {
  const auto sign = [this](const std::string& name, const std::string& subject, int days) {
    Shell(absl::StrCat("openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ", name,
                       ".key -out ", name, ".csr -subj /CN=x && echo subjectAltName=", subject, " >", name,
                       ".ext && openssl x509 -req -in ", name,
                       ".csr -CA ca.crt -CAkey ca.key -CAcreateserial -days ", days, " -extfile ", name,
                       ".ext -out ", name, ".crt"));
  };
  for (const char* ca : {"ca", "other"})
    Shell(absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=", ca,
        " -keyout ", ca, ".key -out ", ca, ".crt"));
  sign("good", "IP:127.0.0.1,DNS:localhost", 2);
  sign("elsewhere", "DNS:elsewhere.example", 2);
  sign("expired", "IP:127.0.0.1,DNS:localhost", -1);
  const auto serve = [this](const std::string& name, int port) {
    return std::make_unique<RedisServer>(Words{
        "--tls-port", absl::StrCat(port), "--tls-cert-file", folder_ / (name + ".crt"), "--tls-key-file",
        folder_ / (name + ".key"), "--tls-ca-cert-file", folder_ / "ca.crt", "--tls-auth-clients", "no"});
  };
  const int port = RedisServer::FreePort();
  auto server = serve("good", port);
  RedisOptions options{.address = *RedisAddress::Parse(absl::StrCat("rediss://127.0.0.1:", port, "/1")),
                       .ca_file = folder_ / "ca.crt"};
  auto connection = RedisConnection::Connect(options);
  ASSERT_TRUE(connection.ok()) << connection.status();
  const std::string large(2 << 20, 'x');
  EXPECT_TRUE((*connection)->Command(Words{"SET", "k", large}).ok());
  EXPECT_EQ((*connection)->Command(Words{"GET", "k"})->text(), large);
  options.address.host = "localhost";
  EXPECT_TRUE(RedisConnection::Connect(options).ok());

  options.ca_file = folder_ / "other.crt";
  EXPECT_THAT(RedisConnection::Connect(options).status().message(), HasSubstr("its certificate"));
  options.ca_file = "";  // the system's
  EXPECT_THAT(RedisConnection::Connect(options).status().message(), HasSubstr("its certificate"));
  options.ca_file = folder_ / "none.crt";
  EXPECT_THAT(RedisConnection::Connect(options).status().message(), HasSubstr("--sessions-ca"));
  options.ca_file = folder_ / "ca.crt";
  options.address.port = absl::StrCat(server->port());  // without TLS
  options.timeout = absl::Milliseconds(300);
  EXPECT_EQ(RedisConnection::Connect(options).status().code(), absl::StatusCode::kUnavailable);
  options.address.tls = false;
  options.address.port = absl::StrCat(port);
  EXPECT_EQ(RedisConnection::Connect(options).status().code(), absl::StatusCode::kUnavailable);

  options.address.tls = true;
  options.timeout = absl::Seconds(1);
  for (const char* name : {"elsewhere", "expired"}) {
    server = nullptr;
    server = serve(name, port);
    EXPECT_THAT(RedisConnection::Connect(options).status().message(), HasSubstr("its certificate")) << name;
  }
}

}  // namespace
}  // namespace clamor
