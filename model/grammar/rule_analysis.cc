#include "model/grammar/rule_analysis.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace clamor {
namespace {

void SortWords(GrammarRules* rules) {
  std::vector<uint16_t> order(rules->words.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](uint16_t a, uint16_t b) { return rules->words[a] < rules->words[b]; });
  std::vector<uint16_t> place(order.size());
  std::vector<std::string> sorted;
  for (size_t i = 0; i < order.size(); ++i) {
    place[order[i]] = static_cast<uint16_t>(i);
    sorted.push_back(std::move(rules->words[order[i]]));
  }
  rules->words = std::move(sorted);
  for (ValueRule& value : rules->values) {
    for (uint16_t& word : value.words) word = place[word];
    std::sort(value.words.begin(), value.words.end());
    value.words.erase(std::unique(value.words.begin(), value.words.end()), value.words.end());
  }
  for (ObjectRule& object : rules->objects) {
    for (ObjectRule::Property& property : object.properties) property.word = place[property.word];
  }
}

void IndexProperties(ObjectRule* object) {
  const auto& properties = object->properties;
  const auto count = static_cast<uint16_t>(properties.size());
  object->next_required.assign(count + 1, count);
  for (int i = count - 1; i >= 0; --i) {
    object->next_required[i] =
        properties[i].required ? static_cast<uint16_t>(i) : object->next_required[i + 1];
  }
  object->by_word.resize(count);
  std::iota(object->by_word.begin(), object->by_word.end(), 0);
  std::sort(object->by_word.begin(), object->by_word.end(),
            [&](uint16_t a, uint16_t b) { return properties[a].word < properties[b].word; });
}

uint8_t OneMore(uint8_t height) {
  return height >= kMaxGrammarDepth ? kNoHeight : static_cast<uint8_t>(height + 1);
}

uint8_t HeightOf(const GrammarRules& rules, const ObjectRule& object) {
  uint8_t inner = 0;
  for (const ObjectRule::Property& property : object.properties) {
    if (property.required) inner = std::max(inner, rules.values[property.value].height);
  }
  return OneMore(inner);
}

uint8_t HeightOf(const GrammarRules& rules, const ArrayRule& array) {
  if (array.min_items > array.max_items) return kNoHeight;
  uint8_t inner = 0;
  // Past the prefix all items are alike: one of them stands for all.
  const size_t looked_at = std::min<size_t>(array.min_items, array.prefix.size() + 1);
  for (size_t i = 0; i < looked_at; ++i) {
    const uint16_t item = array.ItemValue(static_cast<uint32_t>(i));
    inner = std::max(inner, item == kNoValue ? kNoHeight : rules.values[item].height);
  }
  return OneMore(inner);
}

uint8_t HeightOf(const GrammarRules& rules, const ValueRule& value) {
  const bool scalar = !value.strings.empty() || value.numbers != NumberRule::kNone || !value.words.empty();
  uint8_t height = scalar ? 0 : kNoHeight;
  for (const uint16_t object : value.objects) height = std::min(height, rules.objects[object].height);
  for (const uint16_t array : value.arrays) height = std::min(height, rules.arrays[array].height);
  return height;
}

// Heights only fall, and the flattest values settle first: round h settles those of height h.
void FindHeights(GrammarRules* rules) {
  for (int round = 0; round <= kMaxGrammarDepth; ++round) {
    for (ValueRule& value : rules->values) value.height = HeightOf(*rules, value);
    for (ObjectRule& object : rules->objects) object.height = HeightOf(*rules, object);
    for (ArrayRule& array : rules->arrays) array.height = HeightOf(*rules, array);
  }
  for (ValueRule& value : rules->values) value.height = HeightOf(*rules, value);
}

// Sets of values that may have to be read at once, by union and find.
class AlternativeSets {
 public:
  explicit AlternativeSets(const GrammarRules& rules) : rules_(rules), parent_(rules.values.size()) {
    std::iota(parent_.begin(), parent_.end(), 0);
    for (uint16_t v = 0; v < parent_.size(); ++v) {
      members_.push_back({v});
      changed_.push_back(v);
    }
    while (!changed_.empty()) {
      const uint16_t set = changed_.back();
      changed_.pop_back();
      if (Find(set) == set) Descend(set);
    }
  }

