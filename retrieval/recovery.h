// From what is on disk to indexes: segment files where they fit the catalog, and the documents for all the
// rest.
//
// The catalog decides what is live. A segment file is only an index of it: documents it lacks are indexed
// again, documents whose number or checksum it does not have are dead, a file that does not open or has no
// live document is removed. So segment files and documents need no common commit, and a crash between the two
// costs time and nothing else.
//
// Tested by tests/retrieval/suffix_store_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "retrieval/compactor.h"
#include "retrieval/document_db.h"
#include "retrieval/key_codec.h"
#include "retrieval/namespace_index.h"
#include "retrieval/segment.h"
#include "retrieval/tenant_count.h"

namespace clamor::retrieval {

struct SegmentFiles {
  std::map<std::string, std::vector<std::shared_ptr<const Segment>>> by_prefix;
  uint64_t next_file = 0;      // no file has this number or a higher one
  uint64_t next_document = 1;  // the same for the numbers of documents in files
};

// Opens all of `folder`; removes what was left unfinished or is damaged.
absl::StatusOr<SegmentFiles> OpenSegmentFiles(const std::string& folder);

// The catalog of one namespace.
struct NamespaceCatalog {
  Namespace ns;
  std::vector<CatalogEntry> entries;
  TenantCount count;
};
absl::StatusOr<std::vector<NamespaceCatalog>> ReadCatalog(const DocumentDb& db);

// Fills `index` with the documents of `catalog`. Sorts the entries. Memory is bounded by the compactor's
// limits.
absl::Status RestoreIndex(const DocumentDb& db, Compactor& compactor, NamespaceCatalog& catalog,
                          std::vector<std::shared_ptr<const Segment>> segments,
                          const std::shared_ptr<NamespaceIndex>& index);

}  // namespace clamor::retrieval
