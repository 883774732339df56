#include "services/gateway/prefix_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "services/gateway/tenant_usage.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

MATCHER_P2(Is, worker, tokens, "") { return arg.worker == worker && arg.tokens == size_t(tokens); }

std::vector<uint32_t> Prompt(size_t tokens, uint32_t first = 0) {
  std::vector<uint32_t> prompt(tokens);
  std::iota(prompt.begin(), prompt.end(), first);
  return prompt;
}

TEST(PrefixMemoryTest, FindsTheLongestKnownBeginning) {
  PrefixMemory memory;
  memory.Add("t", Prompt(200), "a");  // three blocks
  memory.Add("t", Prompt(100), "b");  // the first of them
  EXPECT_THAT(memory.Find("t", Prompt(1000)), ElementsAre(Is("a", 192), Is("b", 64)));
  EXPECT_THAT(memory.Find("t", Prompt(130)), ElementsAre(Is("a", 128), Is("b", 64)));
  EXPECT_THAT(memory.Find("t", Prompt(63)), IsEmpty());
  EXPECT_THAT(memory.Find("t", Prompt(200, 1)), IsEmpty());
  std::vector<uint32_t> other = Prompt(200);
  other[10] = 99;  // the same blocks behind another beginning are another text
  EXPECT_THAT(memory.Find("t", other), IsEmpty());
}

TEST(PrefixMemoryTest, TenantsAreApartAndForgotten) {
  PrefixMemory memory;
  memory.Add("t", Prompt(128), "a");
  memory.Add("u", Prompt(64), "b");
  EXPECT_THAT(memory.Find("u", Prompt(128)), ElementsAre(Is("b", 64)));
  EXPECT_THAT(memory.Find("v", Prompt(128)), IsEmpty());
  memory.ForgetTenant("t");
  EXPECT_THAT(memory.Find("t", Prompt(128)), IsEmpty());
  EXPECT_THAT(memory.Find("u", Prompt(128)), ElementsAre(Is("b", 64)));
  memory.ForgetWorker("b");
  EXPECT_EQ(memory.size(), 0u);
}

TEST(PrefixMemoryTest, TheLongestUnusedGo) {
  PrefixMemory memory(4);
  memory.Add("t", Prompt(128), "a");
  memory.Add("t", Prompt(128, 1000), "b");
  memory.Add("t", Prompt(64), "a");        // is used again
  memory.Add("t", Prompt(64, 2000), "c");  // the end of the oldest goes
  EXPECT_EQ(memory.size(), 4u);
  EXPECT_THAT(memory.Find("t", Prompt(128)), ElementsAre(Is("a", 64)));
  EXPECT_THAT(memory.Find("t", Prompt(128, 1000)), ElementsAre(Is("b", 128)));
  memory.Add("t", Prompt(1 << 20), "d");
  EXPECT_EQ(memory.size(), 4u);
}

}  // namespace

TEST(TenantUsageTest, AddsUpAndPages) {
  TenantUsage usage;
  usage.Add("b", 10, 5);
  usage.Add("a", 1, 2);
  usage.Add("b", 1, 1);
  using Numbers = TenantUsage::Numbers;
  const std::map<std::string, Numbers> all = {{"a", {1, 1, 2}}, {"b", {2, 11, 6}}};
  EXPECT_EQ(usage.Get("", 10), all);
  EXPECT_EQ(usage.Get("", 1).begin()->first, "a");
  EXPECT_EQ(usage.Get("a", 10).begin()->first, "b");
  usage.Forget("b");
  EXPECT_EQ(usage.Get("", 10).size(), 1u);
  for (size_t i = 0; i < TenantUsage::kTenants + 10; ++i) usage.Add("t" + std::to_string(i), 1, 1);
  EXPECT_EQ(usage.Get("", 1e9).size(), TenantUsage::kTenants + 1);
  EXPECT_EQ(usage.Get("", 1).at(TenantUsage::kOthers).requests, 11u);
}

}  // namespace clamor