  Ambiguity Worst() const {
    Ambiguity worst;
    for (const std::vector<uint16_t>& set : members_) {
      size_t objects = 0;
      size_t arrays = 0;
      size_t strings = 0;
      for (const uint16_t v : set) {
        objects += rules_.values[v].objects.size();
        arrays += rules_.values[v].arrays.size();
        strings += rules_.values[v].strings.size();
      }
      const size_t readings = std::max({objects, arrays, strings});
      if (readings > worst.readings) worst = {readings, set.front()};
    }
    return worst;
  }

 private:
  uint16_t Find(uint16_t value) {
    while (parent_[value] != value) value = parent_[value] = parent_[parent_[value]];
    return value;
  }

  void Join(uint16_t a, uint16_t b) {
    a = Find(a);
    b = Find(b);
    if (a == b) return;
    if (members_[a].size() < members_[b].size()) std::swap(a, b);
    parent_[b] = a;
    members_[a].insert(members_[a].end(), members_[b].begin(), members_[b].end());
    members_[b].clear();
    changed_.push_back(a);
  }

  // Joins what the values of a set have under the same key.
  void Descend(uint16_t set) {
    const std::vector<uint16_t> values = members_[set];
    std::vector<uint16_t> objects;
    std::vector<uint16_t> arrays;
    for (const uint16_t v : values) {
      const ValueRule& value = rules_.values[v];
      objects.insert(objects.end(), value.objects.begin(), value.objects.end());
      arrays.insert(arrays.end(), value.arrays.begin(), value.arrays.end());
    }
    // A rule that two values share is read by two of them, but what is below is the same.
    for (auto* list : {&objects, &arrays}) {
      std::sort(list->begin(), list->end());
      list->erase(std::unique(list->begin(), list->end()), list->end());
    }
    if (objects.size() > 1) JoinMembers(objects);
    if (arrays.size() > 1) JoinItems(arrays);
  }

  void JoinMembers(const std::vector<uint16_t>& objects) {
    const bool any_key = std::any_of(objects.begin(), objects.end(), [&](uint16_t object) {
      return rules_.objects[object].additional != kNoValue;
    });
    std::map<uint16_t, uint16_t> first;  // key -> a value under it
    const auto meet = [&](uint16_t word, uint16_t value) {
      // Where one object takes any key, keys tell nothing apart.
      const auto [it, fresh] = first.emplace(any_key ? uint16_t{0} : word, value);
      if (!fresh) Join(it->second, value);
    };
    for (const uint16_t object : objects) {
      const ObjectRule& rule = rules_.objects[object];
      for (const ObjectRule::Property& property : rule.properties) meet(property.word, property.value);
      if (rule.additional != kNoValue) meet(0, rule.additional);
    }
  }

  void JoinItems(const std::vector<uint16_t>& arrays) {
    uint16_t first = kNoValue;
    const auto meet = [&](uint16_t value) {
      if (value == kNoValue) return;
      if (first == kNoValue) first = value;
      Join(first, value);
    };
    for (const uint16_t array : arrays) {
      for (const uint16_t item : rules_.arrays[array].prefix) meet(item);
      meet(rules_.arrays[array].rest);
    }
  }

  const GrammarRules& rules_;
  std::vector<uint16_t> parent_;
  std::vector<std::vector<uint16_t>> members_;  // of each set, at its representative
  std::vector<uint16_t> changed_;
};

// What the words of a value are.
struct WordKinds {
  bool strings = false;
  bool numbers = false;
  bool fractions = false;  // numbers that have more than one spelling
};

