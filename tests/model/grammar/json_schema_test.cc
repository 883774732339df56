#include "model/grammar/json_schema.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/random.h"
#include "tests/model/grammar/schemas.h"

namespace clamor {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string ErrorOf(const std::string& schema) {
  const absl::Status status = CompileJsonSchema(schema).status();
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

constexpr char kUnsupported[] = "[UNSUPPORTED_SCHEMA] schema at ";

TEST(JsonSchema, NamesUnsupportedKeywordsByPointer) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "string", "pattern": "a+"})", "#/pattern"},
      {R"({"type": "string", "format": "date"})", "#/format"},
      {R"({"items": {"type": "number", "minimum": 0}})", "#/items/minimum"},
      {R"({"properties": {"a/b~": {"multipleOf": 2}}})", "#/properties/a~1b~0/multipleOf"},
      {R"({"prefixItems": [{}, {"uniqueItems": true}]})", "#/prefixItems/1/uniqueItems"},
      {R"({"anyOf": [{"type": "null"}, {"not": {}}]})", "#/anyOf/1/not"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"patternProperties": {}}}})", "#/$defs/a/patternProperties"},
      {R"({"additionalProperties": {"contains": {}}})", "#/additionalProperties/contains"},
      {R"({"minProperties": 1})", "#/minProperties"},
      {R"({"propertyNames": {}})", "#/propertyNames"},
      {R"({"if": {}, "then": {}})", "#/if"},
      {R"({"dependentRequired": {}})", "#/dependentRequired"},
      {R"({"unevaluatedProperties": false})", "#/unevaluatedProperties"},
      {R"({"nullable": true})", "#/nullable"},
      {R"({"surprise": 1})", "#/surprise"},
      {R"({"items": {"$id": "x"}})", "#/items/$id"},
      {R"({"allOf": [{}, {}]})", "#/allOf"},
      {R"({"$ref": "http://example.com/schema"})", "#/$ref"},
      {R"({"$ref": "#/properties/a", "$defs": {}})", "#/$ref"},
      {R"({"type": "object", "anyOf": [{}]})", "#/type: beside anyOf"},
      {R"({"enum": ["a"], "minLength": 1})", "#/minLength: beside enum"},
      {R"({"anyOf": [{}], "oneOf": [{}]})", "#/oneOf: beside anyOf"},
      {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "#/oneOf: schemas 0 and 1"},
      {R"({"oneOf": [{"const": 1}, {"const": "a"}, {"const": 1.0}]})", "#/oneOf: schemas 0 and 2"},
      {R"({"oneOf": [{"type": "object", "properties": {"a": {"const": 1}}},
                     {"type": "object", "properties": {"a": {"const": 2}}}]})",
       "#/oneOf: schemas 0 and 1"},
      // By JSON Schema the first accepts any string, too.
      {R"({"oneOf": [{"minItems": 1}, {"type": "string"}]})", "#/oneOf: schemas 0 and 1"},
  };
  for (const auto& [schema, place] : cases) {
    EXPECT_THAT(ErrorOf(schema), StartsWith(absl::StrCat(kUnsupported, place))) << schema;
  }
}

TEST(JsonSchema, OneOfWhereNoValueFitsTwo) {
  for (
      const char* schema :
      {R"({"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": ["null", "array"]}, {"type": "object"}]})",
       R"({"oneOf": [{"const": "a", "title": "A"}, {"const": "b"}, {"enum": [1, "c"]}, {"const": 2}]})",
       R"({"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {}}, "required": ["kind"]},
                      {"type": "object", "properties": {"x": {}, "kind": {"enum": ["b", 1]}}, "required": ["x", "kind"]}]})"}) {
    EXPECT_EQ(ErrorOf(schema), "") << schema;
  }
}

