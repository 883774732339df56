// The slow and certain comparison of documents and indexes, for tests and for an operator in doubt.
//
// Tested by tests/retrieval/suffix_store_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "retrieval/document_db.h"
#include "retrieval/namespace_index.h"
#include "retrieval/tenant_count.h"

namespace clamor::retrieval {

// DATA_LOSS unless each document of the tenant is live in exactly one segment of its namespace, token for
// token, segments hold no other, and each is sound in itself, and what expires is listed. What was counted on
// the way. REQUIRES: no change meanwhile.
absl::StatusOr<TenantCount> CheckTenant(const DocumentDb& db, std::string_view tenant,
                                        std::span<const std::shared_ptr<NamespaceIndex>> indexes);

}  // namespace clamor::retrieval
