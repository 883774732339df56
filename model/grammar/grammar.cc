#include "model/grammar/grammar.h"

#include <algorithm>
#include <string_view>

#include "model/grammar/number_lexer.h"
#include "model/grammar/string_lexer.h"

namespace clamor {
namespace {

// GrammarState::gap_: nothing, one space, or a line feed and that many spaces less kLineFeed.
constexpr uint8_t kSpace = 1;
constexpr uint8_t kLineFeed = 2;
constexpr uint8_t kMaxGap = kLineFeed + 2 * kMaxGrammarDepth;  // two spaces for each level

bool Allows(NumberRule rule, NumberPart part) {
  return (rule == NumberRule::kAny && part != NumberPart::kInvalid) ||
         (rule == NumberRule::kInteger && IsIntegerSoFar(part));
}

// The readings of the last level, at the end of `readings`.
template <typename Readings>
auto LastLevel(Readings& readings) {
  size_t begin = readings.size() - 1;
  while (begin > 0 && readings[begin - 1].level == readings.back().level) --begin;
  return std::span(readings).subspan(begin);
}

// Keeps those readings of the last level of which `keep` is true; false if none is left.
template <typename Readings, typename Keep>
bool KeepIf(Readings* readings, Keep keep) {
  const auto last = LastLevel(*readings);
  const auto end = std::remove_if(last.begin(), last.end(), [&](auto& reading) { return !keep(reading); });
  const size_t kept = static_cast<size_t>(end - last.begin());
  readings->erase(readings->end() - (last.size() - kept), readings->end());
  return kept > 0;
}

// Takes `byte` as the next of a gap, if it can be that.
bool IsGap(uint8_t* gap, unsigned char byte) {
  if (byte == '\n' && *gap == 0) {
    *gap = kLineFeed;
  } else if (byte == ' ' && *gap == 0) {
    *gap = kSpace;
  } else if (byte == ' ' && *gap >= kLineFeed && *gap < kMaxGap) {
    ++*gap;
  } else {
    return false;
  }
  return true;
}

}  // namespace

GrammarState Grammar::Start() const {
  State state;
  state.readings_.push_back({.completes = kNoValue, .rule = 0, .at = 0, .level = 0, .kind = Kind::kRoot});
  return state;
}

bool Grammar::Advance(State* s, unsigned char byte) const {
  switch (s->mode_) {
    case Mode::kStart:
      return BeginValue(s, byte);
    case Mode::kOpenObject:
    case Mode::kNextKey:
      if (IsGap(&s->gap_, byte)) return true;
      if (byte == '}' && s->mode_ == Mode::kOpenObject) return Close(s, Kind::kObject);
      if (byte != '"') return false;
      s->mode_ = Mode::kKey;
      s->gap_ = 0;
      s->plain_ = true;
      BeginWord(s, byte);
      return KeepIf(&s->readings_, [&](const Reading& r) { return CanHaveKey(*s, r); });
    case Mode::kKey:
      return KeyByte(s, byte);
    case Mode::kColon:
      s->mode_ = Mode::kBeforeMember;
      return byte == ':';
    case Mode::kBeforeMember:
      if (byte == ' ' && s->gap_ == 0) {
        s->gap_ = kSpace;
        return true;
      }
      return BeginValue(s, byte);
    case Mode::kOpenArray:
    case Mode::kNextItem:
      if (IsGap(&s->gap_, byte)) return true;
      if (byte == ']' && s->mode_ == Mode::kOpenArray) return Close(s, Kind::kArray);
      return KeepIf(&s->readings_, [&](const Reading& r) { return CanBeginItem(r); }) && BeginValue(s, byte);
    case Mode::kString:
      return StringByte(s, byte);
    case Mode::kNumber:
      return NumberByte(s, byte);
    case Mode::kName:
      return NameByte(s, byte);
    case Mode::kAfterValue:
      return AfterValue(s, byte);
  }
  return false;
}

bool Grammar::AtEnd(const State& s) const {
  const Reading& last = s.readings_.back();
  if (last.kind != Kind::kRoot) return false;
  return s.mode_ == Mode::kAfterValue || (s.mode_ == Mode::kNumber && IsScalar(s, last));
}

std::optional<uint32_t> Grammar::FreeCharacters(const State& s) const {
  const bool between = s.part_ == static_cast<uint8_t>(StringPart::kBetween);
  if (s.mode_ == Mode::kKey && between && s.plain_) {
    for (const Reading& r : LastLevel(s.readings_)) {
      if (TakesAnyKey(r)) return kNoMaximum;
    }
  }
  if (s.mode_ != Mode::kString || !between) return std::nullopt;
  std::optional<uint32_t> most;
  for (const Reading& r : LastLevel(s.readings_)) {
    for (const StringRule& rule : rules_.values[ValueAt(r)].strings) {
      if (rule.max_length == kNoMaximum) return kNoMaximum;
      if (rule.max_length > s.count_) most = std::max(most.value_or(0), rule.max_length - s.count_);
    }
  }
  return most;
}

uint16_t Grammar::ValueAt(const Reading& r) const {
  if (r.kind == Kind::kRoot) return rules_.root;
  if (r.kind == Kind::kArray) return rules_.arrays[r.rule].ItemValue(r.at);
  const ObjectRule& object = rules_.objects[r.rule];
  return r.at < object.properties.size() ? object.properties[r.at].value : object.additional;
}

bool Grammar::BeginValue(State* s, unsigned char byte) const {
  s->gap_ = 0;
  if (byte == '{') return Open(s, Kind::kObject);
  if (byte == '[') return Open(s, Kind::kArray);
  if (byte == '"') {
    s->mode_ = Mode::kString;
    s->part_ = static_cast<uint8_t>(StringPart::kBetween);
  } else if (IsNumberByte(byte)) {
    s->mode_ = Mode::kNumber;
    // A number begins like what follows a minus.
    s->part_ =
        static_cast<uint8_t>(byte == '-' ? NumberPart::kMinus : NextNumberPart(NumberPart::kMinus, byte));
    s->count_ = CountsDigits(static_cast<NumberPart>(s->part_)) ? 1 : 0;
  } else {
    s->mode_ = Mode::kName;
  }
  BeginWord(s, byte);
  return KeepIf(&s->readings_, [&](const Reading& r) { return CanBeScalar(*s, r); });
}

// One reading for each rule of each value that is waited for.
bool Grammar::Open(State* s, Kind kind) const {
  const size_t end = s->readings_.size();
  const size_t begin = end - LastLevel(s->readings_).size();
  const int level = s->readings_.back().level;
  absl::InlinedVector<uint16_t, 8> seen;
  for (size_t i = begin; i < end; ++i) {
    const uint16_t value = ValueAt(s->readings_[i]);
    if (std::find(seen.begin(), seen.end(), value) != seen.end()) continue;
    seen.push_back(value);
    const ValueRule& rule = rules_.values[value];
    for (const uint16_t inner : kind == Kind::kObject ? rule.objects : rule.arrays) {
      const int height = kind == Kind::kObject ? rules_.objects[inner].height : rules_.arrays[inner].height;
      if (level + height > kMaxGrammarDepth) continue;
      s->readings_.push_back({value, inner, 0, static_cast<uint8_t>(level + 1), kind});
    }
  }
  s->mode_ = kind == Kind::kObject ? Mode::kOpenObject : Mode::kOpenArray;
  return s->readings_.size() > end;
}

bool Grammar::Close(State* s, Kind kind) const {
  if (s->readings_.back().kind != kind) return false;
  absl::InlinedVector<uint16_t, 8> completed;
  const auto last = LastLevel(s->readings_);
  for (const Reading& r : last) {
    if (CanClose(r)) completed.push_back(r.completes);
  }
  s->readings_.resize(s->readings_.size() - last.size());
  const bool any = KeepIf(&s->readings_, [&](const Reading& r) {
    return std::find(completed.begin(), completed.end(), ValueAt(r)) != completed.end();
  });
  if (any) Complete(s);
  return any;
}

// The readings that are left have their value: on to the next place.
void Grammar::Complete(State* s) const {
  for (Reading& r : LastLevel(s->readings_)) {
    if (r.kind == Kind::kObject) {
      r.at = static_cast<uint16_t>(std::min<size_t>(r.at + 1, rules_.objects[r.rule].properties.size()));
    } else if (r.kind == Kind::kArray) {
      r.at = std::min<uint16_t>(r.at + 1, rules_.arrays[r.rule].count_cap);
    }
  }
  // What is over must not tell states apart.
  s->mode_ = Mode::kAfterValue;
  s->part_ = s->gap_ = 0;
  s->count_ = 0;
  s->words_begin_ = s->words_end_ = s->matched_ = 0;
}

bool Grammar::AfterValue(State* s, unsigned char byte) const {
  const Kind kind = s->readings_.back().kind;
  if (kind == Kind::kRoot) return false;
  if (byte == '}') return Close(s, Kind::kObject);
  if (byte == ']') return Close(s, Kind::kArray);
  if (byte == ',' && s->gap_ == 0) {
    s->mode_ = kind == Kind::kObject ? Mode::kNextKey : Mode::kNextItem;
    if (kind == Kind::kArray) {
      return KeepIf(&s->readings_, [&](const Reading& r) { return CanBeginItem(r); });
    }
    return KeepIf(&s->readings_, [&](const Reading& r) {
      return TakesAnyKey(r) || HasPropertyAhead(r, 0, static_cast<uint16_t>(rules_.words.size()));
    });
  }
  // White space only stands before a closing bracket.
  return IsGap(&s->gap_, byte) && KeepIf(&s->readings_, [&](const Reading& r) { return CanClose(r); });
}

bool Grammar::KeyByte(State* s, unsigned char byte) const {
  const auto part = static_cast<StringPart>(s->part_);
  const StringPart next = NextStringPart(part, byte);
  if (next == StringPart::kInvalid) return false;
  // Keys that the schema does not name have one spelling, so that none can be named in disguise.
  if (part == StringPart::kEscape && (byte == 'u' || byte == '/')) s->plain_ = false;
  NarrowWords(s, byte);
  if (next != StringPart::kClosed) {
    s->part_ = static_cast<uint8_t>(next);
    return KeepIf(&s->readings_, [&](const Reading& r) { return CanHaveKey(*s, r); });
  }
  const bool any = KeepIf(&s->readings_, [&](const Reading& r) { return PropertyOfKey(*s, r).has_value(); });
  if (!any) return false;
  for (Reading& r : LastLevel(s->readings_)) r.at = *PropertyOfKey(*s, r);
  s->mode_ = Mode::kColon;
  s->part_ = s->gap_ = 0;
  s->plain_ = false;
  s->words_begin_ = s->words_end_ = s->matched_ = 0;
  return true;
}

bool Grammar::StringByte(State* s, unsigned char byte) const {
  const auto part = static_cast<StringPart>(s->part_);
  const StringPart next = NextStringPart(part, byte);
  if (next == StringPart::kInvalid) return false;
  NarrowWords(s, byte);
  if (next == StringPart::kClosed) {
    if (!KeepIf(&s->readings_, [&](const Reading& r) { return IsScalar(*s, r); })) return false;
    Complete(s);
    return true;
  }
  if (part == StringPart::kBetween) CountCharacter(s);
  s->part_ = static_cast<uint8_t>(next);
  return KeepIf(&s->readings_, [&](const Reading& r) { return CanBeScalar(*s, r); });
}

void Grammar::CountCharacter(State* s) const {
  uint32_t cap = 0;
  for (const Reading& r : LastLevel(s->readings_)) {
    cap = std::max(cap, rules_.values[ValueAt(r)].length_cap);
  }
  s->count_ = std::min(s->count_ + 1, cap);
}

bool Grammar::NumberByte(State* s, unsigned char byte) const {
  if (!IsNumberByte(byte)) {
    if (!KeepIf(&s->readings_, [&](const Reading& r) { return IsScalar(*s, r); })) return false;
    Complete(s);
    return AfterValue(s, byte);
  }
  NarrowWords(s, byte);
  const auto part = static_cast<NumberPart>(s->part_);
  NumberPart next = NextNumberPart(part, byte);
  s->count_ = next == part ? s->count_ + 1 : 1;
  if (s->count_ > MaxDigits(next)) next = NumberPart::kInvalid;
  if (!CountsDigits(next)) s->count_ = 0;
  s->part_ = static_cast<uint8_t>(next);
  return KeepIf(&s->readings_, [&](const Reading& r) { return CanBeScalar(*s, r); });
}

bool Grammar::NameByte(State* s, unsigned char byte) const {
  NarrowWords(s, byte);
  if (!KeepIf(&s->readings_, [&](const Reading& r) { return CanBeScalar(*s, r); })) return false;
  if (IsWord(*s)) Complete(s);
  return true;
}

void Grammar::BeginWord(State* s, unsigned char byte) const {
  s->words_begin_ = 0;
  s->words_end_ = static_cast<uint16_t>(rules_.words.size());
  s->matched_ = 0;
  NarrowWords(s, byte);
}

void Grammar::NarrowWords(State* s, unsigned char byte) const {
  const auto words = rules_.words.begin();
  const size_t at = s->matched_;
  const auto next = [at](const std::string& word) {  // -1: the word ends here
    return at < word.size() ? static_cast<int>(static_cast<unsigned char>(word[at])) : -1;
  };
  const auto begin = std::partition_point(words + s->words_begin_, words + s->words_end_,
                                          [&](const std::string& word) { return next(word) < byte; });
  const auto end = std::partition_point(begin, words + s->words_end_,
                                        [&](const std::string& word) { return next(word) == byte; });
  const bool any = begin != end;
  s->words_begin_ = any ? static_cast<uint16_t>(begin - words) : 0;
  s->words_end_ = any ? static_cast<uint16_t>(end - words) : 0;
  s->matched_ = any ? static_cast<uint16_t>(at + 1) : 0;
}

bool Grammar::IsWord(const State& s) const {
  return s.words_begin_ < s.words_end_ && rules_.words[s.words_begin_].size() == s.matched_;
}

bool Grammar::HasWordAhead(const State& s, const ValueRule& value) const {
  const auto word = std::lower_bound(value.words.begin(), value.words.end(), s.words_begin_);
  return word != value.words.end() && *word < s.words_end_;
}

bool Grammar::CanBeginItem(const Reading& r) const {
  const ArrayRule& array = rules_.arrays[r.rule];
  return r.at < array.max_items && IsWithinDepth(array.ItemValue(r.at), r.level);
}

bool Grammar::CanClose(const Reading& r) const {
  if (r.kind == Kind::kArray) return r.at >= rules_.arrays[r.rule].min_items;
  const ObjectRule& object = rules_.objects[r.rule];
  return object.next_required[r.at] == object.properties.size();
}

bool Grammar::TakesAnyKey(const Reading& r) const {
  const uint16_t additional = rules_.objects[r.rule].additional;
  return CanClose(r) && additional != kNoValue && IsWithinDepth(additional, r.level);
}

// Properties come in their order, and none that is required is passed over.
bool Grammar::HasPropertyAhead(const Reading& r, uint16_t words_begin, uint16_t words_end) const {
  const ObjectRule& object = rules_.objects[r.rule];
  const uint16_t last = object.next_required[r.at];
  auto next = std::lower_bound(
      object.by_word.begin(), object.by_word.end(), words_begin,
      [&](uint16_t property, uint16_t word) { return object.properties[property].word < word; });
  for (; next != object.by_word.end() && object.properties[*next].word < words_end; ++next) {
    const bool in_order = *next >= r.at && *next <= last;
    if (in_order && IsWithinDepth(object.properties[*next].value, r.level)) return true;
  }
  return false;
}

// Whether a key that begins like the one so far may stand here.
bool Grammar::CanHaveKey(const State& s, const Reading& r) const {
  return (s.plain_ && TakesAnyKey(r)) || HasPropertyAhead(r, s.words_begin_, s.words_end_);
}

// The property that the finished key means: one past the last for an additional one.
std::optional<uint16_t> Grammar::PropertyOfKey(const State& s, const Reading& r) const {
  const ObjectRule& object = rules_.objects[r.rule];
  const auto named =
      std::find_if(object.properties.begin(), object.properties.end(),
                   [&](const auto& property) { return IsWord(s) && property.word == s.words_begin_; });
  if (named != object.properties.end()) {
    if (!HasPropertyAhead(r, s.words_begin_, s.words_begin_ + 1)) return std::nullopt;
    return static_cast<uint16_t>(named - object.properties.begin());
  }
  if (!s.plain_ || !TakesAnyKey(r)) return std::nullopt;
  return static_cast<uint16_t>(object.properties.size());
}

bool Grammar::CanBeScalar(const State& s, const Reading& r) const {
  const ValueRule& value = rules_.values[ValueAt(r)];
  if (HasWordAhead(s, value)) return true;
  if (s.mode_ == Mode::kString) {
    return std::any_of(value.strings.begin(), value.strings.end(),
                       [&](const StringRule& rule) { return s.count_ <= rule.max_length; });
  }
  return s.mode_ == Mode::kNumber && Allows(value.numbers, static_cast<NumberPart>(s.part_));
}

bool Grammar::IsScalar(const State& s, const Reading& r) const {
  const ValueRule& value = rules_.values[ValueAt(r)];
  if (IsWord(s) && std::binary_search(value.words.begin(), value.words.end(), s.words_begin_)) return true;
  if (s.mode_ == Mode::kString) {
    return std::any_of(value.strings.begin(), value.strings.end(), [&](const StringRule& rule) {
      return rule.min_length <= s.count_ && s.count_ <= rule.max_length;
    });
  }
  const auto part = static_cast<NumberPart>(s.part_);
  return s.mode_ == Mode::kNumber && EndsNumber(part) && Allows(value.numbers, part);
}

}  // namespace clamor
