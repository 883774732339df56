// Where continuations seen elsewhere come from (source S): declared here because the drafter needs it; the
// worker implements it over the retrieval service.
//
// Answers are hints: late, missing or wrong ones change speed, never output.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace clamor {

// What followed a context, with counts; children stand after their parents.
struct ContinuationTrie {
  struct Node {
    int32_t token;
    int32_t parent;  // index into nodes, -1: follows the context directly
    uint32_t count;  // >= 1
    // Occurrences of what stands before it, in the longest context that was seen to go this way, at least
    // `count`; and tokens of that context and the path. 0: as the parent and the whole trie say.
    uint32_t total = 0;
    int32_t match_length = 0;
  };
  int32_t match_length = 0;  // tokens at the context's end that matched
  uint32_t occurrences = 0;  // places where they did
  std::vector<Node> nodes;
};

class ContinuationSource {
 public:
  virtual ~ContinuationSource() = default;

  struct Answer {
    int64_t position;  // length of the context that the question was asked for
    ContinuationTrie trie;
  };

  // Asks for continuations of `context` (the tail of a sequence whose whole length is `position`). Returns at
  // once; a question that is still open for the same sequence may be dropped. Only the engine's thread calls
  // these four.
  virtual void Ask(uint64_t sequence, const std::string& tenant, std::span<const int32_t> context,
                   int64_t position) = 0;
  // The newest answer that has arrived for `sequence` since the last Take. Never waits.
  virtual std::optional<Answer> Take(uint64_t sequence) = 0;
  // Returns when no answer is on its way, at `deadline` at the latest; whether none is. An answer that misses
  // the next draft by a moment is late by a step.
  virtual bool Await(absl::Time) { return true; }
  // No more questions for `sequence`; an answer on its way is dropped.
  virtual void Forget(uint64_t sequence) = 0;
};

}  // namespace clamor
