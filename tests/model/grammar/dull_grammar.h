// The dull twin of Grammar: a recursive matcher over schema and text, by backtracking, without limits on
// time; and a maker of random texts for a schema. Both read the schema itself and share no code with the
// library.
#pragma once

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "model/random.h"
#include "nlohmann/json.hpp"

namespace clamor::testing {

using Json = nlohmann::ordered_json;

inline Json ParseSchema(const std::string& text) {
  Json schema = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(schema.is_discarded()) << text;
  return schema;
}

// What both need to know of schemas.
class DullSchema {
 public:
  explicit DullSchema(Json root) : root_(std::move(root)) {}
  const Json& root() const { return root_; }

  // The schemas that `schema` stands for, none of them by reference or alternatives.
  std::vector<Json> Alternatives(const Json& schema) const {
    if (schema.is_boolean()) return schema.get<bool>() ? Alternatives(Json::object()) : std::vector<Json>();
    std::vector<Json> all;
    const auto add = [&](const Json& inner) {
      for (Json& found : Alternatives(inner)) all.push_back(std::move(found));
    };
    if (schema.contains("$ref")) {
      add(root_.at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1))));
    } else if (schema.contains("enum") || schema.contains("const")) {
      for (const Json& value : schema.contains("enum") ? schema["enum"] : Json::array({schema["const"]})) {
        if (!schema.contains("type") || HasType(value, schema["type"])) all.push_back(OfConstant(value));
      }
    } else {
      bool any = false;
      for (const char* key : {"anyOf", "oneOf", "allOf"}) {
        if (!schema.contains(key)) continue;
        any = true;
        for (const Json& inner : schema[key]) add(inner);
      }
      if (!any) AddTyped(schema, &all);
    }
    return all;
  }

  struct Property {
    std::string name;
    Json schema;
    bool required;
  };
  static std::vector<Property> Properties(const Json& schema) {
    std::vector<Property> properties;
    const Json required = schema.value("required", Json::array());
    const auto is_required = [&](const std::string& name) {
      return std::find(required.begin(), required.end(), name) != required.end();
    };
    const auto listed = schema.value("properties", Json::object());
    for (const auto& [name, inner] : listed.items()) properties.push_back({name, inner, is_required(name)});
    for (const Json& name : required) {
      if (listed.contains(name.get<std::string>())) continue;
      properties.push_back({name, schema.value("additionalProperties", Json(true)), true});
    }
    return properties;
  }
  // False: none.
  static Json Additional(const Json& schema) {
    return schema.value("additionalProperties", Json(schema.value("properties", Json::object()).empty()));
  }
  static Json Item(const Json& schema, size_t index) {
    const Json prefix = schema.value("prefixItems", Json::array());
    return index < prefix.size() ? prefix[index]
                                 : schema.value("items", Json(!schema.contains("prefixItems")));
  }

 private:
  static bool HasType(const Json& value, const Json& type) {
    if (type.is_array()) {
      return std::any_of(type.begin(), type.end(), [&](const Json& t) { return HasType(value, t); });
    }
    const std::string name = type;
    if (name == "integer") {
      return value.is_number() && value.get<double>() == std::floor(value.get<double>());
    }
    return name == value.type_name();
  }

  // A scalar: {"spelled": TEXT}; another: as a schema of constants.
  static Json OfConstant(const Json& value) {
    if (!value.is_structured()) return {{"type", "spelled"}, {"text", value.dump()}};
    Json schema = {{"type", value.is_object() ? "object" : "array"}};
    if (value.is_object()) {
      schema["properties"] = Json::object();
      schema["required"] = Json::array();
      schema["additionalProperties"] = false;
      for (const auto& [name, inner] : value.items()) {
        schema["properties"][name] = {{"const", inner}};
        schema["required"].push_back(name);
      }
    } else {
      schema["prefixItems"] = Json::array();
      schema["minItems"] = value.size();
      for (const Json& inner : value) schema["prefixItems"].push_back({{"const", inner}});
    }
    return schema;
  }

  static void AddTyped(const Json& schema, std::vector<Json>* all) {
    std::set<std::string> types;
    const auto implied = [&](std::initializer_list<const char*> keys, const char* type) {
      for (const char* key : keys) {
        if (schema.contains(key)) types.insert(type);
      }
    };
    if (schema.contains("type")) {
      for (const Json& type : schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]})) {
        types.insert(type);
      }
    } else {
      implied({"properties", "required", "additionalProperties"}, "object");
      implied({"items", "prefixItems", "minItems", "maxItems"}, "array");
      implied({"minLength", "maxLength"}, "string");
      if (types.empty()) types = {"object", "array", "string", "number", "boolean", "null"};
    }
    for (const std::string& type : types) {
      if (type == "boolean") {
        for (const char* word : {"true", "false"}) all->push_back({{"type", "spelled"}, {"text", word}});
      } else if (type == "null") {
        all->push_back({{"type", "spelled"}, {"text", "null"}});
      } else {
        Json one = schema;
        one["type"] = type;
        all->push_back(std::move(one));
      }
    }
  }

  Json root_;
};

