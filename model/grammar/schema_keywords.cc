#include "model/grammar/schema_keywords.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"

namespace clamor {
namespace {

struct NamedType {
  std::string_view name;
  unsigned type;
};
constexpr NamedType kTypes[] = {{"object", kObjectType}, {"array", kArrayType},     {"string", kStringType},
                                {"number", kNumberType}, {"integer", kIntegerType}, {"boolean", kBooleanType},
                                {"null", kNullType}};

// Keywords that say something of one type only.
constexpr NamedType kTypedKeywords[] = {
    {"properties", kObjectType}, {"required", kObjectType},   {"additionalProperties", kObjectType},
    {"items", kArrayType},       {"prefixItems", kArrayType}, {"minItems", kArrayType},
    {"maxItems", kArrayType},    {"minLength", kStringType},  {"maxLength", kStringType}};
constexpr std::string_view kWholeKeywords[] = {"$ref", "anyOf", "oneOf", "allOf", "enum", "const"};
constexpr std::string_view kAnnotations[] = {"title",     "description", "default",    "examples",
                                             "$comment",  "$schema",     "deprecated", "readOnly",
                                             "writeOnly", "$defs",       "definitions"};

template <typename Names>
bool Contains(const Names& names, std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// 0: of none.
unsigned TypeOf(std::string_view name, std::span<const NamedType> names) {
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const NamedType& n) { return n.name == name; });
  return found == names.end() ? 0 : found->type;
}

}  // namespace

const OrderedJson* FindMember(const OrderedJson& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

absl::Status CheckKeywords(const OrderedJson& schema, const SchemaPlace& place) {
  std::string whole;
  for (const auto& [key, ignored] : schema.items()) {
    if (!Contains(kWholeKeywords, key)) continue;
    if (!whole.empty()) return UnsupportedSchema({&place, key}, absl::StrCat("beside ", whole));
    whole = key;
  }
  for (const auto& [key, ignored] : schema.items()) {
    if (Contains(kAnnotations, key) || Contains(kWholeKeywords, key)) continue;
    // Further down it would move what $ref means.
    if (key == "$id" && place.parent == nullptr) continue;
    if (key != "type" && TypeOf(key, kTypedKeywords) == 0) {
      return UnsupportedSchema({&place, key}, "this keyword is not supported");
    }
    const bool beside_constants = key == "type" && (whole == "enum" || whole == "const");
    if (!whole.empty() && !beside_constants) {
      return UnsupportedSchema({&place, key}, absl::StrCat("beside ", whole));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SchemaTypes> TypesOf(const OrderedJson& schema, const SchemaPlace& place) {
  SchemaTypes types;
  const OrderedJson* names = FindMember(schema, "type");
  if (names == nullptr) {
    for (const auto& [key, ignored] : schema.items()) types.types |= TypeOf(key, kTypedKeywords);
    types.named = types.types != 0;
    if (!types.named) types.types = ~0u;
    return types;
  }
  types.named = true;
  const OrderedJson list = names->is_array() ? *names : OrderedJson::array({*names});
  bool known = !list.empty();
  for (const OrderedJson& name : list) {
    const unsigned type = name.is_string() ? TypeOf(name.get_ref<const std::string&>(), kTypes) : 0;
    known = known && type != 0;
    types.types |= type;
  }
  if (known) return types;
  return MalformedSchema({&place, "type"},
                         "not object, array, string, number, integer, boolean or null, or a list of these");
}

bool HasType(const OrderedJson& value, unsigned types) {
  if (value.is_object()) return (types & kObjectType) != 0;
  if (value.is_array()) return (types & kArrayType) != 0;
  if (value.is_string()) return (types & kStringType) != 0;
  if (value.is_boolean()) return (types & kBooleanType) != 0;
  if (value.is_null()) return (types & kNullType) != 0;
  const double number = value.get<double>();
  return (types & kNumberType) != 0 || ((types & kIntegerType) != 0 && std::floor(number) == number);
}

absl::StatusOr<absl::flat_hash_set<std::string_view>> RequiredNames(const OrderedJson& schema,
                                                                    const SchemaPlace& place) {
  absl::flat_hash_set<std::string_view> names;
  const OrderedJson* required = FindMember(schema, "required");
  if (required == nullptr) return names;
  bool known = required->is_array();
  for (const OrderedJson& name : *required) known = known && name.is_string();
  if (!known) return MalformedSchema({&place, "required"}, "not a list of names");
  for (const OrderedJson& name : *required) names.insert(name.get_ref<const std::string&>());
  return names;
}

absl::StatusOr<uint32_t> CountOf(const OrderedJson& schema, const char* key, uint32_t limit, uint32_t absent,
                                 const SchemaPlace& place) {
  const OrderedJson* count = FindMember(schema, key);
  if (count == nullptr) return absent;
  // What is parsed from text is unsigned unless it is negative.
  if (!count->is_number_unsigned()) return MalformedSchema({&place, key}, "not a whole number from 0 on");
  if (count->get<uint64_t>() > limit) {
    return MalformedSchema({&place, key}, absl::StrCat("is ", count->get<uint64_t>(), ", limit is ", limit));
  }
  return static_cast<uint32_t>(count->get<uint64_t>());
}

}  // namespace clamor
