// The values of a template, and the arena that owns them while it renders.
//
// A Value is 16 bytes of plain data; what it points to belongs to an Arena and is immutable, but for
// namespaces. So values are copied freely, reference cycles are harmless, and one place counts what a
// template uses. Arenas are not thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer/marked_text.h"
#include "nlohmann/json.hpp"

namespace clamor::jinja {

// Limits on what one rendering may use; going over one is RESOURCE_EXHAUSTED.
inline constexpr size_t kMaxSteps = 10'000'000;
inline constexpr size_t kMaxMemoryBytes = 256 << 20;
inline constexpr size_t kMaxStringBytes = 16 << 20;  // of one string, the output among them
inline constexpr size_t kMaxItems = 1'000'000;       // of one list
inline constexpr int kMaxValueDepth = 100;           // of lists in lists, where all of them are visited

struct Dict;
struct Function;
struct List;
struct Loop;

struct Value {
  enum class Kind {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,
    kDict,
    kNamespace,
    kLoop,
    kFunction
  };

  Kind kind = Kind::kUndefined;
  union {
    const std::string* why = nullptr;  // kUndefined: what an error says of it; null for an argument not given
    bool boolean;
    int64_t integer;
    double number;
    const MarkedText* string;
    const List* list;
    const Dict* dict;
    Dict* fields;  // kNamespace
    const Loop* loop;
    const Function* function;
  };

  static Value None() { return Value{Kind::kNone}; }
  static Value Bool(bool b) {
    Value value{Kind::kBool};
    value.boolean = b;
    return value;
  }
  static Value Int(int64_t i) {
    Value value{Kind::kInt};
    value.integer = i;
    return value;
  }
  static Value Float(double d) {
    Value value{Kind::kFloat};
    value.number = d;
    return value;
  }

  bool Is(Kind k) const { return kind == k; }
  bool IsAbsent() const { return kind == Kind::kUndefined && why == nullptr; }
  const std::string& text() const { return string->text(); }  // REQUIRES: kString
};

struct List {
  std::vector<Value> items;
  bool tuple = false;  // prints with parentheses
};

// Keys are strings, in the order of their first insertion.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  absl::flat_hash_map<std::string_view, size_t, std::hash<std::string_view>> index;

  const Value* Find(std::string_view key) const;  // null: no such key
  void Set(Value key, Value value);
};

// The variable `loop`.
struct Loop {
  const std::vector<Value>* items;
  size_t index0;
  int64_t depth;
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> named;
};

struct Function {
  std::string name;
  std::function<absl::StatusOr<Value>(const Args&)> call;
};

// The variables of one block, and where to look further.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> names;

  void Set(std::string_view name, Value value);
  const Value* Find(std::string_view name) const;  // null: in no scope up to the outermost
};

class Arena {
 public:
  Value Undefined(std::string why);
  Value String(MarkedText text);
  Value String(std::string text) { return String(MarkedText(std::move(text))); }
  Value NewList(std::vector<Value> items, bool tuple = false);
  Value NewDict(Dict dict);
  Value NewNamespace(Dict fields);
  Value NewFunction(Function function);
  Value NewLoop(Loop** loop);  // the caller moves it on
  Scope* NewScope(Scope* parent);

  // Counts work, one step for each expression and each 64 bytes of text looked at.
  absl::Status Spend(size_t steps);
  absl::Status SpendOnText(size_t bytes) { return Spend(1 + bytes / 64); }

 private:
  std::deque<std::string> reasons_;
  std::deque<MarkedText> strings_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Function> functions_;
  std::deque<Loop> loops_;
  std::deque<Scope> scopes_;
  size_t steps_ = 0;
  size_t bytes_ = 0;
};

absl::Status CheckStringSize(size_t bytes);
absl::Status CheckItemCount(size_t items);

// `json`, which stands `depth` levels inside another, as a value. INVALID_ARGUMENT if it is nested deeper
// than kMaxValueDepth or holds text that is not valid UTF-8.
absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Arena* arena, int depth = 0);

}  // namespace clamor::jinja
