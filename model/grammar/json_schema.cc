#include "model/grammar/json_schema.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/status_macros.h"
#include "model/grammar/rule_analysis.h"
#include "model/grammar/schema_place.h"
#include "model/tokenizer/json_field.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

using Json = nlohmann::ordered_json;  // the order of `properties` is that of the text
using Place = const SchemaPlace*;

constexpr size_t kMaxMembers = 1024;      // of one object of the schema
constexpr size_t kMaxValues = 4096;       // places for a value
constexpr size_t kMaxExpansions = 16384;  // schemas met, each through each value that leads to it
constexpr size_t kMaxChain = 64;          // $ref to $ref, anyOf in anyOf
constexpr size_t kMaxOneOf = 64;
constexpr int64_t kMaxLength = 1 << 24;
constexpr int64_t kMaxItems = 65534;

// Types of JSON Schema, as bits.
enum Type : unsigned {
  kObject = 1,
  kArray = 2,
  kString = 4,
  kNumber = 8,
  kInteger = 16,
  kBoolean = 32,
  kNull = 64,
  kEvery = 127
};

struct NamedType {
  std::string_view name;
  unsigned type;
};
constexpr NamedType kTypes[] = {{"object", kObject}, {"array", kArray},     {"string", kString},
                                {"number", kNumber}, {"integer", kInteger}, {"boolean", kBoolean},
                                {"null", kNull}};

// Keywords that say something of one type only.
constexpr NamedType kTypedKeywords[] = {
    {"properties", kObject}, {"required", kObject},   {"additionalProperties", kObject},
    {"items", kArray},       {"prefixItems", kArray}, {"minItems", kArray},
    {"maxItems", kArray},    {"minLength", kString},  {"maxLength", kString}};
// Keywords that say all by themselves, and exclude each other.
constexpr std::string_view kWholeKeywords[] = {"$ref", "anyOf", "oneOf", "allOf", "enum", "const"};
constexpr std::string_view kAnnotations[] = {"title",     "description", "default",    "examples",
                                             "$comment",  "$schema",     "deprecated", "readOnly",
                                             "writeOnly", "$defs",       "definitions"};

