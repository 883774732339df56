// What normalizers, pre-tokenizers and decoders search for: a string, or a regular expression in Oniguruma's
// (Ruby) dialect, which is what `tokenizer.json` is written in. Run by PCRE2; what would mean something else
// there is translated (\s, \w, \b, nested classes) or refused (&&, \h, inline m and s, possessive intervals).
//
// Immutable; may be used from any thread.
// Tested by tests/model/tokenizer/pattern_test.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

class Pattern {
 public:
  struct Match {
    size_t begin;
    size_t end;
  };

  // The field "pattern" of `owner`: {"String": s} or {"Regex": r}.
  static absl::StatusOr<Pattern> FromJson(const nlohmann::json& owner, const std::string& path);
  static absl::StatusOr<Pattern> FromRegex(std::string_view regex);
  // REQUIRES: `literal` is not empty.
  static Pattern FromLiteral(std::string literal);

  bool is_literal() const { return code_ == nullptr; }

  // All matches in valid UTF-8, in order, not overlapping; an empty match right after another match is left
  // out. RESOURCE_EXHAUSTED if the regular expression backtracks without end.
  absl::Status FindAll(std::string_view text, std::vector<Match>* matches) const;

 private:
  struct FreeCode {
    void operator()(void* code) const;
  };
  std::string source_;
  std::unique_ptr<void, FreeCode> code_;  // pcre2_code; null for a literal
};

}  // namespace clamor