TEST(JsonSchema, SaysWhatIsMalformed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(1)", "schema at #: a schema is an object"},
      {R"({"items": 1})", "schema at #/items: a schema is an object"},
      {R"({"type": "text"})", "schema at #/type: not object"},
      {R"({"type": []})", "schema at #/type: not object"},
      {R"({"type": ["null", 1]})", "schema at #/type: not object"},
      {R"({"properties": []})", "schema at #/properties: not an object"},
      {R"({"required": "a"})", "schema at #/required: not a list of names"},
      {R"({"required": [1]})", "schema at #/required: not a list of names"},
      {R"({"prefixItems": {}})", "schema at #/prefixItems: not a list of schemas"},
      {R"({"anyOf": []})", "schema at #/anyOf: not a list of schemas"},
      {R"({"anyOf": {}})", "schema at #/anyOf: not a list of schemas"},
      {R"({"enum": []})", "schema at #/enum: not a list of values"},
      {R"({"$ref": 1})", "schema at #/$ref: not a string"},
      {R"({"$ref": "#/$defs/b", "$defs": {"a": {}}})", "schema at #/$ref: there is no such definition"},
      {R"({"minItems": -1})", "schema at #/minItems: not a whole number"},
      {R"({"maxLength": 1.5})", "schema at #/maxLength: not a whole number"},
      {R"({"maxLength": "1"})", "schema at #/maxLength: not a whole number"},
      {R"({"a": )", "schema: offset"},
      {"{\"title\": \"\xFF\"}", "schema: offset"},
      {"", "schema: offset"},
  };
  for (const auto& [schema, message] : cases) EXPECT_THAT(ErrorOf(schema), StartsWith(message)) << schema;
}

TEST(JsonSchema, RefusesWhatNothingSatisfies) {
  for (const char* schema :
       {R"(false)", R"({"anyOf": [false, false]})", R"({"minLength": 2, "maxLength": 1})",
        R"({"minItems": 2, "maxItems": 1})", R"({"minItems": 2, "prefixItems": [{}]})",
        R"({"required": ["a"], "properties": {"a": false}})",
        R"({"required": ["a"], "additionalProperties": false})", R"({"type": "string", "const": 1})",
        R"({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
        R"({"items": {"$ref": "#"}, "minItems": 1})"}) {
    EXPECT_THAT(ErrorOf(schema), AllOf(HasSubstr("no value satisfies it"), HasSubstr("64"))) << schema;
  }
}

TEST(JsonSchema, RefusesReferencesWithoutProgress) {
  for (const char* schema : {R"({"$ref": "#"})", R"({"anyOf": [{"type": "null"}, {"$ref": "#"}]})",
                             R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"},
                                 "b": {"allOf": [{"$ref": "#/$defs/a"}]}}})"}) {
    EXPECT_THAT(ErrorOf(schema), HasSubstr("leads back to itself")) << schema;
  }
}

// A schema whose text is `count` times `part`, with its number for every %.
std::string Repeated(const std::string& begin, const std::string& part, const std::string& end, int count) {
  std::vector<std::string> parts;
  for (int i = 0; i < count; ++i) {
    std::string one = part;
    for (size_t at; (at = one.find('%')) != std::string::npos;) one.replace(at, 1, absl::StrCat(i));
    parts.push_back(one);
  }
  return begin + absl::StrJoin(parts, ",") + end;
}

