#include "services/session/redis_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace clamor {
namespace {

TEST(RedisAddressTest, HasItsParts) {
  struct Case {
    std::string url, host, port, user;
    int database;
    bool tls;
  };
  for (const Case& one :
       {Case{"redis://h", "h", "6379", "", 0, false}, Case{"redis://h:1/2", "h", "1", "", 2, false},
        Case{"rediss://me@h.example:65535/", "h.example", "65535", "me", 0, true},
        Case{"redis://[::1]:7/15", "::1", "7", "", 15, false},
        Case{"redis://[::1]", "::1", "6379", "", 0, false}}) {
    const auto address = RedisAddress::Parse(one.url);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->host, one.host);
    EXPECT_EQ(address->port, one.port);
    EXPECT_EQ(address->user, one.user);
    EXPECT_EQ(address->database, one.database);
    EXPECT_EQ(address->tls, one.tls);
  }
}

TEST(RedisAddressTest, WhatIsWrongIsNamed) {
  for (const auto& [url, word] : {std::pair{"http://h", "scheme"},
                                  {"redis://", "no host"},
                                  {"redis://h:x", "no port"},
                                  {"redis://h:0", "no port"},
                                  {"redis://h:65536", "no port"},
                                  {"redis://h/x", "no database"},
                                  {"redis://h/-1", "no database"},
                                  {"redis://[::1", "bracket"}}) {
    const absl::Status status = RedisAddress::Parse(url).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << url;
    EXPECT_THAT(status.message(), ::testing::HasSubstr(word)) << url;
  }
}

TEST(RedisAddressTest, PasswordsAreNotRepeated) {
  const absl::Status status = RedisAddress::Parse("redis://me:secret@h").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("--sessions-password-file"));
  EXPECT_THAT(status.message(), ::testing::Not(::testing::HasSubstr("secret")));
}

}  // namespace
}  // namespace clamor
