// Taking in whole segments that were made outside (bulk_files.h).
//
// Order: a copy of the segment with numbers of this store, then its documents into RocksDB in one step, then
// publishing both. After a crash in between, a segment without documents is removed by the next start.
#include <filesystem>
#include <utility>

#include "kernels/status_macros.h"
#include "retrieval/suffix_store_rep.h"

namespace clamor::retrieval {

absl::StatusOr<LoadOutcome> SuffixStore::LoadSegment(const std::string& path) {
  CLAMOR_ASSIGN_OR_RETURN(const BulkSegment bulk, OpenBulkSegment(path));
  return rep_->Exclusively(bulk.ns.tenant, [&](Tenant& tenant) { return rep_->LoadInto(tenant, bulk); });
}

absl::StatusOr<LoadOutcome> SuffixStore::Rep::LoadInto(Tenant& tenant, const BulkSegment& bulk) {
  const std::shared_ptr<NamespaceIndex> index = tenant.FindOrAdd(bulk.ns, compactor.hot_tokens());
  CLAMOR_RETURN_IF_ERROR(compactor.WaitForRoom(index));

  const std::string& prefix = index->prefix();
  const std::span<const Segment::Document> documents = bulk.segment->documents();
  const uint64_t first_number = next_number.fetch_add(documents.size());
  std::vector<DocumentDb::Change> changed_documents;
  std::vector<uint64_t> removed;
  std::vector<std::vector<uint32_t>> texts(documents.size());  // of the changed documents
  Part part;
  auto dead = std::make_shared<Segment::DeadSet>(documents.size());
  LoadOutcome outcome;
  TenantCount more;
  for (size_t i = 0; i < documents.size(); ++i) {
    const std::string& id = bulk.ids[i];
    std::vector<uint32_t> tokens = bulk.segment->Text(documents[i]);
    CLAMOR_ASSIGN_OR_RETURN(const std::optional<CatalogEntry> before, db->Find(prefix, id));
    CLAMOR_ASSIGN_OR_RETURN(const bool same, IsBody(prefix, before, tokens));
    if (same) {
      ++outcome.unchanged;
      (*dead)[i] = true;
      part.dead_tokens += documents[i].size;
      if (before->expires == 0) continue;
      texts[i] = std::move(tokens);
      changed_documents.push_back({.id = id, .before = before, .tokens = texts[i], .number = before->number});
      continue;
    }
    texts[i] = std::move(tokens);
    ++outcome.stored;
    outcome.tokens += documents[i].size;
    changed_documents.push_back({.id = id, .before = before, .tokens = texts[i], .number = first_number + i});
    more += CountOf(prefix, id, documents[i].size);
    if (!before) continue;
    removed.push_back(before->number);
    more -= CountOf(prefix, id, before->tokens);
  }
  if (changed_documents.empty()) return outcome;
  CLAMOR_RETURN_IF_ERROR(CheckQuota(tenant, more));
  CLAMOR_RETURN_IF_ERROR(CheckDisk(bulk.segment->bytes() * 3 / 2));
  if (outcome.stored > 0) {
    CLAMOR_ASSIGN_OR_RETURN(part.segment,
                            Segment::Renumber(*bulk.segment, first_number, compactor.NextFile()));
    if (part.dead_tokens > 0) part.dead = std::move(dead);
  }
  if (absl::Status taken_in = db->Ingest(prefix, changed_documents, options.path + kLoadingFolder);
      !taken_in.ok()) {
    std::error_code ignored;  // the next start would remove it, too
    if (part.segment != nullptr) std::filesystem::remove(part.segment->path(), ignored);
    return taken_in;
  }
  index->Publish(std::move(part), removed);
  for (const DocumentDb::Change& change : changed_documents) changes.Add({bulk.ns, std::string(change.id)});
  tenant.Count(more);
  compactor.Schedule(index);
  return outcome;
}

}  // namespace clamor::retrieval
