// The keywords of one JSON schema, by themselves: which there are, which go together, what the simple ones
// hold.
//
// Errors are those of schema_place.h. Tested by tests/model/grammar/json_schema_test.cc.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/grammar/schema_place.h"
#include "nlohmann/json.hpp"

namespace clamor {

using OrderedJson = nlohmann::ordered_json;  // the order of `properties` is that of the texts

// Types of JSON Schema, as a set of bits.
enum SchemaType : unsigned {
  kObjectType = 1,
  kArrayType = 2,
  kStringType = 4,
  kNumberType = 8,
  kIntegerType = 16,
  kBooleanType = 32,
  kNullType = 64,
};

// Null: absent. REQUIRES: object.is_object().
const OrderedJson* FindMember(const OrderedJson& object, std::string_view key);

// The functions below take a schema that is an object, and its place.

// Refuses unknown keywords, and those that do not go together: one of $ref, anyOf, oneOf, allOf, enum and
// const says it all, but for a `type` beside constants.
absl::Status CheckKeywords(const OrderedJson& schema, const SchemaPlace& place);

// `type`; without it, the types that the keywords speak of, all if they speak of none.
struct SchemaTypes {
  unsigned types = 0;
  bool named = false;  // by `type` or keywords
};
absl::StatusOr<SchemaTypes> TypesOf(const OrderedJson& schema, const SchemaPlace& place);
bool HasType(const OrderedJson& value, unsigned types);

absl::StatusOr<absl::flat_hash_set<std::string_view>> RequiredNames(const OrderedJson& schema,
                                                                    const SchemaPlace& place);

// A count such as maxItems, `absent` if there is none.
absl::StatusOr<uint32_t> CountOf(const OrderedJson& schema, const char* key, uint32_t limit, uint32_t absent,
                                 const SchemaPlace& place);

}  // namespace clamor
