#include "retrieval/place_sort.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "retrieval/place_order.h"
#include "tests/retrieval/packed_tokens.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

struct Text {
  Tokens text = {kEndMark};
  std::vector<uint32_t> places;

  void Add(const Tokens& document) {
    for (size_t i = 0; i < document.size(); ++i) {
      if (i > 0) places.push_back(static_cast<uint32_t>(text.size()));
      text.push_back(document[i]);
    }
    text.push_back(kEndMark);
  }
};

// The dull twin: one comparison of up to kMaxMatch tokens after the other.
std::vector<uint32_t> NaiveOrder(const Text& text) {
  std::vector<uint32_t> order = text.places;
  std::ranges::sort(order, [&](uint32_t a, uint32_t b) {
    for (uint32_t i = 1; i <= kMaxMatch; ++i) {
      const uint32_t x = text.text[a - i], y = text.text[b - i];
      if (x != y) return x < y;
      if (x == kEndMark) break;
    }
    return a > b;
  });
  return order;
}

std::vector<uint32_t> Order(Text text) {
  SortPlaces(PackedTokens(text.text).text(), text.places);
  return text.places;
}

// By PlaceLess, as merges do.
std::vector<uint32_t> ComparedOrder(const Text& text) {
  const PackedTokens packed(text.text);
  std::vector<Place> places;
  for (const uint32_t place : text.places) {
    uint32_t before = 0;
    while (text.text[place - 1 - before] != kEndMark) ++before;
    places.push_back(MakePlace(packed.text(), place, before));
  }
  std::ranges::sort(places, PlaceLess{packed.text()});
  std::vector<uint32_t> order;
  for (const Place& place : places) order.push_back(place.position);
  return order;
}

TEST(PlaceSortTest, AllSmallTexts) {
  // All pairs of documents of up to 5 tokens over {0, 1}.
  std::vector<Tokens> all = {{}};
  for (size_t i = 0; all[i].size() < 5; ++i) {
    for (uint32_t token : {0u, 1u}) {
      all.push_back(all[i]);
      all.back().push_back(token);
    }
  }
  for (const Tokens& a : all) {
    for (const Tokens& b : all) {
      Text text;
      for (const Tokens& document : {a, b}) {
        if (!document.empty()) text.Add(document);
      }
      ASSERT_EQ(Order(text), NaiveOrder(text));
      ASSERT_EQ(ComparedOrder(text), NaiveOrder(text));
    }
  }
}

TEST(PlaceSortTest, RandomTexts) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 400 / kSlow; ++round) {
    const uint32_t alphabet = 1 + random() % (round % 3 == 0 ? 1000 : 4);
    Text text;
    for (uint64_t documents = 1 + random() % 30; documents > 0; --documents)
      text.Add(RandomTokens(random, 1 + random() % 80, alphabet));
    std::ranges::shuffle(text.places, random);
    ASSERT_EQ(Order(text), NaiveOrder(text));
    ASSERT_EQ(ComparedOrder(text), NaiveOrder(text));
  }
}

TEST(PlaceSortTest, LongRepetitionsEndAtTheLimit) {
  // Lengths about kMaxMatch and its half, of one token and of short periods, twice each: most places are
  // equal as far as is looked, and the newest of them come first.
  for (const uint32_t period : {1u, 2u, 3u}) {
    Text text;
    for (const size_t length : {127u, 128u, 129u, 130u, 255u, 256u, 257u, 258u, 259u, 700u}) {
      Tokens document(length);
      for (size_t i = 0; i < length; ++i) document[i] = static_cast<uint32_t>(i % period);
      text.Add(document);
      text.Add(document);
      document[length / 2] = 9;
      text.Add(document);
    }
    ASSERT_EQ(Order(text), NaiveOrder(text)) << period;
    ASSERT_EQ(ComparedOrder(text), NaiveOrder(text)) << period;
  }
}

TEST(PlaceSortTest, GreatTokenIds) {
  Text text;
  text.Add({0x7fffffff, 0, 0x7fffffff, 0x7ffffffe, 0x7fffffff, 0});
  text.Add({0, 0x7fffffff});
  text.Add({5});
  EXPECT_EQ(Order(text), NaiveOrder(text));
  EXPECT_EQ(ComparedOrder(text), NaiveOrder(text));
}

}  // namespace
}  // namespace clamor::retrieval
