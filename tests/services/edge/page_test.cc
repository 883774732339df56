#include "services/edge/page.h"

#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_replace.h"

namespace clamor::edge {
namespace {

// What stands between two tags that come once.
std::string Between(const std::string& html, const std::string& open, const std::string& close) {
  const size_t begin = html.find(open);
  EXPECT_NE(begin, std::string::npos) << open;
  EXPECT_EQ(html.find(open, begin + 1), std::string::npos) << open << " comes twice";
  const size_t end = html.find(close, begin);
  return html.substr(begin + open.size(), end - begin - open.size());
}

TEST(PageTest, ThePolicyAllowsExactlyWhatThePageHas) {
  const Page& page = ThePage();
  for (const std::string& html : {page.open, page.with_key}) {
    for (const char* tag : {"script", "style"}) {
      const std::string text = Between(html, std::string("<") + tag + ">", std::string("</") + tag + ">");
      EXPECT_GT(text.size(), 100u) << tag;
      unsigned char digest[SHA256_DIGEST_LENGTH];
      SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
      const std::string hash = absl::Base64Escape({reinterpret_cast<const char*>(digest), sizeof(digest)});
      EXPECT_NE(page.security_policy.find(std::string(tag) + "-src 'sha256-" + hash + "'"),
                std::string::npos);
    }
    const std::string body = absl::StrReplaceAll(Between(html, "<body>", "</body>"),
                                                 {{"http://www.w3.org/2000/svg", "(a name, not a place)"}});
    for (const char* outside : {"http://", "https://", "@import", "src=", " style=\"", "onclick"})
      EXPECT_EQ(body.find(outside), std::string::npos) << outside;
  }
  EXPECT_EQ(page.security_policy.find("unsafe"), std::string::npos);
}

TEST(PageTest, KnowsWhetherToAskForAKey) {
  EXPECT_NE(ThePage().open.find("data-needs-key=\"false\""), std::string::npos);
  EXPECT_NE(ThePage().with_key.find("data-needs-key=\"true\""), std::string::npos);
  EXPECT_EQ(ThePage().open.find("/*s"), std::string::npos) << "a place that was not filled";
}

}  // namespace
}  // namespace clamor::edge
