// What the fuzz target of segments starts from are segments: refused at their first bytes, they would lead it
// nowhere. After a change of the file's format, CLAMOR_WRITE_CORPUS=1 writes them anew.
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <string_view>

#include "gtest/gtest.h"
#include "retrieval/segment.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

// The first byte has checksums made to fit, the next eight are a context (segment_fuzz.cc).
constexpr std::string_view kBefore("\1\1\2\3\1\2\3\1\2", 9);

std::map<std::string, std::vector<Tokens>> Seeds() {
  std::mt19937_64 random(1);
  std::map<std::string, std::vector<Tokens>> seeds;
  seeds["one"] = {{1}};
  seeds["two"] = {{1, 2, 3, 1, 2}, {3, 1, 2}};
  seeds["same"] = {Tokens(40, 1)};
  for (int i = 0; i < 30; ++i) seeds["many"].push_back(RandomTokens(random, 1 + random() % 7, 4));
  for (uint32_t i = 0; i < 12; ++i)
    seeds["wide"].push_back({i << 20, 1, 2, 3, i << 10, 1, 2, 3, kTokenLimit - 1});
  return seeds;
}

TEST(FuzzCorpusTest, HoldsSegmentsOfThisFormat) {
  TempFolder folder;
  for (const auto& [name, documents] : Seeds()) {
    std::vector<Segment::Source> sources;
    for (const Tokens& tokens : documents) sources.push_back({sources.size() + 1, tokens});
    const auto segment = Segment::Build(std::string_view("t\0f\0", 4), sources, folder / name);
    ASSERT_TRUE(segment.ok()) << segment.status();
    const std::string expected = std::string(kBefore) + ReadFile(folder / name);
    const std::string path = std::string(CLAMOR_FUZZ_CORPUS "/segment_fuzz/") + name;
    if (std::getenv("CLAMOR_WRITE_CORPUS") != nullptr) std::ofstream(path, std::ios::binary) << expected;
    EXPECT_EQ(ReadFile(path), expected) << name << ": set CLAMOR_WRITE_CORPUS=1 to write it anew";
  }
}

}  // namespace
}  // namespace clamor::retrieval
