// What a JSON schema comes to: for each place of a value, which values may stand there. Plain data that
// json_schema.cc fills, rule_analysis.cc completes and grammar.cc reads. Places, objects, arrays and words
// refer to each other by index, so a recursive schema is finite.
//
// Tested by tests/model/grammar/grammar_test.cc.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace clamor {

inline constexpr int kMaxGrammarDepth = 64;     // levels of objects and arrays in a text
inline constexpr int kMaxGrammarReadings = 32;  // ways to read a text that may have to be followed at once
inline constexpr uint8_t kNoHeight = 255;       // no value fits
inline constexpr uint16_t kNoValue = 0xFFFF;
inline constexpr uint32_t kNoMaximum = std::numeric_limits<uint32_t>::max();

struct StringRule {
  uint32_t min_length = 0;  // characters (code points)
  uint32_t max_length = kNoMaximum;
};

enum class NumberRule : uint8_t { kNone, kInteger, kAny };

// The union of what its parts accept.
struct ValueRule {
  std::vector<uint16_t> objects;  // into GrammarRules::objects
  std::vector<uint16_t> arrays;
  std::vector<StringRule> strings;
  NumberRule numbers = NumberRule::kNone;
  std::vector<uint16_t> words;  // scalars spelled out; sorted
  // The schema has no `type` but keywords of some, so by JSON Schema it accepts all others as well.
  bool leaves_out_types = false;

  uint8_t height = kNoHeight;  // levels that the flattest value needs
  uint32_t length_cap = 0;     // string lengths from here on are all the same to it
};

struct ObjectRule {
  struct Property {
    uint16_t word;
    uint16_t value;
    bool required;
  };
  std::vector<Property> properties;  // in the order of the text
  uint16_t additional = kNoValue;    // after them, under any other key

  uint8_t height = kNoHeight;
  std::vector<uint16_t>
      next_required;              // [properties + 1]: the first required one from there on, or their number
  std::vector<uint16_t> by_word;  // indices of properties, sorted by word
};

struct ArrayRule {
  std::vector<uint16_t> prefix;
  uint16_t rest = kNoValue;  // items after the prefix
  uint32_t min_items = 0;
  uint32_t max_items = kNoMaximum;

  uint8_t height = kNoHeight;
  uint16_t count_cap = 0;  // numbers of items from here on are all the same to it

  uint16_t ItemValue(uint32_t index) const { return index < prefix.size() ? prefix[index] : rest; }
};

struct GrammarRules {
  std::vector<std::string> words;  // property names and scalars as the text spells them; sorted, unique
  std::vector<ValueRule> values;
  std::vector<ObjectRule> objects;
  std::vector<ArrayRule> arrays;
  uint16_t root = 0;  // into values
};

}  // namespace clamor