TEST(JsonSchema, LimitsNameBothNumbers) {
  const auto expect = [](const std::string& schema, const std::vector<std::string>& parts) {
    const std::string error = ErrorOf(schema);
    for (const std::string& part : parts) EXPECT_THAT(error, HasSubstr(part)) << schema.substr(0, 200);
    EXPECT_THAT(error, Not(HasSubstr("UNSUPPORTED")));
  };
  expect("{\"title\": \"" + std::string(kMaxSchemaBytes, 'x') + "\"}", {"65548", "65535"});
  expect(Repeated("[", "[", "", 1000), {"64"});
  expect(Repeated("{\"properties\": {", "\"%\":{}", "}}", 1025), {"1025", "1024"});
  expect(Repeated("{\"enum\": [", "[%]", "]}", 5000), {"4096", "4097"});
  expect(R"({"maxItems": 65535})", {"65535", "65534"});
  expect(R"({"minLength": 16777217})", {"16777217", "16777216"});
  expect(Repeated("{\"oneOf\": [", "{\"const\":%}", "]}", 65), {"65", "64"});
  // Objects that all begin alike, at once and one under the other.
  const std::string alike = R"({"properties":{"a":{"type":"null"},"x%":{}}})";
  expect(Repeated("{\"anyOf\": [", alike, "]}", 33), {"33", "32", "#"});
  EXPECT_EQ(ErrorOf(Repeated("{\"anyOf\": [", alike, "]}", 32)), "");
  expect(Repeated("{\"anyOf\": [",
                  R"({"properties":{"a":{"anyOf":[{"minItems":%},{"minItems":1%},{"minItems":2%}]}}})", "]}",
                  50),
         {"150", "32"});
  expect(Repeated("{\"anyOf\": [", R"({"minLength":1%0,"maxLength":1%1})", "]}", 33), {"33", "32"});
  // A chain of references, each to the next.
  std::string chain = R"({"$ref": "#/$defs/0", "$defs": {)";
  for (int i = 0; i < 100; ++i) absl::StrAppend(&chain, "\"", i, "\": {\"$ref\": \"#/$defs/", i + 1, "\"},");
  expect(chain + "\"100\": {}}}", {"65", "64"});
}

TEST(JsonSchema, ExponentialSchemasAreLinear) {
  // Each definition leads to the next by two ways: 2^30 paths, 31 schemas.
  std::string schema = R"({"$ref": "#/$defs/0", "$defs": {)";
  for (int i = 0; i < 30; ++i) {
    const std::string next = absl::StrCat("{\"$ref\": \"#/$defs/", i + 1, "\"}");
    absl::StrAppend(&schema, "\"", i, "\": {\"anyOf\": [", next, ",", next, "]},");
  }
  EXPECT_EQ(ErrorOf(schema + "\"30\": {\"type\": \"null\"}}}"), "");
}

TEST(JsonSchema, ManyValuesThatLeadToManyAlternativesAreLimited) {
  std::string schema = Repeated(R"({"$defs": {"all": {"anyOf": [)", R"({"const":%})", "]}},", 1000);
  schema += Repeated("\"properties\": {", R"("p%": {"$ref": "#/$defs/all"})", "}}", 1000);
  EXPECT_THAT(ErrorOf(schema), AllOf(HasSubstr("65537"), HasSubstr("65536")));
}

TEST(JsonSchema, ManyValuesOfManyConstantsAreLimited) {
  std::string schema = Repeated(R"({"$defs": {"all": {"enum": [)", "%", "]}},", 5000);
  schema += Repeated("\"properties\": {", R"("p%": {"$ref": "#/$defs/all"})", "}}", 1000);
  EXPECT_THAT(ErrorOf(schema), HasSubstr(", limit is 65536"));
}

TEST(JsonSchema, DamagedSchemasNeverCrash) {
  uint64_t random = 5;
  int compiled = 0;
  for (const std::string& schema : testing::Schemas()) {
    for (int i = 0; i < 200; ++i) {
      std::string damaged = schema;
      for (int edits = 0; edits < 1 + i % 2; ++edits) {
        const size_t at = RandomBelow(random, damaged.size() + 1);
        const size_t from = RandomBelow(random, damaged.size() + 1);
        const size_t size = RandomBelow(random, 12);
        damaged.replace(at, RandomBelow(random, 3), damaged.substr(from, size));
      }
      compiled += ErrorOf(damaged).empty();
    }
  }
  EXPECT_GT(compiled, 100);
}

}  // namespace
}  // namespace clamor
