#include "services/edge/access.h"

#include <gtest/gtest.h>

#include <string>

#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

std::string ReasonFor(const Access& access, absl::string_view host, absl::string_view origin) {
  const absl::Status status = access.Check(host, origin);
  return status.ok() ? "" : std::string(ReasonOf(status));
}

TEST(AccessTest, OnLoopbackOnlyItsNamesAreAnswered) {
  const Access access({}, {}, /*listens_on_loopback=*/true);
  for (const char* host :
       {"localhost", "localhost:7702", "LocalHost:1", "127.0.0.1:7702", "[::1]:7702", "[::1]"})
    EXPECT_EQ(ReasonFor(access, host, ""), "") << host;
  for (const char* host : {"", "evil.example", "evil.example:7702", "localhost.evil.example",
                           "127.0.0.1.evil.example", "[::2]:7702", "localhost:7702:7702"})
    EXPECT_EQ(ReasonFor(access, host, ""), "HOST_NOT_ALLOWED") << host;
}

TEST(AccessTest, ElsewhereAllNamesAreAnsweredUnlessTheyAreListed) {
  EXPECT_EQ(ReasonFor(Access({}, {}, false), "llm.example:80", ""), "");
  const Access listed({"LLM.example"}, {}, false);
  EXPECT_EQ(ReasonFor(listed, "llm.EXAMPLE:80", ""), "");
  EXPECT_EQ(ReasonFor(listed, "localhost", ""), "HOST_NOT_ALLOWED");
  EXPECT_EQ(ReasonFor(Access({"*"}, {}, true), "anything", ""), "");
}

TEST(AccessTest, PagesOfOtherSitesAreRefusedUnlessTheyAreListed) {
  const Access access({"*"}, {"https://good.example/"}, true);
  EXPECT_EQ(ReasonFor(access, "localhost:7702", "http://localhost:7702"), "") << "our own page";
  EXPECT_EQ(ReasonFor(access, "llm.example", "https://llm.example"), "") << "behind a proxy with TLS";
  EXPECT_EQ(ReasonFor(access, "localhost:7702", "https://GOOD.example"), "");
  for (const char* origin :
       {"https://evil.example", "http://good.example", "http://localhost:7703", "null", "x"})
    EXPECT_EQ(ReasonFor(access, "localhost:7702", origin), "ORIGIN_NOT_ALLOWED") << origin;
  EXPECT_EQ(ReasonFor(Access({"*"}, {"*"}, true), "a", "https://evil.example"), "");
  EXPECT_EQ(ReasonFor(Access({"*"}, {"*"}, true), "a", "null"), "");
}

TEST(AccessTest, ForeignPagesMustBeTold) {
  EXPECT_FALSE(Access::IsForeign("a:1", ""));
  EXPECT_FALSE(Access::IsForeign("a:1", "http://A:1"));
  EXPECT_TRUE(Access::IsForeign("a:1", "http://a:2"));
  EXPECT_TRUE(Access::IsForeign("a:1", "null"));
}

TEST(AccessTest, MessagesShowABoundedPrintableValue) {
  const absl::Status status = Access({}, {}, true).Check(std::string(10000, '\x01'), "");
  EXPECT_LT(status.message().size(), 600u);
  EXPECT_NE(status.message().find("--api-hosts"), std::string::npos);
}

}  // namespace
}  // namespace clamor::edge
