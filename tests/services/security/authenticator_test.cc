#include "services/security/authenticator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;

std::string HashOf(const std::string& key) {
  const Sha256 hash = Sha256Of(key);
  return absl::BytesToHexString({reinterpret_cast<const char*>(hash.data()), hash.size()});
}

TEST(KeyFileTest, ReadsKeysCertificatesAndTenants) {
  EXPECT_EQ(HashOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-2
  const auto file = ParseKeyFile(absl::StrCat(
      "# who\n\nkey ", HashOf("a"), " acme\n  key\t", HashOf("b"),
      " acme methods=Chat,StreamChat # chats only\r\n", "certificate spiffe://x/y globex methods=*\n",
      "tenant acme tokens-per-second=2.5 burst-tokens=100\n", "tenant * requests=3"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->keys.size(), 2u);
  EXPECT_EQ(file->keys[0].hash, Sha256Of("a"));
  EXPECT_EQ(file->keys[0].grant.tenant, "acme");
  EXPECT_THAT(file->keys[1].grant.methods, ::testing::ElementsAre("Chat", "StreamChat"));
  EXPECT_TRUE(file->certificates.at("spiffe://x/y").everything);
  EXPECT_EQ(file->quotas.at("acme"), (Quota{.tokens_per_second = 2.5, .burst_tokens = 100}));
  EXPECT_EQ(file->quotas.at("*"), (Quota{.requests = 3}));
}

TEST(KeyFileTest, ErrorsNameTheLine) {
  const std::string hash = HashOf("a");
  const std::pair<std::string, const char*> wrong[] = {
      {"\nkeys x y", "line 2 must be"},
      {"key " + hash, "line 1 must be"},
      {"key 123 acme", "a hash of 3 characters"},
      {"key " + std::string(64, 'g') + " acme", "must be 64 hex digits"},
      {"key " + hash + " a/b", "tenant has characters"},
      {"key " + hash + " acme requests=1", "does not know \"requests=1\""},
      {"key " + hash + " a\nkey " + hash + " b", "line 2 has the hash of a line before"},
      {"tenant acme requests=1.5", "does not know \"requests=1.5\""},
      {"tenant acme requests=", "does not know"},
      {"tenant acme tokens-per-second=-1", "does not know"},
      {"tenant acme tokens-per-second=nan", "does not know"},
      {"tenant acme\ntenant acme", "line 2 is the second for tenant acme"},
      {"certificate x a\ncertificate x b", "the second for certificate x"}};
  for (const auto& [text, problem] : wrong) {
    EXPECT_THAT(std::string(ParseKeyFile(text).status().message()), HasSubstr(problem)) << text;
  }
  std::string many;
  for (size_t i = 0; i <= KeyFile::kMaxLines; ++i) absl::StrAppend(&many, "tenant t", i, "\n");
  EXPECT_THAT(std::string(ParseKeyFile(many).status().message()), HasSubstr("limit of 4096"));
}

TEST(AuthenticatorTest, WithoutAFileEverybodyIsWhoTheySay) {
  const Authenticator open;
  EXPECT_EQ(open.Identify({}, "Chat")->tenant, "default");
  EXPECT_EQ(open.Identify({.authorization = "Bearer x", .tenant = "a"}, "DeleteTenant")->tenant, "a");
  EXPECT_EQ(ReasonOf(open.Identify({.tenant = "a b"}, "Chat").status()), "INVALID_FIELD");
  EXPECT_EQ(open.QuotaOf("a"), Quota());
}

class KeysTest : public ::testing::Test {
 protected:
  KeysTest()
      : path_(::testing::TempDir() + "keys-" + std::to_string(getpid())),
        audit_path_(path_ + ".audit"),
        audit_(*AuditLog::Open(audit_path_)) {
    Write(absl::StrCat("key ", HashOf("secret-a"), " a\nkey ", HashOf("secret-b"), " b methods=Chat\nkey ",
                       HashOf("secret-root"), " root methods=*\ncertificate client.example c\n",
                       "tenant a requests=7\ntenant * requests=2\n"));
    authenticator_ = *Authenticator::Open(path_, audit_.get());
  }
  ~KeysTest() override {
    std::filesystem::remove(path_);
    std::filesystem::remove(audit_path_);
  }
  void Write(const std::string& content) { std::ofstream(path_, std::ios::binary) << content; }
  // The tenant, or the reason why not.
  std::string Ask(const Credentials& credentials, const char* method = "Chat") {
    const auto identity = authenticator_->Identify(credentials, method);
    return identity.ok() ? identity->tenant : std::string(ReasonOf(identity.status()));
  }
  std::string audit() {
    std::ifstream in(audit_path_);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  const std::string path_, audit_path_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<Authenticator> authenticator_;
};

TEST_F(KeysTest, TheTenantFollowsFromTheKeyAlone) {
  EXPECT_EQ(Ask({.authorization = "Bearer secret-a"}), "a");
  EXPECT_EQ(Ask({.authorization = "bearer secret-b"}), "b");
  EXPECT_EQ(Ask({.authorization = "Bearer secret-a", .tenant = "a"}), "a");
  EXPECT_EQ(Ask({.authorization = "Bearer secret-a", .tenant = "b"}), "NOT_ALLOWED");
  EXPECT_EQ(Ask({.tenant = "a"}), "UNAUTHENTICATED");
  EXPECT_EQ(Ask({}), "UNAUTHENTICATED");
  for (const char* wrong : {"secret-a", "Basic secret-a", "Bearer ", "Bearer secret-", "Bearer secret-aa",
                            "Bearer  secret-a", "Bearer SECRET-A"}) {
    EXPECT_EQ(Ask({.authorization = wrong}), "UNAUTHENTICATED") << wrong;
  }
  EXPECT_EQ(Ask({.authorization = "Bearer " + HashOf("secret-a")}), "UNAUTHENTICATED");
  EXPECT_EQ(Ask({.authorization = "Bearer " + std::string(1 << 20, 'x')}), "UNAUTHENTICATED");
}

TEST_F(KeysTest, ACertificateIsATenantToo) {
  EXPECT_EQ(Ask({.certificate_names = {"other", "client.example"}}), "c");
  EXPECT_EQ(Ask({.certificate_names = {"other"}}), "UNAUTHENTICATED");
  EXPECT_EQ(Ask({.authorization = "Bearer secret-a", .certificate_names = {"client.example"}}), "a");
  EXPECT_EQ(Ask({.authorization = "Bearer wrong", .certificate_names = {"client.example"}}),
            "UNAUTHENTICATED");
}

TEST_F(KeysTest, MethodsAreGranted) {
  EXPECT_EQ(Ask({.authorization = "Bearer secret-a"}, "StreamGenerate"), "a");
  EXPECT_EQ(Ask({.authorization = "Bearer secret-a"}, "DeleteTenant"), "NOT_ALLOWED");
  EXPECT_EQ(Ask({.authorization = "Bearer secret-b"}, "StreamGenerate"), "NOT_ALLOWED");
  EXPECT_EQ(Ask({.authorization = "Bearer secret-root"}, "DeleteTenant"), "root");
}

TEST_F(KeysTest, QuotasAreOfTenants) {
  EXPECT_EQ(authenticator_->QuotaOf("a").requests, 7);
  EXPECT_EQ(authenticator_->QuotaOf("b").requests, 2);
}

TEST_F(KeysTest, AChangedFileTakesEffect) {
  Write("nonsense\n");  // is not taken: the old keys stay
  const auto eventually = [](auto condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (!condition() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(10));
    return condition();
  };
  Write(absl::StrCat("key ", HashOf("secret-new"), " a\n"));
  EXPECT_TRUE(eventually([&] { return Ask({.authorization = "Bearer secret-new"}) == "a"; }));
  EXPECT_EQ(Ask({.authorization = "Bearer secret-a"}), "UNAUTHENTICATED");
}

TEST_F(KeysTest, RefusalsAreAuditedWithoutTheKey) {
  Ask({.authorization = "Bearer secret-wrong", .peer = "ipv4:1.2.3.4:5"});
  Ask({.authorization = "Bearer secret-b"}, "StreamGenerate");
  EXPECT_THAT(audit(), HasSubstr(R"("event":"refused","method":"Chat","reason":"UNAUTHENTICATED")"));
  EXPECT_THAT(audit(), HasSubstr("1.2.3.4"));
  EXPECT_THAT(audit(), HasSubstr(R"("reason":"NOT_ALLOWED","tenant":"b")"));
  EXPECT_THAT(audit(), ::testing::Not(HasSubstr("secret-")));
}

}  // namespace
}  // namespace clamor
