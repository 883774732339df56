// What follows from rules as written: what they need of nesting, and how many readings of one text they
// allow.
//
// Tested by tests/model/grammar/json_schema_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model/grammar/rules.h"

namespace clamor {

// Sorts the words and renumbers them; fills every `height`, `length_cap`, `count_cap`, `next_required` and
// `by_word`. Afterwards a part whose height is above what is left of kMaxGrammarDepth is known to be out of
// reach, so an automaton that never enters one can always finish.
void CompleteRules(GrammarRules* rules);

// The most rules for objects, arrays or strings that one stretch of text may have to be read by at the same
// level, and one of the values where that happens. An upper bound: values that stand under the same key of
// objects which are alternatives of each other are taken to be alternatives, too, and so on down; names are
// looked at, literals are not.
struct Ambiguity {
  size_t readings = 0;
  uint16_t value = 0;
};
Ambiguity FindWorstAmbiguity(const GrammarRules& rules);

// Whether it is certain that by their schemas no JSON value is accepted by both. REQUIRES: CompleteRules was
// called.
bool AreDisjoint(const GrammarRules& rules, uint16_t a, uint16_t b);

}  // namespace clamor
