// Against a count of n-grams by looking at every place of the text.
#include "model/spec/context_automaton.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

using Text = std::vector<int32_t>;

struct Follower {
  uint32_t count = 0;
  int64_t first = 0;  // where it first followed
};

// How often text[n - length, n) of `context` occurs in `text` (ends included) and what follows.
struct NaiveCount {
  uint32_t total = 0;
  std::map<int32_t, Follower> next;
};
NaiveCount Count(const Text& text, const Text& context, int64_t length) {
  NaiveCount result;
  for (int64_t end = length; end <= static_cast<int64_t>(text.size()); ++end) {
    if (!std::equal(context.end() - length, context.end(), text.begin() + end - length)) continue;
    ++result.total;
    if (end == static_cast<int64_t>(text.size())) continue;
    Follower& follower = result.next[text[end]];
    if (follower.count++ == 0) follower.first = end;
  }
  return result;
}

// The longest suffix of `context`, at most `limit` tokens, that something follows in `text`.
int64_t LongestFollowed(const Text& text, const Text& context, int64_t limit) {
  for (int64_t length = std::min<int64_t>(limit, static_cast<int64_t>(context.size())); length > 0;
       --length) {
    if (!Count(text, context, length).next.empty()) return length;
  }
  return 0;
}

// Every level that Continuations shows for the end of `text` with `path` appended, against the naive counts.
void CheckContinuations(const ContextAutomaton& automaton, const Text& text, const Text& path) {
  ContextAutomaton::Cursor cursor = automaton.End();
  for (const int32_t token : path) cursor = automaton.Advance(cursor, token);
  Text context = text;
  context.insert(context.end(), path.begin(), path.end());

  // What the cursor should stand on: matching one token at a time, from the longest suffix that stood before
  // the end.
  int64_t length = 0;
  while (length + 1 < static_cast<int64_t>(text.size()) && Count(text, text, length + 1).total > 1) ++length;
  Text seen = text;
  for (const int32_t token : path) {
    seen.push_back(token);
    ++length;
    while (length > 0 && Count(text, seen, length).total == 0) --length;
  }
  ASSERT_EQ(cursor.length, length);

  std::map<int32_t, std::map<int32_t, ContextAutomaton::Continuation>> levels;  // by match length, then token
  int32_t last_length = INT32_MAX;
  automaton.Continuations(cursor, 2, [&](const ContextAutomaton::Continuation& c) {
    ASSERT_LE(c.match_length, last_length) << "longer contexts come first";
    last_length = c.match_length;
    ASSERT_TRUE(levels[c.match_length].emplace(c.token, c).second) << "a token twice at one level";
  });
  ASSERT_LE(levels.size(), 3u);
  for (const auto& [match, tokens] : levels) {
    const NaiveCount naive = Count(text, context, match);
    ASSERT_EQ(tokens.size(), naive.next.size());
    for (const auto& [token, c] : tokens) {
      const auto it = naive.next.find(token);
      ASSERT_NE(it, naive.next.end());
      ASSERT_EQ(c.count, it->second.count) << "token " << token << " after " << match;
      ASSERT_EQ(c.total, naive.total);
    }
  }
  // The longest context that went on is the first shown, unless it lies more than two levels down.
  const int64_t longest = LongestFollowed(text, context, length);
  if (!levels.empty()) {
    ASSERT_EQ(levels.rbegin()->first, longest);
  }
  if (longest == length && length > 0) {
    ASSERT_FALSE(levels.empty());
  }
}

Text Digits(uint32_t value, int length, uint32_t base) {
  Text text(length);
  for (int32_t& token : text) {
    token = static_cast<int32_t>(value % base);
    value /= base;
  }
  return text;
}

