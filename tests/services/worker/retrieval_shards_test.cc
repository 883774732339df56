#include "services/worker/retrieval_shards.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;

TEST(RetrievalShardsTest, TheFlag) {
  EXPECT_THAT(*ParseRetrievalShards("a:1"), ElementsAre(RetrievalShard{"a:1", ""}));
  EXPECT_THAT(*ParseRetrievalShards("a:1|b:2,c:3"),
              ElementsAre(RetrievalShard{"a:1", "b:2"}, RetrievalShard{"c:3", ""}));
  for (const char* wrong : {"", "a:1,", "|b:2", "a:1|", "a:1|b:2|c:3"})
    EXPECT_EQ(ParseRetrievalShards(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
}

TEST(RetrievalShardsTest, AnotherServerTakesItsShareAndMovesNothingElse) {
  std::map<size_t, int> tenants;
  for (int i = 0; i < 3000; ++i) {
    const std::string tenant = absl::StrCat("tenant-", i);
    const size_t before = ShardOf(tenant, "ab", 2), after = ShardOf(tenant, "ab", 3);
    EXPECT_TRUE(after == before || after == 2) << tenant;
    ++tenants[after];
  }
  for (const auto& [shard, count] : tenants) EXPECT_NEAR(count, 1000, 150) << shard;
  EXPECT_EQ(ShardOf("anyone", "ab", 1), 0u);
  // A promise to what is stored: these must never change.
  EXPECT_EQ(absl::StrCat(ShardOf("default", "00ff", 5), ShardOf("ann", "00ff", 5), ShardOf("bob", "00ff", 5),
                         ShardOf("carol", "00ff", 5), ShardOf("dave", "00ff", 5)),
            "20042");
}

// Keeps what it was asked, and answers with what it was told.
struct FakeSource final : ContinuationSource {
  std::vector<std::string> tenants;
  std::optional<Answer> answer;
  int forgotten = 0;

  void Ask(uint64_t, std::span<const std::string_view> asked, std::span<const int32_t>, int64_t) override {
    tenants.assign(asked.begin(), asked.end());
  }
  std::optional<Answer> Take(uint64_t) override { return std::exchange(answer, std::nullopt); }
  void Forget(uint64_t) override { ++forgotten; }
};

TEST(RetrievalShardsTest, EachServerIsAskedForItsTenantsAndTheBestAnswers) {
  std::vector<FakeSource*> fakes;
  std::vector<std::unique_ptr<ContinuationSource>> shards;
  for (int i = 0; i < 2; ++i) {
    auto fake = std::make_unique<FakeSource>();
    fakes.push_back(fake.get());
    shards.push_back(std::move(fake));
  }
  ShardedSource source(std::move(shards), "ab");
  std::string own = "own", other = "other";
  while (ShardOf(own, "ab", 2) != 1) own += "x";
  while (ShardOf(other, "ab", 2) != 0) other += "x";
  const std::string_view tenants[] = {own, other};
  const std::vector<int32_t> context = {1, 2};
  source.Ask(7, tenants, context, 2);
  EXPECT_THAT(fakes[0]->tenants, ElementsAre(other));
  EXPECT_THAT(fakes[1]->tenants, ElementsAre(own));

  auto answers = [&](int64_t position_other, int match_other, int64_t position_own, int match_own) {
    fakes[0]->answer = {position_other, {.match_length = match_other, .occurrences = 1, .nodes = {}}};
    fakes[1]->answer = {position_own, {.match_length = match_own, .occurrences = 2, .nodes = {}}};
    return source.Take(7)->trie.occurrences;
  };
  EXPECT_EQ(answers(2, 5, 2, 4), 1u) << "the longer match";
  EXPECT_EQ(answers(2, 5, 2, 5), 2u) << "of equals one's own";
  EXPECT_EQ(answers(1, 5, 2, 4), 2u) << "the newer";
  EXPECT_FALSE(source.Take(7).has_value());
  source.Forget(7);
  EXPECT_EQ(fakes[0]->forgotten + fakes[1]->forgotten, 2);
  EXPECT_FALSE(source.Take(7).has_value());
}

}  // namespace
}  // namespace clamor
