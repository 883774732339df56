// The JSON texts that a schema allows, byte by byte: an automaton with a stack.
//
// What may stand where is in two layers. The outer one is JSON itself and needs no schema: after a prefix,
// every text has the same brackets open and is inside the same string, number or gap. The inner one is the
// set of *readings*: the objects or arrays of the schema that the open bracket may stand for, each with its
// place in it. One per level is the rule; alternatives (`anyOf`) that begin alike give several until a byte
// tells them apart. A reading remembers only which value it would complete, not who asked for it (as when
// visibly pushdown automata are made deterministic: Alur and Madhusudan, STOC 2004), so readings do not
// multiply from level to level and kMaxGrammarReadings bounds them.
//
// The form of the texts is in README.md. Every live state can be continued to a complete text.
//
// Immutable; may be used from any thread. Tested by tests/model/grammar/grammar_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "model/grammar/rules.h"

namespace clamor {

// A prefix of a text, as far as it matters for what may follow. A value of some 100 bytes, more only for
// texts nested deeper than seven levels; at most kMaxGrammarDepth * kMaxGrammarReadings readings of 8 bytes.
class GrammarState {
 public:
  friend bool operator==(const GrammarState&, const GrammarState&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const GrammarState& s) {
    return H::combine(std::move(h), s.readings_, s.mode_, s.part_, s.gap_, s.plain_, s.count_, s.words_begin_,
                      s.words_end_, s.matched_);
  }

 private:
  friend class Grammar;

  enum class Mode : uint8_t {
    kStart,
    kOpenObject,  // after {
    kNextKey,     // after the comma of an object
    kKey,
    kColon,
    kBeforeMember,  // after the colon
    kOpenArray,     // after [
    kNextItem,      // after the comma of an array
    kString,
    kNumber,
    kName,  // true, false, null
    kAfterValue,
  };
  enum class Kind : uint8_t { kRoot, kObject, kArray };

  struct Reading {
    uint16_t completes;  // the value that this object or array is one of
    uint16_t rule;       // into objects or arrays
    uint16_t at;         // property (the next possible one before its key is known) or item
    uint8_t level;
    Kind kind;

    friend bool operator==(const Reading&, const Reading&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Reading& r) {
      return H::combine(std::move(h), r.completes, r.rule, r.at, r.level, r.kind);
    }
  };

  // Outermost level first. The readings of the last level are alive; those of outer levels wait for a value.
  absl::InlinedVector<Reading, 8> readings_;
  Mode mode_ = Mode::kStart;
  uint8_t part_ = 0;  // of a string or number: see grammar.cc
  uint8_t gap_ = 0;   // white space since the last token: see grammar.cc
  // In a key: so far spelled as any key may be, not only as some key that the schema names.
  bool plain_ = false;
  uint32_t count_ = 0;  // characters of a string, as far as anyone counts them; digits of a number's part
  // The words that begin with the `matched_` bytes of the key or scalar so far.
  uint16_t words_begin_ = 0;
  uint16_t words_end_ = 0;
  uint16_t matched_ = 0;
};

class Grammar {
 public:
  // REQUIRES: CompleteRules was called, the root's height is at most kMaxGrammarDepth, and
  // FindWorstAmbiguity finds no more than kMaxGrammarReadings.
  explicit Grammar(GrammarRules rules) : rules_(std::move(rules)) {}

  GrammarState Start() const;
  // False: no text goes on like that, and `state` must not be used again.
  bool Advance(GrammarState* state, unsigned char byte) const;
  // Whether the text so far is complete. It may still go on: "1" to "12".
  bool AtEnd(const GrammarState& state) const;

  // In a string between two characters: how many characters may follow whatever they are, if any may
  // (kNoMaximum: any number). Quotes and backslashes are not counted among them. Otherwise nothing.
  std::optional<uint32_t> FreeCharacters(const GrammarState& state) const;

 private:
  using State = GrammarState;
  using Mode = GrammarState::Mode;
  using Kind = GrammarState::Kind;
  using Reading = GrammarState::Reading;

  // The value that `reading` is at, or waits for.
  uint16_t ValueAt(const Reading& reading) const;
  bool IsWithinDepth(uint16_t value, int level) const {
    return level + rules_.values[value].height <= kMaxGrammarDepth;
  }

  bool BeginValue(State* s, unsigned char byte) const;
  bool Open(State* s, Kind kind) const;
  bool Close(State* s, Kind kind) const;
  bool AfterValue(State* s, unsigned char byte) const;
  void Complete(State* s) const;

  bool KeyByte(State* s, unsigned char byte) const;
  bool StringByte(State* s, unsigned char byte) const;
  bool NumberByte(State* s, unsigned char byte) const;
  bool NameByte(State* s, unsigned char byte) const;
  void CountCharacter(State* s) const;

  void BeginWord(State* s, unsigned char byte) const;
  void NarrowWords(State* s, unsigned char byte) const;
  bool IsWord(const State& s) const;  // the text so far is the first word of the range
  bool HasWordAhead(const State& s, const ValueRule& value) const;

  bool CanBeginItem(const Reading& reading) const;
  bool CanClose(const Reading& reading) const;
  bool TakesAnyKey(const Reading& reading) const;
  bool HasPropertyAhead(const Reading& reading, uint16_t words_begin, uint16_t words_end) const;
  bool CanHaveKey(const State& s, const Reading& reading) const;
  std::optional<uint16_t> PropertyOfKey(const State& s, const Reading& reading) const;
  bool CanBeScalar(const State& s, const Reading& reading) const;
  bool IsScalar(const State& s, const Reading& reading) const;

  GrammarRules rules_;
};

}  // namespace clamor