TEST(ContextAutomaton, AllSmallTexts) {
  for (const auto& [base, longest] : {std::pair{2u, 8}, std::pair{3u, 5}}) {
    uint32_t texts = 1;
    for (int length = 1; length <= longest; ++length) {
      texts *= base;
      for (uint32_t value = 0; value < texts; ++value) {
        const Text text = Digits(value, length, base);
        ContextAutomaton automaton;
        for (const int32_t token : text) automaton.Extend(token);
        ASSERT_EQ(automaton.tokens(), length);
        for (int depth = 0; depth <= 2; ++depth) {
          for (uint32_t path = 0; path < (depth == 0 ? 1u : depth == 1 ? base : base * base); ++path) {
            CheckContinuations(automaton, text, Digits(path, depth, base));
            if (HasFatalFailure())
              FAIL() << "text " << testing::PrintToString(text) << " path " << path << "/" << depth;
          }
        }
      }
    }
  }
}

TEST(ContextAutomaton, RandomTextsAfterEveryToken) {
  std::mt19937 random(1);
  for (int round = 0; round < 30; ++round) {
    const uint32_t alphabet = 2 + random() % 20;
    ContextAutomaton automaton;
    Text text;
    for (int i = 0; i < 50; ++i) {
      // Now and then a piece of what was, so that long matches occur.
      const bool copy = text.size() > 8 && random() % 8 == 0;
      const size_t from = copy ? random() % (text.size() - 6) : 0;
      for (size_t j = 0; j < (copy ? 6 : 1); ++j) {
        const int32_t token = copy ? text[from + j] : static_cast<int32_t>(random() % alphabet);
        automaton.Extend(token);
        text.push_back(token);
      }
      Text path;
      for (uint32_t depth = random() % 5; depth > 0; --depth)
        path.push_back(static_cast<int32_t>(random() % (alphabet + 1)));
      CheckContinuations(automaton, text, path);
      ASSERT_FALSE(HasFatalFailure()) << "round " << round << ", " << testing::PrintToString(text);
    }
  }
}

TEST(ContextAutomaton, NewestContinuationsFirst) {
  ContextAutomaton automaton;
  for (const int32_t token : {1, 10, 1, 11, 1, 12, 1}) automaton.Extend(token);
  Text seen;
  automaton.Continuations(automaton.End(), 0, [&](const auto& c) { seen.push_back(c.token); });
  EXPECT_EQ(seen, (Text{12, 11, 10}));
}

TEST(ContextAutomaton, AtMostSoManyContinuationsOfOneContext) {
  ContextAutomaton automaton;
  for (int32_t i = 0; i < 1000; ++i) {
    automaton.Extend(1);
    automaton.Extend(1000 + i);
  }
  automaton.Extend(1);
  int visits = 0;
  automaton.Continuations(automaton.End(), 2, [&](const auto& c) {
    EXPECT_EQ(c.token, 1999 - visits);
    EXPECT_EQ(c.total, 1001u);
    ++visits;
  });
  EXPECT_EQ(visits, 32);
}

// Text that repeats one token without end: counts stop at kCountedSuffixes suffixes a token, and never exceed
// the truth.
TEST(ContextAutomaton, EndlessRepetitionIsCountedUpToTheCap) {
  constexpr int32_t kCap = ContextAutomaton::kCountedSuffixes;
  ContextAutomaton automaton;
  Text text;
  for (int i = 0; i < 3 * kCap; ++i) {
    automaton.Extend(5);
    text.push_back(5);
    ContextAutomaton::Cursor cursor;
    for (int64_t length = 1; length < static_cast<int64_t>(text.size()); ++length) {
      cursor = automaton.Advance(cursor, 5);
      ASSERT_EQ(cursor.length, length);
      automaton.Continuations(cursor, 0, [&](const auto& c) {
        const NaiveCount naive = Count(text, text, length);
        const auto capped = [](uint32_t n) { return std::min<uint32_t>(n, kCap); };
        ASSERT_EQ(c.total, capped(naive.total));
        ASSERT_EQ(c.count, capped(naive.next.at(5).count));
      });
    }
  }
}

TEST(ContextAutomaton, EmptyAndUnknown) {
  ContextAutomaton automaton;
  EXPECT_EQ(automaton.End().length, 0);
  EXPECT_EQ(automaton.Advance(automaton.End(), 3).length, 0);
  automaton.Extend(3);
  EXPECT_EQ(automaton.End().length, 0);
  automaton.Continuations(automaton.End(), 2, [](const auto&) { FAIL() << "nothing was ever followed"; });
}

}  // namespace
}  // namespace clamor