class DullMatcher {
 public:
  explicit DullMatcher(const Json& schema) : schema_(schema) {}

  bool Accepts(const std::string& text) {
    text_ = text;
    known_.clear();
    return Value(schema_.root(), 0, 0).contains(text.size());
  }

 private:
  using Ends = std::set<size_t>;

  bool Has(size_t at, std::string_view part) const {
    return at <= text_.size() && std::string_view(text_).substr(at).starts_with(part);
  }

  Ends Gap(size_t at) const {
    Ends ends = {at};
    if (Has(at, " ")) ends.insert(at + 1);
    if (Has(at, "\n")) {
      ends.insert(at + 1);
      for (size_t spaces = 1; spaces <= 128 && Has(at + spaces, " "); ++spaces) ends.insert(at + 1 + spaces);
    }
    return ends;
  }

  // Remembered, or alternatives in alternatives would take exponential time.
  const Ends& Value(const Json& schema, size_t at, int level) {
    const auto [known, fresh] = known_.try_emplace({schema.dump(), at, level});
    if (fresh) known->second = ValueAnew(schema, at, level);
    return known->second;
  }

  Ends ValueAnew(const Json& schema, size_t at, int level) {
    Ends ends;
    for (const Json& one : schema_.Alternatives(schema)) {
      const std::string type = one["type"];
      if (type == "spelled" && Has(at, one["text"].get<std::string>())) {
        ends.insert(at + one["text"].get<std::string>().size());
      }
      if (type == "object" && level < 64 && Has(at, "{")) {
        Members(one, DullSchema::Properties(one), 0, at + 1, true, level + 1, &ends);
      }
      if (type == "array" && level < 64 && Has(at, "[")) Items(one, 0, at + 1, level + 1, &ends);
      if (type == "string") String(one, at, &ends);
      if (type == "integer" || type == "number") Number(type == "integer", at, &ends);
    }
    return ends;
  }

  void Number(bool integer, size_t at, Ends* ends) const {
    static const std::regex integers("-?(0|[1-9][0-9]{0,17})");
    static const std::regex numbers("-?(0|[1-9][0-9]{0,17})([.][0-9]{1,18})?([eE][-+]?[0-9]{1,2})?");
    for (size_t end = at + 1; end <= text_.size() && end < at + 64; ++end) {
      if (std::regex_match(text_.substr(at, end - at), integer ? integers : numbers)) ends->insert(end);
    }
  }

  // The string at `at` as JSON spells it, empty if there is none.
  std::string StringAt(size_t at) const {
    if (!Has(at, "\"")) return "";
    for (size_t end = at + 1; end < text_.size(); ++end) {
      if (text_[end] == '\\') {
        const std::string next = text_.substr(end + 1, 3);
        if (next.size() == 3 && next[0] == 'u' && std::tolower(next[1]) == 'd' && next[2] > '7') return "";
        ++end;
      } else if (text_[end] == '"') {
        const std::string spelled = text_.substr(at, end + 1 - at);
        return Json::accept(spelled) ? spelled : "";
      }
    }
    return "";
  }

  void String(const Json& schema, size_t at, Ends* ends) const {
    const std::string spelled = StringAt(at);
    if (spelled.empty()) return;
    uint64_t length = 0;
    for (const char c : Json::parse(spelled).get<std::string>()) length += (c & 0xC0) != 0x80;
    if (length >= schema.value("minLength", uint64_t{0}) && length <= schema.value("maxLength", UINT64_MAX)) {
      ends->insert(at + spelled.size());
    }
  }

  void Items(const Json& schema, uint64_t count, size_t at, int level, Ends* ends) {
    if (count >= schema.value("minItems", uint64_t{0})) {
      for (const size_t end : Gap(at)) {
        if (Has(end, "]")) ends->insert(end + 1);
      }
    }
    if (count >= schema.value("maxItems", UINT64_MAX) || (count > 0 && !Has(at, ","))) return;
    for (const size_t begin : Gap(count > 0 ? at + 1 : at)) {
      for (const size_t end : Value(DullSchema::Item(schema, count), begin, level)) {
        Items(schema, count + 1, end, level, ends);
      }
    }
  }