template <typename Names, typename Name>
bool Contains(const Names& names, const Name& name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

unsigned TypeOfKeyword(std::string_view keyword) {
  for (const NamedType& typed : kTypedKeywords) {
    if (typed.name == keyword) return typed.type;
  }
  return 0;
}

const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

std::string Spelled(const Json& scalar) {
  return scalar.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

bool HasType(const Json& value, unsigned types) {
  if (value.is_object()) return (types & kObject) != 0;
  if (value.is_array()) return (types & kArray) != 0;
  if (value.is_string()) return (types & kString) != 0;
  if (value.is_boolean()) return (types & kBoolean) != 0;
  if (value.is_null()) return (types & kNull) != 0;
  const double number = value.get<double>();
  return (types & kNumber) != 0 ||
         ((types & kInteger) != 0 &&
          number == static_cast<double>(static_cast<int64_t>(std::clamp(number, -9e18, 9e18))));
}

// nlohmann's ordered objects search their members one by one, so their number is looked at before.
absl::Status CheckMembers(const nlohmann::json& json) {
  if (json.is_object() && json.size() > kMaxMembers) {
    return absl::InvalidArgumentError(
        absl::StrCat("schema: an object with ", json.size(), " members, limit is ", kMaxMembers));
  }
  if (!json.is_structured()) return absl::OkStatus();
  for (const nlohmann::json& inner : json) CLAMOR_RETURN_IF_ERROR(CheckMembers(inner));
  return absl::OkStatus();
}

// Each schema of the text becomes a value once; those that lead to others ($ref, anyOf) take over what these
// accept. Values wait in `pending_` instead of recursing, so $ref may lead anywhere.
class SchemaCompiler {
 public:
  explicit SchemaCompiler(const Json& root) : root_(root) {
    for (const char* section : {"$defs", "definitions"}) {
      const Json* definitions = root.is_object() ? Find(root, section) : nullptr;
      if (definitions == nullptr || !definitions->is_object()) continue;
      for (const auto& [name, schema] : definitions->items()) {
        definitions_.try_emplace(absl::StrCat("#/", section, "/", name),
                                 Definition{&schema, Step(Step(&top_, section), name)});
      }
    }
  }

  absl::StatusOr<Grammar> Compile();

 private:
  struct Definition {
    const Json* schema;
    Place place;
  };
  struct Pending {
    const Json* json;
    Place place;
    uint16_t value;
    bool constant;  // `json` is a value, not a schema
  };
  struct OneOf {
    std::vector<uint16_t> values;
    Place place;
  };

  Place Step(Place parent, std::string_view key) {
    places_.push_back({parent, key});
    return &places_.back();
  }
  Place Step(Place parent, size_t index) {
    indices_.push_back(absl::StrCat(index));
    return Step(parent, indices_.back());
  }

  absl::StatusOr<uint16_t> ValueOf(const Json& json, Place place, bool constant = false);
  uint16_t AnyValue();
  uint16_t WordOf(const Json& scalar);

  // What a schema accepts is added to `value`.
  absl::Status Add(uint16_t value, const Json& schema, Place place);
  absl::Status AddKeywords(uint16_t value, const Json& schema, Place place);
  absl::Status AddReference(uint16_t value, const Json& reference, Place place);
  absl::Status AddAlternatives(uint16_t value, const Json& schemas, Place place, bool exclusive);
  absl::Status AddTyped(uint16_t value, const Json& schema, Place place);
  absl::Status AddObject(uint16_t value, const Json& schema, Place place);
  absl::Status AddArray(uint16_t value, const Json& schema, Place place);
  absl::Status AddString(uint16_t value, const Json& schema, Place place);
  absl::Status AddConstant(uint16_t value, const Json& constant, Place place);
  absl::Status AddConstants(uint16_t value, const Json& schema, Place place);
  void AddAny(uint16_t value);

  absl::Status CheckKeywords(const Json& schema, Place place);
  absl::StatusOr<unsigned> TypesOf(const Json& schema, Place place);
  absl::StatusOr<absl::flat_hash_set<std::string_view>> RequiredNames(const Json& schema, Place place);
  absl::StatusOr<uint32_t> Bound(const Json& schema, const char* key, int64_t limit, uint32_t absent,
                                 Place place);
  absl::Status CheckRules();

  const Json& root_;
  SchemaPlace top_;
  std::deque<SchemaPlace> places_;
  std::deque<std::string> indices_;
  absl::flat_hash_map<std::string, Definition> definitions_;

  GrammarRules rules_;
  std::vector<Place> value_places_;
  absl::flat_hash_map<const Json*, uint16_t> schema_values_;
  absl::flat_hash_map<const Json*, uint16_t> constant_values_;
  absl::flat_hash_map<const Json*, uint16_t> objects_;
  absl::flat_hash_map<const Json*, uint16_t> arrays_;
  absl::flat_hash_map<std::string, uint16_t> words_;
  uint16_t any_ = kNoValue;
  std::vector<Pending> pending_;
  std::vector<OneOf> one_of_;
  size_t expansions_ = 0;

  // While one value is filled:
  absl::flat_hash_set<const Json*> added_;
  std::vector<const Json*> chain_;  // schemas that lead to the one at hand
};

absl::StatusOr<uint16_t> SchemaCompiler::ValueOf(const Json& json, Place place, bool constant) {
  const auto next = static_cast<uint16_t>(rules_.values.size());
  const auto [it, fresh] = (constant ? constant_values_ : schema_values_).try_emplace(&json, next);
  if (!fresh) return it->second;
  if (next >= kMaxValues) {
    return MalformedSchema(
        *place, absl::StrCat("schemas and constants beyond the limit of ", kMaxValues, ", at ", next + 1));
  }
  rules_.values.emplace_back();
  value_places_.push_back(place);
  pending_.push_back({&json, place, next, constant});
  return next;
}

uint16_t SchemaCompiler::AnyValue() {
  if (any_ != kNoValue) return any_;
  any_ = static_cast<uint16_t>(rules_.values.size());
  rules_.values.emplace_back();
  value_places_.push_back(&top_);
  ObjectRule object;
  object.additional = any_;
  ArrayRule array;
  array.rest = any_;
  ValueRule& any = rules_.values[any_];
  any.objects = {static_cast<uint16_t>(rules_.objects.size())};
  any.arrays = {static_cast<uint16_t>(rules_.arrays.size())};
  any.strings = {StringRule()};
  any.numbers = NumberRule::kAny;
  any.words = {WordOf(true), WordOf(false), WordOf(nullptr)};
  rules_.objects.push_back(std::move(object));
  rules_.arrays.push_back(std::move(array));
  return any_;
}

uint16_t SchemaCompiler::WordOf(const Json& scalar) {
  const auto next = static_cast<uint16_t>(rules_.words.size());
  const auto [it, fresh] = words_.try_emplace(Spelled(scalar), next);
  if (fresh) rules_.words.push_back(it->first);
  return it->second;
}

absl::StatusOr<Grammar> SchemaCompiler::Compile() {
  CLAMOR_ASSIGN_OR_RETURN(rules_.root, ValueOf(root_, &top_));
  while (!pending_.empty()) {
    const Pending next = pending_.back();
    pending_.pop_back();
    added_.clear();
    if (next.constant) {
      CLAMOR_RETURN_IF_ERROR(AddConstant(next.value, *next.json, next.place));
    } else {
      CLAMOR_RETURN_IF_ERROR(Add(next.value, *next.json, next.place));
    }
  }
  CompleteRules(&rules_);
  CLAMOR_RETURN_IF_ERROR(CheckRules());
  return Grammar(std::move(rules_));
}

absl::Status SchemaCompiler::CheckRules() {
  if (rules_.values[rules_.root].height > kMaxGrammarDepth) {
    return MalformedSchema(
        top_, absl::StrCat("no value satisfies it within the limit of ", kMaxGrammarDepth, " levels"));
  }
  const Ambiguity worst = FindWorstAmbiguity(rules_);
  if (worst.readings > kMaxGrammarReadings) {
    return MalformedSchema(
        *value_places_[worst.value],
        absl::StrCat(worst.readings, " alternatives of one type may begin alike, limit is ",
                     kMaxGrammarReadings));
  }
  for (const OneOf& one_of : one_of_) {
    for (size_t i = 0; i < one_of.values.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (AreDisjoint(rules_, one_of.values[i], one_of.values[j])) continue;
        return UnsupportedSchema(
            *one_of.place, absl::StrCat("schemas ", j, " and ", i, " may accept the same value; use anyOf"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status SchemaCompiler::Add(uint16_t value, const Json& schema, Place place) {
  if (std::find(chain_.begin(), chain_.end(), &schema) != chain_.end()) {
    return MalformedSchema(*place, "leads back to itself without a step into a value");
  }
  if (++expansions_ > kMaxExpansions) {
    return MalformedSchema(*place, absl::StrCat("alternatives, all $ref followed: ", expansions_,
                                                ", limit is ", kMaxExpansions));
  }
  if (!added_.insert(&schema).second) return absl::OkStatus();
  if (chain_.size() == kMaxChain) {
    return MalformedSchema(
        *place, absl::StrCat("$ref and anyOf in a chain of ", chain_.size() + 1, ", limit is ", kMaxChain));
  }
  if (schema.is_boolean()) {
    if (schema.get<bool>()) AddAny(value);
    return absl::OkStatus();
  }
  if (!schema.is_object()) return MalformedSchema(*place, "a schema is an object, true or false");
  chain_.push_back(&schema);
  const absl::Status status = AddKeywords(value, schema, place);
  chain_.pop_back();
  return status;
}

absl::Status SchemaCompiler::AddKeywords(uint16_t value, const Json& schema, Place place) {
  CLAMOR_RETURN_IF_ERROR(CheckKeywords(schema, place));
  if (const Json* ref = Find(schema, "$ref")) return AddReference(value, *ref, Step(place, "$ref"));
  if (const Json* any_of = Find(schema, "anyOf")) {
    return AddAlternatives(value, *any_of, Step(place, "anyOf"), /*exclusive=*/false);
  }
  if (const Json* one_of = Find(schema, "oneOf")) {
    return AddAlternatives(value, *one_of, Step(place, "oneOf"), /*exclusive=*/true);
  }
  if (const Json* all_of = Find(schema, "allOf")) {
    if (all_of->is_array() && all_of->size() > 1) {
      return UnsupportedSchema(*Step(place, "allOf"), absl::StrCat(all_of->size(), " schemas, limit is 1"));
    }
    return AddAlternatives(value, *all_of, Step(place, "allOf"), /*exclusive=*/false);
  }
  if (schema.contains("enum") || schema.contains("const")) return AddConstants(value, schema, place);
  return AddTyped(value, schema, place);
}

absl::Status SchemaCompiler::CheckKeywords(const Json& schema, Place place) {
  std::string whole;
  for (const auto& [key, ignored] : schema.items()) {
    if (Contains(kWholeKeywords, key)) {
      if (!whole.empty()) return UnsupportedSchema(*Step(place, key), absl::StrCat("beside ", whole));
      whole = key;
    }
  }
  for (const auto& [key, ignored] : schema.items()) {
    if (Contains(kAnnotations, key) || Contains(kWholeKeywords, key)) continue;
    if (key == "$id" && &schema == &root_) continue;
    if (key != "type" && TypeOfKeyword(key) == 0) {
      return UnsupportedSchema(*Step(place, key), "this keyword is not supported");
    }
    const bool beside_constants = key == "type" && (whole == "enum" || whole == "const");
    if (!whole.empty() && !beside_constants) {
      return UnsupportedSchema(*Step(place, key), absl::StrCat("beside ", whole));
    }
  }
  return absl::OkStatus();
}

absl::Status SchemaCompiler::AddReference(uint16_t value, const Json& reference, Place place) {
  if (!reference.is_string()) return MalformedSchema(*place, "not a string");
  const std::string& ref = reference.get_ref<const std::string&>();
  if (ref == "#") return Add(value, root_, &top_);
  const bool known = (ref.starts_with("#/$defs/") || ref.starts_with("#/definitions/")) &&
                     std::count(ref.begin(), ref.end(), '/') == 2 && ref.find('%') == std::string::npos;
  if (!known) return UnsupportedSchema(*place, "only \"#\", \"#/$defs/NAME\" and \"#/definitions/NAME\" are");
  const auto found = definitions_.find(absl::StrReplaceAll(ref, {{"~1", "/"}, {"~0", "~"}}));
  if (found == definitions_.end()) return MalformedSchema(*place, "there is no such definition");
  return Add(value, *found->second.schema, found->second.place);
}

absl::Status SchemaCompiler::AddAlternatives(uint16_t value, const Json& schemas, Place place,
                                             bool exclusive) {
  if (!schemas.is_array() || schemas.empty()) return MalformedSchema(*place, "not a list of schemas");
  if (exclusive && schemas.size() > kMaxOneOf) {
    return MalformedSchema(*place, absl::StrCat(schemas.size(), " schemas, limit is ", kMaxOneOf));
  }
  OneOf one_of{{}, place};
  for (size_t i = 0; i < schemas.size(); ++i) {
    const Place at = Step(place, i);
    if (exclusive) {
      // By itself, to be compared with the others.
      CLAMOR_ASSIGN_OR_RETURN(const uint16_t alone, ValueOf(schemas[i], at));
      one_of.values.push_back(alone);
    }
    CLAMOR_RETURN_IF_ERROR(Add(value, schemas[i], at));
  }
  if (exclusive) one_of_.push_back(std::move(one_of));
  return absl::OkStatus();
}

absl::Status SchemaCompiler::AddConstants(uint16_t value, const Json& schema, Place place) {
  unsigned types = kEvery;
  if (schema.contains("type")) {
    CLAMOR_ASSIGN_OR_RETURN(types, TypesOf(schema, place));
  }
  if (const Json* constant = Find(schema, "const")) {
    return HasType(*constant, types) ? AddConstant(value, *constant, Step(place, "const")) : absl::OkStatus();
  }
  const Json& list = *Find(schema, "enum");
  const Place at = Step(place, "enum");
  if (!list.is_array() || list.empty()) return MalformedSchema(*at, "not a list of values");
  for (size_t i = 0; i < list.size(); ++i) {
    if (HasType(list[i], types)) CLAMOR_RETURN_IF_ERROR(AddConstant(value, list[i], Step(at, i)));
  }
  return absl::OkStatus();
}

absl::Status SchemaCompiler::AddConstant(uint16_t value, const Json& constant, Place place) {
  if (constant.is_object()) {
    ObjectRule object;
    for (const auto& [name, inner] : constant.items()) {
      CLAMOR_ASSIGN_OR_RETURN(const uint16_t member, ValueOf(inner, Step(place, name), /*constant=*/true));
      object.properties.push_back({WordOf(name), member, /*required=*/true});
    }
    rules_.values[value].objects.push_back(static_cast<uint16_t>(rules_.objects.size()));
    rules_.objects.push_back(std::move(object));
  } else if (constant.is_array()) {
    ArrayRule array;
    array.min_items = static_cast<uint32_t>(constant.size());
    for (size_t i = 0; i < constant.size(); ++i) {
      CLAMOR_ASSIGN_OR_RETURN(const uint16_t item, ValueOf(constant[i], Step(place, i), /*constant=*/true));
      array.prefix.push_back(item);
    }
    rules_.values[value].arrays.push_back(static_cast<uint16_t>(rules_.arrays.size()));
    rules_.arrays.push_back(std::move(array));
  } else {
    rules_.values[value].words.push_back(WordOf(constant));
  }
  return absl::OkStatus();
}

void AddOnce(std::vector<uint16_t>* rules, uint16_t rule) {
  if (!Contains(*rules, rule)) rules->push_back(rule);
}

void SchemaCompiler::AddAny(uint16_t value) {
  const ValueRule any = rules_.values[AnyValue()];
  ValueRule& rule = rules_.values[value];
  AddOnce(&rule.objects, any.objects[0]);
  AddOnce(&rule.arrays, any.arrays[0]);
  rule.strings = any.strings;
  rule.numbers = NumberRule::kAny;
  rule.words.insert(rule.words.end(), any.words.begin(), any.words.end());
}

absl::StatusOr<unsigned> SchemaCompiler::TypesOf(const Json& schema, Place place) {
  const Json& names = *Find(schema, "type");
  unsigned types = 0;
  const auto add = [&](const Json& name) {
    for (const NamedType& type : kTypes) {
      if (name.is_string() && name.get_ref<const std::string&>() == type.name) {
        types |= type.type;
        return true;
      }
    }
    return false;
  };
  bool known = !names.is_array() ? add(names) : !names.empty();
  if (names.is_array()) {
    for (const Json& name : names) known = add(name) && known;
  }
  if (!known) {
    return MalformedSchema(*Step(place, "type"),
                           "not object, array, string, number, integer, boolean or null, or a list of these");
  }
  return types;
}

absl::Status SchemaCompiler::AddTyped(uint16_t value, const Json& schema, Place place) {
  unsigned types = 0;
  if (schema.contains("type")) {
    CLAMOR_ASSIGN_OR_RETURN(types, TypesOf(schema, place));
  } else {
    for (const auto& [key, ignored] : schema.items()) types |= TypeOfKeyword(key);
    if (types == 0) {
      AddAny(value);
      return absl::OkStatus();
    }
  }
  if ((types & kObject) != 0) CLAMOR_RETURN_IF_ERROR(AddObject(value, schema, place));
  if ((types & kArray) != 0) CLAMOR_RETURN_IF_ERROR(AddArray(value, schema, place));
  if ((types & kString) != 0) CLAMOR_RETURN_IF_ERROR(AddString(value, schema, place));
  if ((types & kBoolean) != 0) {
    const uint16_t names[] = {WordOf(true), WordOf(false)};
    rules_.values[value].words.insert(rules_.values[value].words.end(), std::begin(names), std::end(names));
  }
  if ((types & kNull) != 0) rules_.values[value].words.push_back(WordOf(nullptr));
  NumberRule& numbers = rules_.values[value].numbers;
  if ((types & kInteger) != 0) numbers = std::max(numbers, NumberRule::kInteger);
  if ((types & kNumber) != 0) numbers = NumberRule::kAny;
  return absl::OkStatus();
}

absl::StatusOr<absl::flat_hash_set<std::string_view>> SchemaCompiler::RequiredNames(const Json& schema,
                                                                                    Place place) {
  absl::flat_hash_set<std::string_view> names;
  const Json* required = Find(schema, "required");
  if (required == nullptr) return names;
  const bool list = required->is_array();
  if (!list ||
      !std::all_of(required->begin(), required->end(), [](const Json& j) { return j.is_string(); })) {
    return MalformedSchema(*Step(place, "required"), "not a list of names");
  }
  for (const Json& name : *required) names.insert(name.get_ref<const std::string&>());
  return names;
}

absl::Status SchemaCompiler::AddObject(uint16_t value, const Json& schema, Place place) {
  const auto [it, fresh] = objects_.try_emplace(&schema, static_cast<uint16_t>(rules_.objects.size()));
  AddOnce(&rules_.values[value].objects, it->second);
  if (!fresh) return absl::OkStatus();
  const size_t index = rules_.objects.size();
  rules_.objects.emplace_back();

  ObjectRule object;
  const Json* properties = Find(schema, "properties");
  const Json* additional = Find(schema, "additionalProperties");
  if (properties != nullptr && !properties->is_object()) {
    return MalformedSchema(*Step(place, "properties"), "not an object");
  }
  uint16_t other = kNoValue;  // what names that are not listed may hold
  if (additional != nullptr) {
    CLAMOR_ASSIGN_OR_RETURN(other, ValueOf(*additional, Step(place, "additionalProperties")));
    object.additional = other;
  } else {
    other = AnyValue();
    if (properties == nullptr || properties->empty()) object.additional = other;
  }

  CLAMOR_ASSIGN_OR_RETURN(auto required, RequiredNames(schema, place));
  if (properties != nullptr) {
    const Place at = Step(place, "properties");
    for (const auto& [name, property] : properties->items()) {
      CLAMOR_ASSIGN_OR_RETURN(const uint16_t member, ValueOf(property, Step(at, name)));
      object.properties.push_back({WordOf(name), member, required.erase(name) > 0});
    }
  }
  // Required without being listed: last, in the order of `required`.
  if (!required.empty()) {
    for (const Json& name : *Find(schema, "required")) {
      if (required.erase(name.get_ref<const std::string&>()) == 0) continue;
      object.properties.push_back({WordOf(name), other, /*required=*/true});
    }
  }
  rules_.objects[index] = std::move(object);
  return absl::OkStatus();
}

absl::Status SchemaCompiler::AddArray(uint16_t value, const Json& schema, Place place) {
  const auto [it, fresh] = arrays_.try_emplace(&schema, static_cast<uint16_t>(rules_.arrays.size()));
  AddOnce(&rules_.values[value].arrays, it->second);
  if (!fresh) return absl::OkStatus();
  const size_t index = rules_.arrays.size();
  rules_.arrays.emplace_back();

  ArrayRule array;
  CLAMOR_ASSIGN_OR_RETURN(array.min_items, Bound(schema, "minItems", kMaxItems, 0, place));
  CLAMOR_ASSIGN_OR_RETURN(array.max_items, Bound(schema, "maxItems", kMaxItems, kNoMaximum, place));
  const Json* prefix = Find(schema, "prefixItems");
  if (prefix != nullptr) {
    const Place at = Step(place, "prefixItems");
    if (!prefix->is_array()) return MalformedSchema(*at, "not a list of schemas");
    for (size_t i = 0; i < prefix->size(); ++i) {
      CLAMOR_ASSIGN_OR_RETURN(const uint16_t item, ValueOf((*prefix)[i], Step(at, i)));
      array.prefix.push_back(item);
    }
  }
  if (const Json* items = Find(schema, "items")) {
    CLAMOR_ASSIGN_OR_RETURN(array.rest, ValueOf(*items, Step(place, "items")));
  } else if (prefix == nullptr) {
    array.rest = AnyValue();
  }
  rules_.arrays[index] = std::move(array);
  return absl::OkStatus();
}

absl::Status SchemaCompiler::AddString(uint16_t value, const Json& schema, Place place) {
  StringRule rule;
  CLAMOR_ASSIGN_OR_RETURN(rule.min_length, Bound(schema, "minLength", kMaxLength, 0, place));
  CLAMOR_ASSIGN_OR_RETURN(rule.max_length, Bound(schema, "maxLength", kMaxLength, kNoMaximum, place));
  auto& strings = rules_.values[value].strings;
  const bool covered = std::any_of(strings.begin(), strings.end(), [&](const StringRule& other) {
    return other.min_length <= rule.min_length && rule.max_length <= other.max_length;
  });
  if (rule.min_length <= rule.max_length && !covered) strings.push_back(rule);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> SchemaCompiler::Bound(const Json& schema, const char* key, int64_t limit,
                                               uint32_t absent, Place place) {
  const Json* bound = Find(schema, key);
  if (bound == nullptr) return absent;
  const bool whole =
      bound->is_number_unsigned() || (bound->is_number_integer() && bound->get<int64_t>() >= 0);
  if (!whole) return MalformedSchema(*Step(place, key), "not a whole number from 0 on");
  if (bound->get<uint64_t>() > static_cast<uint64_t>(limit)) {
    return MalformedSchema(*Step(place, key),
                           absl::StrCat("is ", bound->get<uint64_t>(), ", limit is ", limit));
  }
  return static_cast<uint32_t>(bound->get<uint64_t>());
}

}  // namespace

absl::StatusOr<Grammar> CompileJsonSchema(std::string_view text) {
  if (text.size() > kMaxSchemaBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("schema of ", text.size(), " bytes, limit is ", kMaxSchemaBytes));
  }
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json unordered, ParseUntrustedJson("schema", text));
  CLAMOR_RETURN_IF_ERROR(CheckMembers(unordered));
  const Json schema = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  return SchemaCompiler(schema).Compile();
}

Grammar AnyJsonObject() { return *CompileJsonSchema(R"({"type": "object"})"); }

}  // namespace clamor
