#include "retrieval/key_codec.h"

#include <algorithm>
#include <random>

#include "gtest/gtest.h"
#include "retrieval/checksum.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

TEST(KeyCodecTest, KeysComeApartAsTheyWerePutTogether) {
  const Namespace ns{"ten\x01\xff\x80", "00ff"};
  const std::string prefix = NamespacePrefix(ns);
  const std::string id("a\0b", 3);
  const std::string key = CatalogKey(prefix, id);
  const auto split = SplitKey(key);
  ASSERT_TRUE(split.ok()) << split.status();
  EXPECT_EQ(split->first, ns);
  EXPECT_EQ(split->second, id);
  const std::string body_key = DocumentKey(prefix, 0x0102030405060708);
  const auto body = SplitKey(body_key);
  ASSERT_TRUE(body.ok()) << body.status();
  EXPECT_EQ(*DecodeDocumentNumber(body->second), 0x0102030405060708u);
}

TEST(KeyCodecTest, NumbersSortAsBytes) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t a = random() >> random() % 64, b = random() >> random() % 64;
    EXPECT_EQ(a < b, DocumentKey("p", a) < DocumentKey("p", b)) << a << " " << b;
  }
}

TEST(KeyCodecTest, ATenantIsOneRangeWithoutItsNeighbours) {
  const std::vector<std::string> tenants = {"a", "a\x01", "a\x01z", "aa", "b", "\xff", "\xff\xff"};
  for (const std::string& owner : tenants) {
    const auto [first, last] = TenantRange(owner);
    for (const std::string& other : tenants) {
      for (const std::string& rest : {std::string(), std::string("\xff\xff\xff")}) {
        const std::string key = CatalogKey(NamespacePrefix({other, "f"}), rest);
        EXPECT_EQ(first <= key && key < last, owner == other) << owner << " " << other;
      }
    }
  }
}

TEST(KeyCodecTest, NamesHaveLimits) {
  EXPECT_TRUE(ValidateNamespace({"t", "0123456789abcdefABCDEF"}).ok());
  EXPECT_TRUE(ValidateNamespace({std::string(128, 't'), std::string(64, 'f')}).ok());
  for (const Namespace& bad : {Namespace{"", "f"}, Namespace{"t", ""}, Namespace{std::string(129, 't'), "f"},
                               Namespace{"t", std::string(65, 'f')}, Namespace{std::string("t\0u", 3), "f"},
                               Namespace{"t", "xyz"}, Namespace{"t", std::string("f\0", 2)}}) {
    EXPECT_EQ(ValidateNamespace(bad).code(), absl::StatusCode::kInvalidArgument)
        << bad.tenant << " " << bad.fingerprint;
  }
  EXPECT_NE(
      std::string(ValidateTenant(std::string(129, 't')).message()).find("129 bytes, must have 1 to 128"),
      std::string::npos);
  EXPECT_TRUE(ValidateDocumentId(std::string(256, '\0')).ok());
  EXPECT_FALSE(ValidateDocumentId("").ok());
  EXPECT_FALSE(ValidateDocumentId(std::string(257, 'x')).ok());
}

TEST(KeyCodecTest, ValuesComeBack) {
  const auto entry = DecodeEntry(EncodeEntry({.number = 1ull << 40, .checksum = 5, .tokens = 77}));
  ASSERT_TRUE(entry.ok());
  EXPECT_EQ(entry->number, 1ull << 40);
  EXPECT_EQ(entry->checksum, 5u);
  EXPECT_EQ(entry->tokens, 77u);
  const CatalogEntry expiring{.number = 3, .checksum = 5, .tokens = 7, .expires = 1ull << 40};
  EXPECT_EQ(*DecodeEntry(EncodeEntry(expiring)), expiring);
  EXPECT_EQ(EncodeEntry({.tokens = 1}).size(), 20u) << "as in format version 1";
  const std::string key = ExpiryKey("prefix", 0x0102030405060708, "id");
  EXPECT_LT(ExpiryKey("prefix", 255, "z"), ExpiryKey("prefix", 256, "a"));
  const auto expiry = DecodeExpiry(std::string_view(key).substr(6));
  ASSERT_TRUE(expiry.ok());
  EXPECT_EQ(expiry->first, 0x0102030405060708u);
  EXPECT_EQ(expiry->second, "id");
  const Tokens tokens = {0, 1, kTokenLimit - 1};
  const auto decoded =
      DecodeTokens(EncodeTokens(tokens), {.number = 1, .checksum = TokenChecksum(tokens), .tokens = 3});
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(*decoded, tokens);
}

TEST(KeyCodecTest, AnyBytesDecodeOrAreDataLoss) {
  std::mt19937_64 random(2);
  auto check = [](const absl::Status& status) {
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kDataLoss) << status;
    return status.ok();
  };
  int decoded = 0;
  for (int i = 0; i < 20000 / kSlow; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % 3 ? random() % 3 * 48 : random());
    decoded += check(SplitKey(bytes).status());
    decoded += check(DecodeEntry(bytes).status());
    decoded += check(DecodeDocumentNumber(bytes).status());
    decoded += check(DecodeExpiry(bytes).status());
    decoded += check(
        DecodeTokens(bytes, {.checksum = random() % 2, .tokens = 1 + uint32_t(random() % 10)}).status());
  }
  EXPECT_GT(decoded, 0);
  const Tokens over = {1, kTokenLimit};
  EXPECT_FALSE(DecodeTokens(EncodeTokens(over), {.checksum = TokenChecksum(over), .tokens = 2}).ok());
  EXPECT_FALSE(DecodeEntry(EncodeEntry({.number = 1, .tokens = 0})).ok());
}

}  // namespace
}  // namespace clamor::retrieval
