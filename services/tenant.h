// Names of tenants as they cross the network.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace clamor {

// The request metadata that names the tenant, and who it is if absent.
inline constexpr absl::string_view kTenantMetadata = "x-clamor-tenant";
inline constexpr absl::string_view kDefaultTenant = "default";

// OK if `tenant` is 1 to 128 characters of [A-Za-z0-9._-]; else INVALID_ARGUMENT that names `field`.
absl::Status CheckTenant(absl::string_view field, absl::string_view tenant);

}  // namespace clamor
