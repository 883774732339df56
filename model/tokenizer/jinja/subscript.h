// Parts of values: attributes, items, slices and iteration, as Python and Jinja2 define them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/jinja/value.h"

namespace clamor::jinja {

// value.name: a method or property, else the item of that name, else undefined.
absl::StatusOr<Value> Attribute(const Value& value, std::string_view name, Arena* arena);
// value[key]: an item, else as above.
absl::StatusOr<Value> Item(const Value& value, const Value& key, Arena* arena);
// value[start:stop:step]; None or absent bounds are open.
absl::StatusOr<Value> Slice(const Value& value, const Value& start, const Value& stop, const Value& step,
                            Arena* arena);

// What a `for` goes over: items, keys of a dict, characters of a string, nothing if undefined.
absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Arena* arena);
absl::StatusOr<int64_t> Length(const Value& value);

}  // namespace clamor::jinja