WordKinds KindsOf(const GrammarRules& rules, const ValueRule& value) {
  WordKinds kinds;
  for (const uint16_t w : value.words) {
    const std::string& word = rules.words[w];
    const bool number = word[0] == '-' || (word[0] >= '0' && word[0] <= '9');
    kinds.strings |= word[0] == '"';
    kinds.numbers |= number;
    kinds.fractions |= number && (word.find_first_of(".e") != std::string::npos || word == "-0");
  }
  return kinds;
}

bool ShareWord(const ValueRule& a, const ValueRule& b) {
  return std::any_of(a.words.begin(), a.words.end(),
                     [&](uint16_t word) { return std::binary_search(b.words.begin(), b.words.end(), word); });
}

bool AreDisjointScalars(const GrammarRules& rules, const ValueRule& a, const ValueRule& b) {
  if (a.leaves_out_types || b.leaves_out_types) return false;
  const WordKinds in_a = KindsOf(rules, a);
  const WordKinds in_b = KindsOf(rules, b);
  const bool strings_a = !a.strings.empty();
  const bool strings_b = !b.strings.empty();
  const bool numbers_a = a.numbers != NumberRule::kNone;
  const bool numbers_b = b.numbers != NumberRule::kNone;
  if ((strings_a && (strings_b || in_b.strings)) || (strings_b && in_a.strings)) return false;
  if ((numbers_a && (numbers_b || in_b.numbers)) || (numbers_b && in_a.numbers)) return false;
  if ((in_a.fractions && in_b.numbers) || (in_b.fractions && in_a.numbers)) return false;
  return !ShareWord(a, b);
}

bool IsScalarOnly(const ValueRule& value) { return value.objects.empty() && value.arrays.empty(); }

// By a property that both require and that cannot have the same value in both: a tag.
bool AreDisjointObjects(const GrammarRules& rules, const ObjectRule& a, const ObjectRule& b) {
  auto i = a.by_word.begin();
  auto j = b.by_word.begin();
  while (i != a.by_word.end() && j != b.by_word.end()) {
    const ObjectRule::Property& p = a.properties[*i];
    const ObjectRule::Property& q = b.properties[*j];
    if (p.word == q.word && p.required && q.required) {
      const ValueRule& in_a = rules.values[p.value];
      const ValueRule& in_b = rules.values[q.value];
      if (IsScalarOnly(in_a) && IsScalarOnly(in_b) && AreDisjointScalars(rules, in_a, in_b)) return true;
    }
    if (p.word <= q.word) ++i;
    if (q.word <= p.word) ++j;
  }
  return false;
}

}  // namespace

void CompleteRules(GrammarRules* rules) {
  SortWords(rules);
  for (ObjectRule& object : rules->objects) IndexProperties(&object);
  for (ArrayRule& array : rules->arrays) {
    if (array.rest == kNoValue) {
      array.max_items = std::min(array.max_items, static_cast<uint32_t>(array.prefix.size()));
    }
    const uint32_t prefix = static_cast<uint32_t>(array.prefix.size());
    const uint32_t end = array.max_items == kNoMaximum ? 0 : array.max_items;
    array.count_cap = static_cast<uint16_t>(std::max({array.min_items, prefix, end}));
  }
  for (ValueRule& value : rules->values) {
    for (const StringRule& rule : value.strings) {
      value.length_cap =
          std::max(value.length_cap, rule.max_length == kNoMaximum ? rule.min_length : rule.max_length + 1);
    }
  }
  FindHeights(rules);
}

Ambiguity FindWorstAmbiguity(const GrammarRules& rules) { return AlternativeSets(rules).Worst(); }

bool AreDisjoint(const GrammarRules& rules, uint16_t a, uint16_t b) {
  const ValueRule& in_a = rules.values[a];
  const ValueRule& in_b = rules.values[b];
  if (!AreDisjointScalars(rules, in_a, in_b)) return false;
  if (!in_a.arrays.empty() && !in_b.arrays.empty()) return false;
  for (const uint16_t object_a : in_a.objects) {
    for (const uint16_t object_b : in_b.objects) {
      if (!AreDisjointObjects(rules, rules.objects[object_a], rules.objects[object_b])) return false;
    }
  }
  return true;
}

}  // namespace clamor
