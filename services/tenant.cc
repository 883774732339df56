#include "services/tenant.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/rpc_error.h"

namespace clamor {

absl::Status CheckTenant(absl::string_view field, absl::string_view tenant) {
  constexpr size_t kMaxLength = 128;
  if (tenant.empty() || tenant.size() > kMaxLength) {
    return InvalidField(field,
                        absl::StrCat("has ", tenant.size(), " characters, must have 1 to ", kMaxLength));
  }
  bool well_formed = std::all_of(tenant.begin(), tenant.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  return well_formed ? absl::OkStatus() : InvalidField(field, "has characters other than A-Z a-z 0-9 . _ -");
}

}  // namespace clamor
