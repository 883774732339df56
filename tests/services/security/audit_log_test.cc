#include "services/security/audit_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "nlohmann/json.hpp"

namespace clamor {
namespace {

TEST(AuditLogTest, OneObjectALine) {
  const std::string path = ::testing::TempDir() + "audit-" + std::to_string(getpid());
  {
    auto log = AuditLog::Open(path);
    ASSERT_TRUE(log.ok()) << log.status();
    (*log)->Record("refused", {{"peer", "a\"\n\xff"}});
    for (int i = 0; i < 10 * AuditLog::kPerSecond; ++i) (*log)->Record("refused", {});
  }
  auto log = *AuditLog::Open(path);  // goes on behind what is there
  log->Record("deleted", {{"tenant", "t"}});
  std::ifstream in(path);
  int lines = 0;
  nlohmann::json last;
  for (std::string line; std::getline(in, line); ++lines) {
    last = nlohmann::json::parse(line);
    if (lines == 0) {
      EXPECT_EQ(last["peer"], "a\"\n\xef\xbf\xbd");
    }
  }
  EXPECT_EQ(last["event"], "deleted");
  EXPECT_EQ(last["tenant"], "t");
  EXPECT_LE(lines, 3 * AuditLog::kPerSecond + 1);  // three seconds may have been touched
  EXPECT_GE(lines, AuditLog::kPerSecond);
  std::filesystem::remove(path);
  EXPECT_THAT(std::string(AuditLog::Open("/no/such/folder/log").status().message()),
              ::testing::HasSubstr("--audit-log"));
}

}  // namespace
}  // namespace clamor
