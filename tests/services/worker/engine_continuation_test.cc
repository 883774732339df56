// An answer that another worker began goes on where that one stopped, to the byte: characters, stop strings
// and ends that the change falls into. tests/equivalence/sampling_test.cc does the same for everything that
// draws tokens.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/grammar/token_trie.h"
#include "tests/services/worker/engine_fixture.h"

namespace clamor {
namespace {

class ContinuationTest : public EngineTest {
 protected:
  ContinuationTest() : trie_(tokenizer_) {}

  // The token of that single byte.
  int32_t ByteToken(unsigned char byte) const {
    for (int32_t id = 0; id < trie_.vocab_size(); ++id) {
      if (trie_.Bytes(id) == std::string(1, static_cast<char>(byte))) return id;
    }
    ADD_FAILURE() << "no token is byte " << int{byte};
    return 0;
  }

  // An answer of these bytes, in an order that the seed decides.
  Request OfBytes(const std::string& bytes, int32_t max_tokens, uint64_t seed) const {
    Request request = Golden(1, max_tokens);
    request.sampling = {.temperature = 1, .seed = seed};
    for (const char byte : bytes)
      request.sampling.logit_bias.push_back({ByteToken(static_cast<unsigned char>(byte)), 100});
    return request;
  }

  // What every worker that goes on after the first `split` tokens, all splits, makes of it.
  void ExpectTheSameFromEverySplit(const Request& request, const RecordingSink& whole) {
    for (size_t split = 0; split <= whole.ids.size(); ++split) {
      SCOPED_TRACE(split);
      Request rest = request;
      rest.emitted_ids.assign(whole.ids.begin(), whole.ids.begin() + static_cast<int64_t>(split));
      rest.speculation = kModes[split % std::size(kModes)];
      const RecordingSink sink = Answer(rest);
      std::vector<int32_t> ids = rest.emitted_ids;
      ids.insert(ids.end(), sink.ids.begin(), sink.ids.end());
      ASSERT_EQ(ids, whole.ids);
      ASSERT_EQ(whole.text.substr(0, whole.text_at[split]) + sink.text, whole.text);
      if (sink.deltas > 0) {
        ASSERT_EQ(sink.first_text_byte, static_cast<int64_t>(whole.text_at[split]));
      }
      ASSERT_EQ(sink.finished->reason, whole.finished->reason);
      ASSERT_EQ(sink.finished->matched_stop, whole.finished->matched_stop);
    }
  }

  const TokenTrie trie_;
};

TEST_F(ContinuationTest, InsideOfCharacters) {
  int inside = 0;
  for (uint64_t seed = 0; seed < (kSanitized ? 1 : 4); ++seed) {
    const Request request = OfBytes("\xF0\x9F\x98\x80\xC3\xA9z", 40, seed);
    const RecordingSink whole = Answer(request);
    ASSERT_EQ(whole.ids.size(), 40u);
    for (size_t i = 1; i < whole.ids.size(); ++i) inside += whole.text_at[i] == whole.text_at[i - 1];
    ExpectTheSameFromEverySplit(request, whole);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(inside, 10) << "ids without text of their own";
}

TEST_F(ContinuationTest, InsideOfStopStrings) {
  int stopped = 0, held = 0;
  for (uint64_t seed = 0; seed < (kSanitized ? 2 : 10); ++seed) {
    Request request = OfBytes("ab\xC3\xA9", 40, seed);
    request.stop = {
        "a\xC3\xA9"
        "ba",
        "bbbba", "aabb\xC3\xA9"};
    request.min_tokens = static_cast<int32_t>(seed % 3) * 10;
    const RecordingSink whole = Answer(request);
    stopped += !whole.finished->matched_stop.empty();
    for (size_t i = 1; i < whole.ids.size(); ++i) held += whole.text_at[i] == whole.text_at[i - 1];
    ExpectTheSameFromEverySplit(request, whole);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(stopped, 0);
  EXPECT_GT(held, 20);
}

// The bytes of an unfinished character become text at the end only: here they complete the stop string, and
// whoever is told the whole answer must find that, too.
TEST_F(ContinuationTest, StopStringThatOnlyTheEndCompletes) {
  Request request = OfBytes("\xC3", 1, 0);
  request.stop = {"\xEF\xBF\xBD"};
  const RecordingSink whole = Answer(request);
  ASSERT_EQ(whole.finished->matched_stop, request.stop[0]);
  ASSERT_EQ(whole.finished->reason, FinishReason::kStop);
  ExpectTheSameFromEverySplit(request, whole);
}

}  // namespace
}  // namespace clamor
