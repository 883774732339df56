// A suffix automaton over one sequence's own text (Blumer et al. 1985): source C.
//
// Every context that has occurred is a path from the initial state; the state reached knows how often the
// context occurred and by which tokens it went on. Extend is amortised O(1) but for counts, which are kept on
// at most kCountedSuffixes suffixes a token (more only in text that repeats itself without end, where they do
// not matter). Memory: about 170 bytes a token. Threads: none of its own; const methods may run side by side.
// Tested by tests/model/spec/context_automaton_test.cc against a naive count of n-grams.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"

namespace clamor {

class ContextAutomaton {
 public:
  static constexpr int32_t kCountedSuffixes = 64;

  // The longest suffix of some text that occurs in the automaton's text.
  struct Cursor {
    int32_t state = 0;
    int32_t length = 0;  // of the suffix, in tokens
  };
  struct Continuation {
    int32_t token;
    uint32_t count;        // occurrences of context + token
    uint32_t total;        // occurrences of the context
    int32_t match_length;  // of the context
  };

  ContextAutomaton();

  void Extend(int32_t token);

  // Of the whole text: its longest suffix that stood there before its end.
  Cursor End() const;
  // The cursor of the text behind `cursor` with `token` appended.
  Cursor Advance(Cursor cursor, int32_t token) const;

  // Calls `visit` for continuations of the longest context first, then of up to `shorter` shorter ones (which
  // may repeat tokens), newest first, at most kEdgesExamined of each; contexts of length 0 are left out.
  void Continuations(Cursor cursor, int shorter, absl::FunctionRef<void(const Continuation&)> visit) const;

  int64_t tokens() const { return tokens_; }

 private:
  static constexpr int kEdgesExamined = 32;

  struct State {
    int32_t length = 0;
    int32_t link = -1;
    int32_t first_edge = -1;
    uint32_t count = 0;
  };
  struct Edge {
    int32_t token, target, next;
  };

  static uint64_t Key(int32_t state, int32_t token) {
    return static_cast<uint64_t>(static_cast<uint32_t>(state)) << 32 | static_cast<uint32_t>(token);
  }
  int32_t NewState(int32_t length);
  void AddEdge(int32_t state, int32_t token, int32_t target);
  int32_t Target(int32_t state, int32_t token) const;  // -1: none
  int32_t Clone(int32_t state, int32_t length);

  std::vector<State> states_;
  std::vector<Edge> edges_;
  absl::flat_hash_map<uint64_t, int32_t> edge_of_;  // Key -> index into edges_
  int32_t last_ = 0;
  int64_t tokens_ = 0;
};

}  // namespace clamor
