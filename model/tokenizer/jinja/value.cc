#include "model/tokenizer/jinja/value.h"

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/utf8.h"

namespace clamor::jinja {
namespace {

absl::StatusOr<Value> StringFromJson(const std::string& text, Arena* arena) {
  if (const auto offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("text that is not valid UTF-8 at byte ", *offset));
  }
  return arena->String(text);
}

}  // namespace

const Value* Dict::Find(std::string_view key) const {
  const auto found = index.find(key);
  return found == index.end() ? nullptr : &entries[found->second].second;
}

void Dict::Set(Value key, Value value) {
  const auto [at, fresh] = index.emplace(key.text(), entries.size());
  if (fresh) {
    entries.emplace_back(key, value);
  } else {
    entries[at->second].second = value;
  }
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [known, held] : names) {
    if (known == name) {
      held = value;
      return;
    }
  }
  names.emplace_back(name, value);
}

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    for (const auto& [known, value] : scope->names) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

Value Arena::Undefined(std::string why) {
  bytes_ += sizeof(std::string) + why.size();
  Value value;
  value.why = &reasons_.emplace_back(std::move(why));
  return value;
}

Value Arena::String(MarkedText text) {
  bytes_ += sizeof(MarkedText) + text.memory();
  Value value{Value::Kind::kString};
  value.string = &strings_.emplace_back(std::move(text));
  return value;
}

Value Arena::NewList(std::vector<Value> items, bool tuple) {
  bytes_ += sizeof(List) + items.size() * sizeof(Value);
  Value value{Value::Kind::kList};
  value.list = &lists_.emplace_back(List{std::move(items), tuple});
  return value;
}

Value Arena::NewDict(Dict dict) {
  constexpr size_t kEntryBytes = 2 * sizeof(Value) + 2 * sizeof(std::pair<std::string_view, size_t>);
  bytes_ += sizeof(Dict) + dict.entries.size() * kEntryBytes;
  Value value{Value::Kind::kDict};
  value.dict = &dicts_.emplace_back(std::move(dict));
  return value;
}

Value Arena::NewNamespace(Dict fields) {
  bytes_ += sizeof(Dict);
  Value value{Value::Kind::kNamespace};
  value.fields = &dicts_.emplace_back(std::move(fields));
  return value;
}

Value Arena::NewFunction(Function function) {
  bytes_ += sizeof(Function);
  Value value{Value::Kind::kFunction};
  value.function = &functions_.emplace_back(std::move(function));
  return value;
}

Value Arena::NewLoop(Loop** loop) {
  bytes_ += sizeof(Loop);
  *loop = &loops_.emplace_back();
  Value value{Value::Kind::kLoop};
  value.loop = *loop;
  return value;
}

Scope* Arena::NewScope(Scope* parent) {
  constexpr size_t kUsualNames = 4;
  bytes_ += sizeof(Scope) + kUsualNames * sizeof(std::pair<std::string_view, Value>);
  Scope& scope = scopes_.emplace_back();
  scope.parent = parent;
  return &scope;
}

absl::Status Arena::Spend(size_t steps) {
  steps_ += steps;
  if (steps_ > kMaxSteps) {
    return absl::ResourceExhaustedError(absl::StrCat("the template takes more than ", kMaxSteps, " steps"));
  }
  if (bytes_ > kMaxMemoryBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the values of the template take ", bytes_, " bytes, limit is ", kMaxMemoryBytes));
  }
  return absl::OkStatus();
}

absl::Status CheckStringSize(size_t bytes) {
  if (bytes <= kMaxStringBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("text of ", bytes, " bytes, limit is ", kMaxStringBytes));
}

absl::Status CheckItemCount(size_t items) {
  if (items <= kMaxItems) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("list of ", items, " items, limit is ", kMaxItems));
}

absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Arena* arena, int depth) {
  if (depth > kMaxValueDepth) {
    return absl::InvalidArgumentError(absl::StrCat("JSON nested deeper than ", kMaxValueDepth, " levels"));
  }
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean:
      return Value::Bool(json.get<bool>());
    case Type::number_integer:
      return Value::Int(json.get<int64_t>());
    case Type::number_unsigned:
      if (json.get<uint64_t>() > uint64_t{INT64_MAX}) return Value::Float(json.get<double>());
      return Value::Int(json.get<int64_t>());
    case Type::number_float:
      return Value::Float(json.get<double>());
    case Type::string:
      return StringFromJson(json.get_ref<const std::string&>(), arena);
    case Type::array: {
      std::vector<Value> items;
      for (const auto& item : json) {
        CLAMOR_ASSIGN_OR_RETURN(items.emplace_back(), FromJson(item, arena, depth + 1));
      }
      return arena->NewList(std::move(items));
    }
    case Type::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) {
        CLAMOR_ASSIGN_OR_RETURN(const Value value, FromJson(item, arena, depth + 1));
        CLAMOR_ASSIGN_OR_RETURN(const Value name, StringFromJson(key, arena));
        dict.Set(name, value);
      }
      return arena->NewDict(std::move(dict));
    }
    case Type::null:
    case Type::binary:
    case Type::discarded:
      break;
  }
  return Value::None();
}

}  // namespace clamor::jinja