  void Members(const Json& schema, const std::vector<DullSchema::Property>& properties, size_t next,
               size_t at, bool first, int level, Ends* ends) {
    const auto member = [&](const Json& inner, size_t colon, size_t then) {
      if (!Has(colon, ":")) return;
      Ends values = Value(inner, colon + 1, level);
      if (Has(colon, ": ")) values.merge(Ends(Value(inner, colon + 2, level)));
      for (const size_t end : values) Members(schema, properties, then, end, false, level, ends);
    };
    bool may_end = true;
    for (size_t p = next; p < properties.size(); ++p) may_end &= !properties[p].required;
    if (may_end) {
      for (const size_t end : Gap(at)) {
        if (Has(end, "}")) ends->insert(end + 1);
      }
    }
    if (!first && !Has(at, ",")) return;
    for (const size_t begin : Gap(first ? at : at + 1)) {
      for (size_t p = next; p < properties.size(); ++p) {
        const std::string key = Json(properties[p].name).dump();
        if (Has(begin, key)) member(properties[p].schema, begin + key.size(), p + 1);
        if (properties[p].required) break;
      }
      const std::string key = StringAt(begin);
      if (!may_end || key.empty() || !IsPlain(key)) continue;
      const std::string name = Json::parse(key);
      const bool listed = std::any_of(properties.begin(), properties.end(),
                                      [&](const DullSchema::Property& p) { return p.name == name; });
      if (!listed) member(DullSchema::Additional(schema), begin + key.size(), properties.size());
    }
  }

  // A key without \u and \/.
  static bool IsPlain(const std::string& key) {
    for (size_t i = 0; i + 1 < key.size(); ++i) {
      if (key[i] != '\\') continue;
      if (key[++i] == 'u' || key[i] == '/') return false;
    }
    return true;
  }

  DullSchema schema_;
  std::string text_;
  std::map<std::tuple<std::string, size_t, int>, Ends> known_;
};

// Random texts that fit a schema. Alternatives that come first should be flat: deep down, they are taken.
class TextMaker {
 public:
  TextMaker(const Json& schema, uint64_t seed) : schema_(schema), random_(seed) {}
  std::string Text() { return Value(schema_.root(), 0); }

 private:
  size_t Below(size_t n) { return static_cast<size_t>(RandomBelow(random_, n)); }

  std::string Gap() {
    const size_t kind = Below(6);
    return kind == 0 ? "\n" + std::string(Below(5), ' ') : kind == 1 ? " " : "";
  }

  std::string Characters(size_t count) {
    static const char* const kCharacters[] = {
        "a", "b", "x", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82", "\\n", "\\\"", "\\\\", " ", "/", "{"};
    std::string text;
    for (size_t i = 0; i < count; ++i) text += kCharacters[Below(std::size(kCharacters))];
    return text;
  }

  std::string Value(const Json& schema, int level) {
    const std::vector<Json> all = schema_.Alternatives(schema);
    if (all.empty() || level > 64) return "0";
    const Json& one = all[level > 4 ? 0 : Below(all.size())];
    const std::string type = one["type"];
    if (type == "spelled") return one["text"];
    if (type == "object") return Object(one, level + 1);
    if (type == "array") return Array(one, level + 1);
    if (type == "integer") return Below(2) == 0 ? "-7" : std::to_string(Below(1000));
    if (type == "number") return std::vector<std::string>{"0", "-1.5", "12e+3", "0.25E-7", "300"}[Below(5)];
    const uint64_t least = one.value("minLength", uint64_t{0});
    const uint64_t most = std::min(one.value("maxLength", least + 3), least + 5);
    std::string text = Characters(least + Below(most + 1 > least ? most + 1 - least : 1));
    if (Below(4) == 0 && most > least && most > 1) text = "\\u00e9";
    return "\"" + text + "\"";
  }

  std::string Array(const Json& schema, int level) {
    const uint64_t least = schema.value("minItems", uint64_t{0});
    const uint64_t most = std::min(schema.value("maxItems", least + 3), least + 3);
    const uint64_t count = level > 4 ? least : least + Below(most + 1 > least ? most + 1 - least : 1);
    std::string text = "[";
    for (uint64_t i = 0; i < count; ++i) {
      text += (i > 0 ? "," : "") + Gap() + Value(DullSchema::Item(schema, i), level);
    }
    return text + Gap() + "]";
  }

  std::string Object(const Json& schema, int level) {
    std::string text = "{";
    const auto add = [&](const std::string& key, const Json& inner) {
      text += (text.size() > 1 ? "," : "") + Gap() + key + (Below(2) == 0 ? ": " : ":") + Value(inner, level);
    };
    for (const auto& [name, inner, required] : DullSchema::Properties(schema)) {
      if (required || (level < 5 && Below(2) == 0)) add(Json(name).dump(), inner);
    }
    const Json additional = DullSchema::Additional(schema);
    if (additional != Json(false) && level < 5) {
      for (size_t more = Below(3); more > 0; --more) add("\"" + Characters(2) + "\"", additional);
    }
    return text + Gap() + "}";
  }

  DullSchema schema_;
  uint64_t random_;
};

}  // namespace clamor::testing
