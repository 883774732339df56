#include "model/tokenizer/json_field.h"

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxValues = 8 << 20;
constexpr size_t kMaxShownBytes = 80;

// A scan of the bytes, ahead of the parser: it decides how deep and how large the tree can get.
absl::Status CheckShape(const std::string& file, std::string_view text) {
  int depth = 0;
  int64_t values = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
      continue;
    }
    in_string = c == '"';
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (c == ',' || c == '[' || c == '{') ++values;
    if (depth > kMaxDepth) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": offset ", i, ": JSON nested deeper than ", kMaxDepth, " levels"));
    }
    if (values > kMaxValues) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": offset ", i, ": JSON with more than ", kMaxValues, " values"));
    }
  }
  return absl::OkStatus();
}

// Remembers where the parser stopped; nlohmann's own report would be an exception.
class ErrorOffset : public nlohmann::json::json_sax_t {
 public:
  size_t offset = 0;
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    offset = position;
    return false;
  }
};

std::string Join(const std::string& path, const char* key) { return absl::StrCat(path, ".", key); }

}  // namespace

std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}

absl::StatusOr<nlohmann::json> ParseUntrustedJson(const std::string& file, std::string_view text) {
  CLAMOR_RETURN_IF_ERROR(CheckShape(file, text));
  nlohmann::json value = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!value.is_discarded()) return value;
  ErrorOffset error;
  nlohmann::json::sax_parse(text.begin(), text.end(), &error);
  return absl::InvalidArgumentError(absl::StrCat(file, ": offset ", error.offset, ": not valid JSON"));
}

absl::Status UnexpectedValue(const std::string& path, const nlohmann::json& value,
                             const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", Shown(value), "; expected ", expected));
}

bool IsIntegerIn(const nlohmann::json& value, int64_t low, int64_t high) {
  if (!value.is_number_integer()) return false;
  // An unsigned value over the range of int64 would wrap.
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) return false;
  return value.get<int64_t>() >= low && value.get<int64_t>() <= high;
}

const nlohmann::json& Field(const nlohmann::json& object, const char* key) {
  static const nlohmann::json& absent = *new nlohmann::json(nullptr);
  if (!object.is_object()) return absent;
  const auto found = object.find(key);
  return found == object.end() ? absent : *found;
}

absl::StatusOr<std::string> StringField(const nlohmann::json& object, const char* key,
                                        const std::string& path, std::optional<std::string> fallback) {
  const nlohmann::json& field = Field(object, key);
  if (field.is_null() && fallback.has_value()) return *std::move(fallback);
  if (!field.is_string()) return UnexpectedValue(Join(path, key), field, "a string");
  return field.get_ref<const std::string&>();
}

absl::StatusOr<bool> BoolField(const nlohmann::json& object, const char* key, const std::string& path,
                               std::optional<bool> fallback) {
  const nlohmann::json& field = Field(object, key);
  if (field.is_null() && fallback.has_value()) return *fallback;
  if (!field.is_boolean()) return UnexpectedValue(Join(path, key), field, "true or false");
  return field.get<bool>();
}

absl::StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& object, const char* key,
                                                 const std::string& path) {
  const nlohmann::json& field = Field(object, key);
  if (!field.is_array()) return UnexpectedValue(Join(path, key), field, "an array");
  return &field;
}

}  // namespace clamor
