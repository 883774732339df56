#include "model/spec/knowledge_file.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "model/sha256.h"

namespace clamor {
namespace {

constexpr int32_t kVocab = 50;
constexpr char kTokenizer[] = "a tokenizer";
constexpr size_t kHeader = 88, kDigest = 64, kRecord = 68, kCountsBytes = 4 * Calibration::kCounts;

int32_t Below(int32_t n, std::mt19937& random) {
  return static_cast<int32_t>(random() % static_cast<uint32_t>(n));
}

// As many tokens looked behind as `entries`, some with fewer successors than there is room for.
DraftKnowledge Learned(int32_t entries, int32_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  DraftKnowledge knowledge;
  for (int32_t token = 0; token < entries; ++token) {
    const size_t n = random() % (Adjacency::kSuccessors + 1);
    std::vector<int32_t> tokens(n);
    std::vector<float> log_probabilities(n);
    for (int32_t& id : tokens) id = Below(vocab, random);
    for (float& value : log_probabilities) value = -0.01f * static_cast<float>(random() % 1000);
    knowledge.adjacency.Observe(vocab - 1 - token, tokens, log_probabilities);
  }
  for (int i = 0; i < 5000; ++i) {
    const auto key = static_cast<Calibration::Key>(random() % (Calibration::kCounts / 2));
    knowledge.greedy.Learn(key, random() % 3 == 0);
    knowledge.sampled.Learn(Calibration::Recycled(1, 1), true);
  }
  return knowledge;
}

std::vector<float> CountsOf(const Calibration& calibration) {
  std::vector<float> counts(Calibration::kCounts);
  calibration.Save(counts);
  return counts;
}

void ExpectEqual(const DraftKnowledge& a, const DraftKnowledge& b) {
  EXPECT_EQ(CountsOf(a.greedy), CountsOf(b.greedy));
  EXPECT_EQ(CountsOf(a.sampled), CountsOf(b.sampled));
  ASSERT_EQ(a.adjacency.size(), b.adjacency.size());
  for (const auto& [token, entry] : a.adjacency.entries()) {
    const Adjacency::Entry* other = b.adjacency.Find(token);
    ASSERT_NE(other, nullptr) << token;
    EXPECT_EQ(entry.tokens, other->tokens);
    EXPECT_EQ(entry.log_probabilities, other->log_probabilities);
  }
}

// All that drafting relies on.
void ExpectPossible(const DraftKnowledge& knowledge, int32_t vocab) {
  for (const auto& [token, entry] : knowledge.adjacency.entries()) {
    EXPECT_TRUE(token >= 0 && token < vocab) << token;
    for (const int32_t id : entry.tokens) EXPECT_TRUE(id >= -1 && id < vocab) << id;
    for (const float value : entry.log_probabilities)
      EXPECT_TRUE(std::isfinite(value) && value <= 0) << value;
  }
  for (const Calibration* calibration : {&knowledge.greedy, &knowledge.sampled}) {
    for (size_t key = 0; key < Calibration::kCounts / 2; ++key) {
      const float mean = calibration->Mean(static_cast<Calibration::Key>(key));
      EXPECT_TRUE(mean >= 0 && mean <= 1) << mean;
    }
  }
}

// Of one who knows the format and means harm.
std::string Resealed(std::string file) {
  file.resize(file.size() - kDigest);
  Sha256 hash;
  hash.Add(file);
  return file + hash.Hex();
}

template <typename T>
std::string With(std::string file, size_t offset, T value) {
  std::memcpy(file.data() + offset, &value, sizeof(value));
  return Resealed(std::move(file));
}

std::string ErrorOf(const std::string& file, int32_t vocab = kVocab,
                    std::string_view tokenizer = kTokenizer) {
  const auto knowledge = DecodeKnowledge(file, vocab, tokenizer);
  if (!knowledge.ok()) {
    EXPECT_EQ(knowledge.status().code(), absl::StatusCode::kInvalidArgument);
  }
  return std::string(knowledge.status().message());
}

TEST(KnowledgeFile, RoundTrips) {
  for (const int32_t entries : {0, 1, 7, kVocab}) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const DraftKnowledge learned = Learned(entries, kVocab, seed);
      const std::string file = EncodeKnowledge(learned, kVocab, kTokenizer);
      EXPECT_EQ(file.size(), KnowledgeFileBytes(static_cast<size_t>(entries)));
      const auto read = DecodeKnowledge(file, kVocab, kTokenizer);
      ASSERT_TRUE(read.ok()) << read.status();
      ExpectEqual(learned, *read);
    }
  }
}

TEST(KnowledgeFile, IsForItsVocabularyAndTokenizerAlone) {
  const std::string file = EncodeKnowledge(Learned(9, kVocab, 1), kVocab, kTokenizer);
  EXPECT_EQ(ErrorOf(file), "");
  EXPECT_EQ(ErrorOf(file, kVocab + 1), "vocab_size is 50, must be 51");
  EXPECT_EQ(ErrorOf(file, kVocab, "another"), "tokenizer is another than this model's");
}

