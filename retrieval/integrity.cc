#include "retrieval/integrity.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/draft.h"

namespace clamor::retrieval {
namespace {

// The text of a live document, if the parts have it.
std::optional<std::vector<uint32_t>> FindLive(const Parts& parts, uint64_t number) {
  for (const Part& part : parts) {
    const std::optional<size_t> index = part.segment->Find(number);
    if (!index || (part.dead != nullptr && (*part.dead)[*index])) continue;
    return part.segment->Text(part.segment->documents()[*index]);
  }
  return std::nullopt;
}

uint64_t CountLive(const Parts& parts) {
  uint64_t live = 0;
  for (const Part& part : parts) {
    live += part.segment->documents().size();
    if (part.dead != nullptr) live -= std::ranges::count(*part.dead, true);
  }
  return live;
}

}  // namespace

absl::StatusOr<TenantCount> CheckTenant(const DocumentDb& db, std::string_view tenant,
                                        std::span<const std::shared_ptr<NamespaceIndex>> indexes) {
  TenantCount count;
  uint64_t expiring = 0;
  auto visit = [&](const Namespace& ns, std::string_view id, const CatalogEntry& entry) -> absl::Status {
    const std::string prefix = NamespacePrefix(ns);
    CLAMOR_ASSIGN_OR_RETURN(const std::vector<uint32_t> body, db.Read(prefix, entry));
    const auto index = std::ranges::find(indexes, prefix, [](const auto& each) { return each->prefix(); });
    if (index == indexes.end())
      return absl::DataLossError(absl::StrCat("document ", entry.number, " has no index"));
    const auto text = FindLive(*(*index)->snapshot(), entry.number);
    if (!text || !std::ranges::equal(*text, body)) {
      return absl::DataLossError(absl::StrCat("document ", entry.number, " of ", body.size(),
                                              " tokens and an id of ", id.size(), " bytes is ",
                                              text ? "different" : "missing", " in the index"));
    }
    count += CountOf(prefix, id, entry.tokens);
    if (entry.expires == 0) return absl::OkStatus();
    ++expiring;
    CLAMOR_ASSIGN_OR_RETURN(const bool listed, db.HasExpiry(prefix, entry.expires, id));
    if (!listed)
      return absl::DataLossError(absl::StrCat("document ", entry.number, " is not listed to expire"));
    return absl::OkStatus();
  };
  CLAMOR_RETURN_IF_ERROR(db.ForEach(tenant, visit));

  // Each document was found, each number once: with equal counts there can be no other.
  uint64_t live = 0;
  for (const std::shared_ptr<NamespaceIndex>& index : indexes) {
    CLAMOR_RETURN_IF_ERROR(index->CheckIntegrity());
    live += CountLive(*index->snapshot());
  }
  CLAMOR_ASSIGN_OR_RETURN(const uint64_t bodies, db.CountBodies(tenant));
  if (live != count.documents || bodies != count.documents) {
    return absl::DataLossError(
        absl::StrCat("catalog has ", count.documents, " documents, index ", live, ", bodies ", bodies));
  }
  CLAMOR_ASSIGN_OR_RETURN(const uint64_t expiries, db.CountExpiries(tenant));
  if (expiries != expiring) {
    return absl::DataLossError(
        absl::StrCat("catalog has ", expiring, " documents that expire, ", expiries, " are listed"));
  }
  return count;
}

}  // namespace clamor::retrieval
