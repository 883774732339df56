// Where in a schema something stands, for messages.
//
// Tested by tests/model/grammar/json_schema_test.cc.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace clamor {

// One step down from another place; its owner keeps both, and the key, alive.
struct SchemaPlace {
  const SchemaPlace* parent = nullptr;
  std::string_view key;

  // As a JSON pointer in a URI fragment: "#/properties/a". Long keys are cut.
  std::string Pointer() const;
};

// INVALID_ARGUMENT: "schema at #/properties/a: WHAT", and for Unsupported "[UNSUPPORTED_SCHEMA] " before it.
absl::Status MalformedSchema(const SchemaPlace& place, const std::string& what);
absl::Status UnsupportedSchema(const SchemaPlace& place, const std::string& what);

}  // namespace clamor
