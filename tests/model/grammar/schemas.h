// What the tests of this folder try everything on.
#pragma once

#include <string>
#include <vector>

namespace clamor::testing {

// Schemas that between them use every keyword.
inline const std::vector<std::string>& Schemas() {
  static const auto& schemas = *new std::vector<std::string>{
      R"({})",
      R"(true)",
      R"({"type": "object"})",
      R"({"type": "integer"})",
      R"({"type": ["number", "null"]})",
      R"({"type": "boolean"})",
      R"({"type": "string", "minLength": 2, "maxLength": 4})",
      R"({"type": "string", "minLength": 3})",
      R"({"anyOf": [{"maxLength": 1}, {"minLength": 3, "maxLength": 3}, {"const": "ab"}]})",
      R"({"enum": ["a", "ab", "b\"\n", 1, 12, -1.5, 1e100, null, true, {"a": [1, {}]}, []]})",
      R"({"type": "integer", "enum": [1, 2.5, "a", 30]})",
      R"({"type": ["string", "boolean"], "enum": [1, "a", true, {}]})",
      R"({"const": {"b": 1, "a": [true, "x"]}})",
      R"({"anyOf": [{"type": "integer"}, {"const": 1.5}, {"enum": ["1", 17]}]})",
      R"({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3})",
      R"({"type": "array", "prefixItems": [{"type": "null"}, {"type": "string"}]})",
      R"({"prefixItems": [{"type": "integer"}], "items": false})",
      R"({"prefixItems": [{"const": 1}], "items": {"type": "boolean"}, "minItems": 2})",
      R"({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
          "required": ["name", "age"], "additionalProperties": false})",
      R"({"properties": {"a": {"type": "integer"}, "ab": {"type": "null"}, "b": {"const": 1}, "c": {}},
          "required": ["b"]})",
      R"({"properties": {"a": {"type": "integer"}, "ab": {"type": "null"}, "b/\u0001\"": false},
          "required": ["ab"], "additionalProperties": {"type": "boolean"}})",
      R"({"type": "object", "properties": {"a": {"type": "null"}, "\u0002": {"const": 2}},
          "additionalProperties": true})",
      R"({"type": "object", "required": ["z", "a"], "additionalProperties": {"type": "integer"}})",
      R"({"type": "object", "required": ["z"], "properties": {"a": {}}})",
      R"({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}]})",
      R"({"$ref": "#/$defs/list", "$defs": {"list": {"properties": {"head": {"type": "integer"},
          "tail": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]}}, "required": ["head", "tail"]}}})",
      R"({"$defs": {"e": {"oneOf": [{"type": "number"},
            {"type": "object", "properties": {"op": {"const": "neg"}, "of": {"$ref": "#/$defs/e"}}, "required": ["op", "of"]},
            {"type": "object", "properties": {"op": {"enum": ["add", "mul"]}, "left": {"$ref": "#/$defs/e"},
             "right": {"$ref": "#/$defs/e"}}, "required": ["op", "left", "right"]}]}},
          "allOf": [{"$ref": "#/$defs/e"}]})",
      R"({"anyOf": [{"properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": true},
                    {"properties": {"x": {"type": "string"}, "y": {"type": "null"}}},
                    {"additionalProperties": {"type": "array", "items": {"type": "integer"}}}]})",
      R"({"anyOf": [{"items": {"type": "integer"}}, {"items": {"type": "number"}, "minItems": 3},
                    {"items": {"anyOf": [{"type": "string"}, {"items": {"type": "null"}}]}}]})",
      // Each level doubles the ways to read it; the readings must not.
      R"({"$defs": {"v": {"anyOf": [{"type": "null"}, {"properties": {"a": {"$ref": "#/$defs/v"}}},
          {"properties": {"a": {"$ref": "#/$defs/v"}, "b": {"type": "null"}}}]}}, "$ref": "#/$defs/v"})",
      // An optional property that nothing satisfies, and alternatives of which one cannot be.
      R"({"properties": {"a": {"$ref": "#/$defs/endless"}, "b": {"type": "null"}},
          "$defs": {"endless": {"properties": {"x": {"$ref": "#/$defs/endless"}}, "required": ["x"]}}})",
      R"({"items": {"anyOf": [{"type": "integer"}, {"enum": ["a"], "type": "null"}, false,
          {"items": false, "minItems": 1}]}, "title": "t", "description": "d", "default": 1, "examples": [1],
          "$comment": "c", "$schema": "s", "$id": "i", "deprecated": true, "readOnly": true, "writeOnly": false})",
  };
  return schemas;
}

}  // namespace clamor::testing