TEST(KnowledgeFile, DamageIsRefused) {
  const std::string file = EncodeKnowledge(Learned(2, kVocab, 1), kVocab, kTokenizer);
  // The middle of the counts is like its ends.
  const auto dull = [&](size_t i) {
    return i > kHeader + 64 && i + 64 < kHeader + 2 * kCountsBytes && i % 97 != 0;
  };
  for (size_t i = 0; i < file.size(); ++i) {
    if (dull(i)) continue;
    std::string flipped = file;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << i % 8));
    EXPECT_NE(ErrorOf(flipped), "") << i;
    EXPECT_NE(ErrorOf(file.substr(0, i)), "") << i;
    if (i > kHeader && i + kDigest < file.size()) {
      EXPECT_NE(ErrorOf(Resealed(file.substr(0, i + kDigest))), "") << i;
    }
  }
  EXPECT_NE(ErrorOf(file + "x"), "");
}

TEST(KnowledgeFile, HostileFieldsAreRefused) {
  const std::string file = EncodeKnowledge(Learned(2, kVocab, 1), kVocab, kTokenizer);
  const size_t counts = kHeader, record = kHeader + 2 * kCountsBytes, last = record + kRecord;
  ASSERT_EQ(last + kRecord + kDigest, file.size());
  EXPECT_EQ(ErrorOf(Resealed(file)), "");
  EXPECT_NE(ErrorOf(With(file, 8, 2)), "");   // version
  EXPECT_NE(ErrorOf(With(file, 16, 7)), "");  // counts
  for (const uint32_t entries : {0u, 1u, 3u, 51u, UINT32_MAX})
    EXPECT_NE(ErrorOf(With(file, 20, entries)), "");
  for (const int32_t token : {-1, INT32_MIN, kVocab, INT32_MAX}) {
    EXPECT_NE(ErrorOf(With(file, last, token)), "") << token;
    if (token == -1) continue;  // says that there is none
    EXPECT_NE(ErrorOf(With(file, last + 4 + 28, token)), "") << token;
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                  kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const float count : {-1.0f, kInfinity, kNaN, 1e9f}) {
    EXPECT_NE(ErrorOf(With(file, counts + 4, count)), "") << count;
    EXPECT_NE(ErrorOf(With(file, record - 4, count)), "") << count;
  }
  EXPECT_NE(ErrorOf(With(file, last + 36, kNaN)), "");
  for (const float value : {kInfinity, -kInfinity, 1e-6f}) {
    const auto read = DecodeKnowledge(With(file, last + 36, value), kVocab, kTokenizer);
    ASSERT_TRUE(read.ok()) << read.status();
    ExpectPossible(*read, kVocab);
  }
  // Twice the same token: the later one holds.
  int32_t token;
  std::memcpy(&token, file.data() + record, sizeof(token));
  const auto twice = DecodeKnowledge(With(file, last, token), kVocab, kTokenizer);
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_EQ(twice->adjacency.size(), 1u);
}

TEST(KnowledgeFile, WhateverIsReadIsPossible) {
  const std::string file = EncodeKnowledge(Learned(20, kVocab, 1), kVocab, kTokenizer);
  std::mt19937 random(1);
  int read = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string changed = file;
    for (int i = Below(3, random); i >= 0; --i) {
      changed[kHeader + random() % (file.size() - kHeader - kDigest)] = static_cast<char>(random());
    }
    const auto knowledge = DecodeKnowledge(Resealed(std::move(changed)), kVocab, kTokenizer);
    if (!knowledge.ok()) continue;
    ++read;
    ExpectPossible(*knowledge, kVocab);
  }
  EXPECT_GT(read, 100);
  EXPECT_LT(read, 2900);
}

// No limit is checked: the time is for the reader of the log.
TEST(KnowledgeFile, AFullTableOfALargeVocabulary) {
  constexpr int32_t kLarge = 150'000;
  const DraftKnowledge learned = Learned(kLarge, kLarge, 1);
  auto milliseconds = [last = absl::Now()]() mutable {
    const absl::Time begin = std::exchange(last, absl::Now());
    return absl::ToDoubleMilliseconds(last - begin);
  };
  const DraftKnowledge copy = learned;
  const double copied = milliseconds();
  const std::string file = EncodeKnowledge(copy, kLarge, kTokenizer);
  const double encoded = milliseconds();
  const auto read = DecodeKnowledge(file, kLarge, kTokenizer);
  const double decoded = milliseconds();
  std::printf("%zu bytes: copied in %.1f ms, encoded in %.1f ms, decoded in %.1f ms\n", file.size(), copied,
              encoded, decoded);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectEqual(learned, *read);
}

}  // namespace
}  // namespace clamor
