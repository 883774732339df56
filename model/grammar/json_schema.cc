// One class in one file, over 400 lines: each function is a keyword or two, and they all fill the same rules.
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
#include "model/grammar/schema_keywords.h"
#include "model/grammar/schema_place.h"
#include "model/tokenizer/json_field.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

using Json = OrderedJson;
using Place = const SchemaPlace*;

constexpr size_t kMaxMembers = 1024;      // of one object of the schema
constexpr size_t kMaxValues = 4096;       // places for a value
constexpr size_t kMaxExpansions = 65536;  // schemas and constants, once for each value they are part of
constexpr size_t kMaxChain = 64;          // $ref to $ref, anyOf in anyOf
constexpr size_t kMaxOneOf = 64;
constexpr uint32_t kMaxLength = 1 << 24;
constexpr uint32_t kMaxItems = 65534;

std::string Spelled(const Json& scalar) {
  return scalar.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
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
      const Json* definitions = root.is_object() ? FindMember(root, section) : nullptr;
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
  absl::Status CountExpansions(size_t count, Place place);
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
            *one_of.place, absl::StrCat("schemas ", j, " and ", i,
                                        " may accept the same value; give each its type, or use anyOf"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status SchemaCompiler::Add(uint16_t value, const Json& schema, Place place) {
  if (std::find(chain_.begin(), chain_.end(), &schema) != chain_.end()) {
    return MalformedSchema(*place, "leads back to itself without a step into a value");
  }
  CLAMOR_RETURN_IF_ERROR(CountExpansions(1, place));
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

absl::Status SchemaCompiler::CountExpansions(size_t count, Place place) {
  expansions_ += count;
  if (expansions_ <= kMaxExpansions) return absl::OkStatus();
  return MalformedSchema(*place, absl::StrCat("alternatives and constants, all $ref followed: ", expansions_,
                                              ", limit is ", kMaxExpansions));
}

absl::Status SchemaCompiler::AddKeywords(uint16_t value, const Json& schema, Place place) {
  CLAMOR_RETURN_IF_ERROR(CheckKeywords(schema, *place));
  if (const Json* ref = FindMember(schema, "$ref")) return AddReference(value, *ref, Step(place, "$ref"));
  if (const Json* any_of = FindMember(schema, "anyOf")) {
    return AddAlternatives(value, *any_of, Step(place, "anyOf"), /*exclusive=*/false);
  }
  if (const Json* one_of = FindMember(schema, "oneOf")) {
    return AddAlternatives(value, *one_of, Step(place, "oneOf"), /*exclusive=*/true);
  }
  if (const Json* all_of = FindMember(schema, "allOf")) {
    if (all_of->is_array() && all_of->size() > 1) {
      return UnsupportedSchema(*Step(place, "allOf"), absl::StrCat(all_of->size(), " schemas, limit is 1"));
    }
    return AddAlternatives(value, *all_of, Step(place, "allOf"), /*exclusive=*/false);
  }
  if (schema.contains("enum") || schema.contains("const")) return AddConstants(value, schema, place);
  return AddTyped(value, schema, place);
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
  CLAMOR_ASSIGN_OR_RETURN(const SchemaTypes type, TypesOf(schema, *place));
  if (const Json* constant = FindMember(schema, "const")) {
    return HasType(*constant, type.types) ? AddConstant(value, *constant, Step(place, "const"))
                                          : absl::OkStatus();
  }
  const Json& list = *FindMember(schema, "enum");
  const Place at = Step(place, "enum");
  if (!list.is_array() || list.empty()) return MalformedSchema(*at, "not a list of values");
  CLAMOR_RETURN_IF_ERROR(CountExpansions(list.size(), at));
  for (size_t i = 0; i < list.size(); ++i) {
    if (HasType(list[i], type.types)) CLAMOR_RETURN_IF_ERROR(AddConstant(value, list[i], Step(at, i)));
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
  if (std::find(rules->begin(), rules->end(), rule) == rules->end()) rules->push_back(rule);
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

absl::Status SchemaCompiler::AddTyped(uint16_t value, const Json& schema, Place place) {
  CLAMOR_ASSIGN_OR_RETURN(const SchemaTypes type, TypesOf(schema, *place));
  if (!type.named) {
    AddAny(value);
    return absl::OkStatus();
  }
  const unsigned types = type.types;
  if (!schema.contains("type")) rules_.values[value].leaves_out_types = true;
  if ((types & kObjectType) != 0) CLAMOR_RETURN_IF_ERROR(AddObject(value, schema, place));
  if ((types & kArrayType) != 0) CLAMOR_RETURN_IF_ERROR(AddArray(value, schema, place));
  if ((types & kStringType) != 0) CLAMOR_RETURN_IF_ERROR(AddString(value, schema, place));
  if ((types & kBooleanType) != 0) {
    const uint16_t names[] = {WordOf(true), WordOf(false)};
    rules_.values[value].words.insert(rules_.values[value].words.end(), std::begin(names), std::end(names));
  }
  if ((types & kNullType) != 0) rules_.values[value].words.push_back(WordOf(nullptr));
  NumberRule& numbers = rules_.values[value].numbers;
  if ((types & kIntegerType) != 0) numbers = std::max(numbers, NumberRule::kInteger);
  if ((types & kNumberType) != 0) numbers = NumberRule::kAny;
  return absl::OkStatus();
}

absl::Status SchemaCompiler::AddObject(uint16_t value, const Json& schema, Place place) {
  const auto [it, fresh] = objects_.try_emplace(&schema, static_cast<uint16_t>(rules_.objects.size()));
  AddOnce(&rules_.values[value].objects, it->second);
  if (!fresh) return absl::OkStatus();
  const size_t index = rules_.objects.size();
  rules_.objects.emplace_back();

  ObjectRule object;
  const Json* properties = FindMember(schema, "properties");
  const Json* additional = FindMember(schema, "additionalProperties");
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

  CLAMOR_ASSIGN_OR_RETURN(auto required, RequiredNames(schema, *place));
  if (properties != nullptr) {
    const Place at = Step(place, "properties");
    for (const auto& [name, property] : properties->items()) {
      CLAMOR_ASSIGN_OR_RETURN(const uint16_t member, ValueOf(property, Step(at, name)));
      object.properties.push_back({WordOf(name), member, required.erase(name) > 0});
    }
  }
  // Required without being listed: last, in the order of `required`.
  if (!required.empty()) {
    for (const Json& name : *FindMember(schema, "required")) {
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
  CLAMOR_ASSIGN_OR_RETURN(array.min_items, CountOf(schema, "minItems", kMaxItems, 0, *place));
  CLAMOR_ASSIGN_OR_RETURN(array.max_items, CountOf(schema, "maxItems", kMaxItems, kNoMaximum, *place));
  const Json* prefix = FindMember(schema, "prefixItems");
  if (prefix != nullptr) {
    const Place at = Step(place, "prefixItems");
    if (!prefix->is_array()) return MalformedSchema(*at, "not a list of schemas");
    for (size_t i = 0; i < prefix->size(); ++i) {
      CLAMOR_ASSIGN_OR_RETURN(const uint16_t item, ValueOf((*prefix)[i], Step(at, i)));
      array.prefix.push_back(item);
    }
  }
  if (const Json* items = FindMember(schema, "items")) {
    CLAMOR_ASSIGN_OR_RETURN(array.rest, ValueOf(*items, Step(place, "items")));
  } else if (prefix == nullptr) {
    array.rest = AnyValue();
  }
  rules_.arrays[index] = std::move(array);
  return absl::OkStatus();
}

absl::Status SchemaCompiler::AddString(uint16_t value, const Json& schema, Place place) {
  StringRule rule;
  CLAMOR_ASSIGN_OR_RETURN(rule.min_length, CountOf(schema, "minLength", kMaxLength, 0, *place));
  CLAMOR_ASSIGN_OR_RETURN(rule.max_length, CountOf(schema, "maxLength", kMaxLength, kNoMaximum, *place));
  auto& strings = rules_.values[value].strings;
  const bool covered = std::any_of(strings.begin(), strings.end(), [&](const StringRule& other) {
    return other.min_length <= rule.min_length && rule.max_length <= other.max_length;
  });
  if (rule.min_length <= rule.max_length && !covered) strings.push_back(rule);
  return absl::OkStatus();
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
