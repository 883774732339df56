// What a request to the retrieval service may ask: its messages become the store's own types here, checked
// once. INVALID_ARGUMENT names the field by its path in the request.
// Tested by tests/services/retrieval/retrieval_service_test.cc.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "clamor/v1/retrieval.pb.h"
#include "retrieval/suffix_store.h"

namespace clamor {

inline constexpr int kMaxLookupQueries = 256;
inline constexpr int kMaxLookupContext = 4096;
inline constexpr int kMaxAppendDocuments = 1024;

absl::StatusOr<retrieval::Namespace> ToNamespace(const std::string& path, const v1::Namespace& proto);

struct Lookup {
  retrieval::Namespace ns;
  std::span<const uint32_t> context;  // borrowed from the query
  retrieval::DraftOptions options;
};
absl::StatusOr<Lookup> ToLookup(const std::string& path, const v1::LookupQuery& query);

absl::Status CheckCount(absl::string_view field, int count, int limit);
absl::Status CheckDocumentId(const std::string& field, const std::string& id);
// The namespace of each document.
absl::StatusOr<std::vector<retrieval::Namespace>> CheckDocuments(const v1::AppendRequest& request);
absl::Status CheckFolderName(const std::string& name);

}  // namespace clamor
