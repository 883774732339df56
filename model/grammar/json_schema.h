// A JSON schema to the rules of its texts, for answers that cannot but fit it.
//
// Every text that the rules allow is valid by the schema, whatever a validator thinks of; of the valid
// documents they allow those in our form (README.md), with the properties in the order of the schema. Where
// the schema leaves open what nobody means, the rules are closed:
//   - beside `properties`, without `additionalProperties`, there are no other properties; after
//     `prefixItems`, without `items`, no other items;
//   - without `type`, the keywords say it: `properties` means an object, `minLength` a string.
// A keyword beside another `type` than its own is passed over, as JSON Schema says.
//
// Known: type, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength,
// maxLength, enum and const (of any values), anyOf, oneOf where no value can fit two of its schemas (by type,
// by constants, or by a required tag), allOf of one, $ref to "#", "#/$defs/NAME" and "#/definitions/NAME",
// and annotations, which change nothing: title, description, default, examples, $comment, $schema, $id (at
// the top), deprecated, readOnly, writeOnly.
//
// Tested by tests/model/grammar/json_schema_test.cc.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/grammar/grammar.h"

namespace clamor {

inline constexpr size_t kMaxSchemaBytes = 65535;

// INVALID_ARGUMENT, with the place as a JSON pointer and, for limits, both numbers: a message that begins
// with "[UNSUPPORTED_SCHEMA] " means a keyword that we do not know, or not so; any other, a text that is no
// schema, one over a limit, or one that no value satisfies. Time and memory are bounded whatever the text:
// about a tenth of a second and ten megabytes at worst, a millisecond as a rule.
absl::StatusOr<Grammar> CompileJsonSchema(std::string_view text);

// Any JSON object.
Grammar AnyJsonObject();

}  // namespace clamor
