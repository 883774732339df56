#include "model/spec/context_automaton.h"

namespace clamor {

ContextAutomaton::ContextAutomaton() { NewState(0); }

int32_t ContextAutomaton::NewState(int32_t length) {
  states_.push_back({.length = length});
  return static_cast<int32_t>(states_.size()) - 1;
}

int32_t ContextAutomaton::Target(int32_t state, int32_t token) const {
  const auto it = edge_of_.find(Key(state, token));
  return it == edge_of_.end() ? -1 : edges_[it->second].target;
}

// Edges are chained newest first, so that Continuations sees recent text before old.
void ContextAutomaton::AddEdge(int32_t state, int32_t token, int32_t target) {
  edge_of_[Key(state, token)] = static_cast<int32_t>(edges_.size());
  edges_.push_back({.token = token, .target = target, .next = states_[state].first_edge});
  states_[state].first_edge = static_cast<int32_t>(edges_.size()) - 1;
}

// A state of the shorter contexts of `state`, with the same ways on.
int32_t ContextAutomaton::Clone(int32_t state, int32_t length) {
  const int32_t clone = NewState(length);
  states_[clone].link = states_[state].link;
  states_[clone].count = states_[state].count;
  for (int32_t e = states_[state].first_edge; e >= 0; e = edges_[e].next) {
    AddEdge(clone, edges_[e].token, edges_[e].target);
  }
  states_[state].link = clone;
  return clone;
}

void ContextAutomaton::Extend(int32_t token) {
  const int32_t current = NewState(states_[last_].length + 1);
  int32_t p = last_;
  for (; p >= 0 && Target(p, token) < 0; p = states_[p].link) AddEdge(p, token, current);
  if (p < 0) {
    states_[current].link = 0;
  } else {
    const int32_t q = Target(p, token);
    if (states_[q].length == states_[p].length + 1) {
      states_[current].link = q;
    } else {
      const int32_t clone = Clone(q, states_[p].length + 1);
      for (; p >= 0 && Target(p, token) == q; p = states_[p].link)
        edges_[edge_of_[Key(p, token)]].target = clone;
      states_[current].link = clone;
    }
  }
  last_ = current;
  ++tokens_;
  int32_t counted = 0;
  for (int32_t s = current; s > 0 && counted < kCountedSuffixes; s = states_[s].link, ++counted)
    ++states_[s].count;
}

ContextAutomaton::Cursor ContextAutomaton::End() const {
  const int32_t state = states_[last_].link;
  return state < 0 ? Cursor{} : Cursor{.state = state, .length = states_[state].length};
}

ContextAutomaton::Cursor ContextAutomaton::Advance(Cursor cursor, int32_t token) const {
  for (int32_t state = cursor.state; state >= 0; state = states_[state].link) {
    if (state != cursor.state) cursor.length = states_[state].length;
    if (const int32_t target = Target(state, token); target >= 0)
      return {.state = target, .length = cursor.length + 1};
  }
  return {};
}

void ContextAutomaton::Continuations(Cursor cursor, int shorter,
                                     absl::FunctionRef<void(const Continuation&)> visit) const {
  int32_t length = cursor.length;
  for (int32_t state = cursor.state; state > 0 && length > 0 && shorter >= 0; --shorter) {
    int examined = 0;
    for (int32_t e = states_[state].first_edge; e >= 0 && examined < kEdgesExamined;
         e = edges_[e].next, ++examined) {
      visit({.token = edges_[e].token,
             .count = states_[edges_[e].target].count,
             .total = states_[state].count,
             .match_length = length});
    }
    state = states_[state].link;
    if (state >= 0) length = states_[state].length;
  }
}

}  // namespace clamor
