#include "retrieval/suffix_store.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/compactor.h"
#include "retrieval/document_db.h"
#include "retrieval/folder_lock.h"
#include "retrieval/integrity.h"
#include "retrieval/namespace_index.h"
#include "retrieval/recovery.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {
namespace {

constexpr char kDbFolder[] = "/db", kSegmentsFolder[] = "/segments";

absl::Status CreateFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(folder, ": cannot be created: ", error.message()));
}

absl::Status ValidateTokens(const char* what, std::span<const uint32_t> tokens) {
  const auto bad = std::ranges::find_if(tokens, [](uint32_t token) { return token >= kTokenLimit; });
  if (bad == tokens.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has token id ", *bad, " at ", bad - tokens.begin(), ", limit is ", kTokenLimit));
}

absl::Status ValidateBatch(std::span<const Document> documents, uint32_t max_document_tokens) {
  uint64_t total = 0;
  for (const Document& document : documents) {
    CLAMOR_RETURN_IF_ERROR(ValidateDocumentId(document.id));
    if (document.tokens.empty() || document.tokens.size() > max_document_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("document has ", document.tokens.size(),
                                                     " tokens, must have 1 to ", max_document_tokens));
    }
    CLAMOR_RETURN_IF_ERROR(ValidateTokens("document", document.tokens));
    total += document.tokens.size();
  }
  if (total <= kMaxBatchTokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("batch has ", total, " tokens, limit is ", kMaxBatchTokens));
}

absl::Status ValidateOptions(const StoreOptions& options) {
  if (options.path.empty()) return absl::InvalidArgumentError("path of the store is empty");
  if (options.max_document_tokens == 0 || options.max_document_tokens > kMaxBatchTokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_document_tokens is ", options.max_document_tokens,
                                                   ", must be 1 to ", kMaxBatchTokens));
  }
  return absl::OkStatus();
}

// The last of each id.
std::vector<size_t> LastOfEachId(std::span<const Document> documents) {
  std::map<std::string_view, size_t> last;
  for (size_t i = 0; i < documents.size(); ++i) last[documents[i].id] = i;
  std::vector<size_t> indexes;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (last[documents[i].id] == i) indexes.push_back(i);
  }
  return indexes;
}

uint64_t FolderBytes(const std::string& folder) {
  uint64_t total = 0;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code gone;  // a file may be removed while we look
    const uint64_t size = it->is_regular_file(gone) ? it->file_size(gone) : 0;
    if (!gone) total += size;
  }
  return total;
}

// One tenant: the unit of quota, and of who waits for whom.
struct Tenant {
  std::mutex write_mu;  // serializes changes, across the wait for the disk; taken before mu
  bool erased = false;  // no longer in the store's map; guarded by write_mu

  std::shared_mutex mu;  // held briefly; guards what follows
  uint64_t documents = 0, tokens = 0;
  std::map<std::string, std::shared_ptr<NamespaceIndex>, std::less<>> indexes;  // by fingerprint

  std::shared_ptr<NamespaceIndex> Find(std::string_view fingerprint) {
    const std::shared_lock lock(mu);
    const auto found = indexes.find(fingerprint);
    return found == indexes.end() ? nullptr : found->second;
  }
  std::shared_ptr<NamespaceIndex> FindOrAdd(const Namespace& ns, std::atomic<int64_t>& hot_tokens) {
    const std::lock_guard lock(mu);
    std::shared_ptr<NamespaceIndex>& index = indexes[ns.fingerprint];
    if (index == nullptr) index = std::make_shared<NamespaceIndex>(NamespacePrefix(ns), hot_tokens);
    return index;
  }
  std::vector<std::shared_ptr<NamespaceIndex>> Indexes() {
    const std::shared_lock lock(mu);
    std::vector<std::shared_ptr<NamespaceIndex>> all;
    for (const auto& [fingerprint, index] : indexes) all.push_back(index);
    return all;
  }
  void Count(int64_t more_documents, int64_t more_tokens) {
    const std::lock_guard lock(mu);
    documents += more_documents;
    tokens += more_tokens;
  }
};

}  // namespace

struct SuffixStore::Rep {
  Rep(StoreOptions store_options, FolderLock folder_lock, std::unique_ptr<DocumentDb> document_db,
      const SegmentFiles& files)
      : options(std::move(store_options)),
        lock(std::move(folder_lock)),
        db(std::move(document_db)),
        compactor(options.path + kSegmentsFolder, files.next_file, options.hot_tokens),
        next_number(files.next_document) {}

  absl::Status Restore(SegmentFiles files);
  std::shared_ptr<Tenant> Find(std::string_view name) const;
  std::shared_ptr<Tenant> FindOrAdd(std::string_view name);
  std::vector<std::pair<std::string, std::shared_ptr<Tenant>>> Tenants() const;

  // Calls `change` on the tenant while no other change of it is under way.
  template <typename Change>
  auto Exclusively(std::string_view name, Change change) {
    for (;;) {
      const std::shared_ptr<Tenant> tenant = FindOrAdd(name);
      const std::lock_guard writing(tenant->write_mu);
      if (!tenant->erased) return change(*tenant);
    }
  }
  // The rest REQUIRES: tenant.write_mu is held.
  absl::StatusOr<std::vector<bool>> AppendTo(Tenant& tenant, const Namespace& ns,
                                             std::span<const Document> documents);
  absl::StatusOr<bool> DeleteFrom(Tenant& tenant, const Namespace& ns, std::string_view document_id);
  absl::StatusOr<uint64_t> Erase(std::string_view name, Tenant& tenant);

  const StoreOptions options;
  const FolderLock lock;
  const std::unique_ptr<DocumentDb> db;
  Compactor compactor;
  std::atomic<uint64_t> next_number;
  mutable std::shared_mutex mu;  // guards what follows
  std::map<std::string, std::shared_ptr<Tenant>, std::less<>> tenants;
};

SuffixStore::SuffixStore(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
SuffixStore::~SuffixStore() = default;

absl::StatusOr<std::unique_ptr<SuffixStore>> SuffixStore::Open(const StoreOptions& options) {
  CLAMOR_RETURN_IF_ERROR(ValidateOptions(options));
  CLAMOR_RETURN_IF_ERROR(CreateFolder(options.path + kSegmentsFolder));
  CLAMOR_ASSIGN_OR_RETURN(FolderLock lock, FolderLock::Acquire(options.path));
  CLAMOR_ASSIGN_OR_RETURN(std::unique_ptr<DocumentDb> db, DocumentDb::Open(options.path + kDbFolder));
  CLAMOR_ASSIGN_OR_RETURN(SegmentFiles files, OpenSegmentFiles(options.path + kSegmentsFolder));
  auto rep = std::make_unique<Rep>(options, std::move(lock), std::move(db), files);
  CLAMOR_RETURN_IF_ERROR(rep->Restore(std::move(files)));
  return std::unique_ptr<SuffixStore>(new SuffixStore(std::move(rep)));
}

absl::Status SuffixStore::Rep::Restore(SegmentFiles files) {
  CLAMOR_ASSIGN_OR_RETURN(std::vector<NamespaceCatalog> catalogs, ReadCatalog(*db));
  for (NamespaceCatalog& catalog : catalogs) {
    const std::shared_ptr<Tenant> tenant = FindOrAdd(catalog.ns.tenant);
    const std::shared_ptr<NamespaceIndex> index = tenant->FindOrAdd(catalog.ns, compactor.hot_tokens());
    std::vector<std::shared_ptr<const Segment>> segments;
    if (auto found = files.by_prefix.extract(index->prefix()); !found.empty())
      segments = std::move(found.mapped());
    CLAMOR_RETURN_IF_ERROR(RestoreIndex(*db, compactor, catalog, std::move(segments), index));
    uint64_t tokens = 0;
    for (const CatalogEntry& entry : catalog.entries) tokens += entry.tokens;
    tenant->Count(catalog.entries.size(), tokens);
    next_number = std::max(next_number.load(), catalog.entries.back().number + 1);
  }
  // What is left belongs to namespaces without documents.
  for (const auto& [prefix, segments] : files.by_prefix) {
    for (const std::shared_ptr<const Segment>& segment : segments) {
      std::error_code error;
      std::filesystem::remove(segment->path(), error);
      if (error)
        return absl::InternalError(absl::StrCat(segment->path(), ": cannot be removed: ", error.message()));
    }
  }
  return absl::OkStatus();
}

std::shared_ptr<Tenant> SuffixStore::Rep::Find(std::string_view name) const {
  const std::shared_lock locked(mu);
  const auto found = tenants.find(name);
  return found == tenants.end() ? nullptr : found->second;
}

std::shared_ptr<Tenant> SuffixStore::Rep::FindOrAdd(std::string_view name) {
  if (std::shared_ptr<Tenant> tenant = Find(name)) return tenant;
  const std::lock_guard locked(mu);
  std::shared_ptr<Tenant>& tenant = tenants[std::string(name)];
  if (tenant == nullptr) tenant = std::make_shared<Tenant>();
  return tenant;
}

std::vector<std::pair<std::string, std::shared_ptr<Tenant>>> SuffixStore::Rep::Tenants() const {
  const std::shared_lock locked(mu);
  return {tenants.begin(), tenants.end()};
}

absl::StatusOr<bool> SuffixStore::Append(const Namespace& ns, std::string_view document_id,
                                         std::span<const uint32_t> tokens) {
  const Document document{document_id, tokens};
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<bool> changed, AppendBatch(ns, {&document, 1}));
  return changed.front();
}

absl::StatusOr<std::vector<bool>> SuffixStore::AppendBatch(const Namespace& ns,
                                                           std::span<const Document> documents) {
  CLAMOR_RETURN_IF_ERROR(ValidateNamespace(ns));
  CLAMOR_RETURN_IF_ERROR(ValidateBatch(documents, rep_->options.max_document_tokens));
  return rep_->Exclusively(ns.tenant, [&](Tenant& tenant) { return rep_->AppendTo(tenant, ns, documents); });
}

absl::StatusOr<std::vector<bool>> SuffixStore::Rep::AppendTo(Tenant& tenant, const Namespace& ns,
                                                             std::span<const Document> documents) {
  const std::shared_ptr<NamespaceIndex> index = tenant.FindOrAdd(ns, compactor.hot_tokens());
  CLAMOR_RETURN_IF_ERROR(compactor.WaitForRoom(*index));

  std::vector<bool> changed(documents.size());
  std::vector<DocumentDb::Change> changes;
  std::vector<uint64_t> removed;
  int64_t more_documents = 0, more_tokens = 0;
  for (const size_t i : LastOfEachId(documents)) {
    const auto& [id, tokens] = documents[i];
    CLAMOR_ASSIGN_OR_RETURN(const std::optional<CatalogEntry> before, db->Find(index->prefix(), id));
    if (before && before->tokens == tokens.size()) {
      CLAMOR_ASSIGN_OR_RETURN(const std::vector<uint32_t> stored, db->Read(index->prefix(), *before));
      if (std::ranges::equal(stored, tokens)) continue;
    }
    changed[i] = true;
    changes.push_back({.id = id, .before = before, .tokens = tokens, .number = next_number++});
    if (before) removed.push_back(before->number);
    more_documents += before ? 0 : 1;
    more_tokens += static_cast<int64_t>(tokens.size()) - (before ? before->tokens : 0);
  }
  if (changes.empty()) return changed;
  {
    const std::shared_lock locked(tenant.mu);
    if (more_tokens > 0 && tenant.tokens + more_tokens > options.max_tokens_per_tenant) {
      return absl::ResourceExhaustedError(absl::StrCat("tenant would hold ", tenant.tokens + more_tokens,
                                                       " tokens, limit is ", options.max_tokens_per_tenant));
    }
  }
  // The index first, as building it may fail and publishing it cannot.
  std::vector<Segment::Source> sources;
  for (const DocumentDb::Change& change : changes) sources.push_back({change.number, change.tokens});
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<const Segment> segment,
                          Segment::Build(index->prefix(), sources, ""));
  CLAMOR_RETURN_IF_ERROR(db->Write(index->prefix(), changes));
  index->Publish(std::move(segment), removed);
  tenant.Count(more_documents, more_tokens);
  compactor.Schedule(index);
  return changed;
}

absl::StatusOr<bool> SuffixStore::DeleteDocument(const Namespace& ns, std::string_view document_id) {
  CLAMOR_RETURN_IF_ERROR(ValidateNamespace(ns));
  CLAMOR_RETURN_IF_ERROR(ValidateDocumentId(document_id));
  if (rep_->Find(ns.tenant) == nullptr) return false;
  return rep_->Exclusively(ns.tenant,
                           [&](Tenant& tenant) { return rep_->DeleteFrom(tenant, ns, document_id); });
}

absl::StatusOr<bool> SuffixStore::Rep::DeleteFrom(Tenant& tenant, const Namespace& ns,
                                                  std::string_view document_id) {
  const std::shared_ptr<NamespaceIndex> index = tenant.Find(ns.fingerprint);
  if (index == nullptr) return false;
  CLAMOR_ASSIGN_OR_RETURN(const std::optional<CatalogEntry> before, db->Find(index->prefix(), document_id));
  if (!before) return false;
  const DocumentDb::Change change{.id = document_id, .before = before, .tokens = {}};
  CLAMOR_RETURN_IF_ERROR(db->Write(index->prefix(), {&change, 1}));
  index->Publish(nullptr, {&before->number, 1});
  tenant.Count(-1, -int64_t{before->tokens});
  compactor.Schedule(index);
  return true;
}

absl::StatusOr<uint64_t> SuffixStore::DeleteTenant(std::string_view tenant) {
  CLAMOR_RETURN_IF_ERROR(ValidateTenant(tenant));
  auto erase = [&](Tenant& found) { return rep_->Erase(tenant, found); };
  CLAMOR_ASSIGN_OR_RETURN(const uint64_t documents, rep_->Exclusively(tenant, erase));
  CLAMOR_RETURN_IF_ERROR(rep_->db->PurgeTenant(tenant));
  return documents;
}

absl::StatusOr<uint64_t> SuffixStore::Rep::Erase(std::string_view name, Tenant& tenant) {
  CLAMOR_RETURN_IF_ERROR(db->EraseTenant(name));
  absl::Status closed;
  for (const std::shared_ptr<NamespaceIndex>& index : tenant.Indexes()) closed.Update(index->Close());
  tenant.erased = true;
  {
    const std::lock_guard locked(mu);
    tenants.erase(tenants.find(name));
  }
  CLAMOR_RETURN_IF_ERROR(closed);
  const std::shared_lock locked(tenant.mu);
  return tenant.documents;
}

absl::StatusOr<Trie> SuffixStore::Draft(const Namespace& ns, std::span<const uint32_t> context,
                                        const DraftOptions& options) const {
  CLAMOR_RETURN_IF_ERROR(ValidateNamespace(ns));
  CLAMOR_RETURN_IF_ERROR(options.Validate());
  CLAMOR_RETURN_IF_ERROR(ValidateTokens("context", context));
  const std::shared_ptr<Tenant> tenant = rep_->Find(ns.tenant);
  const std::shared_ptr<NamespaceIndex> index = tenant == nullptr ? nullptr : tenant->Find(ns.fingerprint);
  if (index == nullptr) return Trie{};
  return retrieval::Draft(*index->snapshot(), context, options);
}

absl::Status SuffixStore::Checkpoint(const std::string& folder) const {
  std::error_code error;
  if (folder.empty() || std::filesystem::exists(folder, error)) {
    return absl::FailedPreconditionError(
        absl::StrCat("checkpoint folder \"", folder, "\" exists or has no name"));
  }
  // Under another name until it is whole.
  const std::string unfinished = folder + ".tmp";
  std::filesystem::remove_all(unfinished, error);
  CLAMOR_RETURN_IF_ERROR(CreateFolder(unfinished + kSegmentsFolder));
  CLAMOR_RETURN_IF_ERROR(rep_->db->Checkpoint(unfinished + kDbFolder));
  for (std::filesystem::directory_iterator it(rep_->options.path + kSegmentsFolder, error), end;
       !error && it != end; it.increment(error)) {
    if (it->path().extension() != ".seg") continue;
    const std::string copy = absl::StrCat(unfinished, kSegmentsFolder, "/", it->path().filename().string());
    // A segment that was merged away meanwhile, or that cannot be copied, is made again from the documents.
    std::error_code failed;
    std::filesystem::create_hard_link(it->path(), copy, failed);
    if (failed) std::filesystem::copy_file(it->path(), copy, failed);
  }
  std::filesystem::rename(unfinished, folder, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(unfinished, ": cannot become ", folder, ": ", error.message()));
}

Stats SuffixStore::GetStats(std::string_view tenant) const {
  Stats stats;
  std::vector<std::shared_ptr<Tenant>> tenants;
  if (tenant.empty()) {
    for (auto& [name, each] : rep_->Tenants()) tenants.push_back(std::move(each));
    stats.bytes_on_disk = FolderBytes(rep_->options.path);
  } else if (std::shared_ptr<Tenant> found = rep_->Find(tenant)) {
    tenants.push_back(std::move(found));
    stats.bytes_on_disk = rep_->db->TenantBytes(tenant);
  }
  for (const std::shared_ptr<Tenant>& each : tenants) {
    for (const std::shared_ptr<NamespaceIndex>& index : each->Indexes()) {
      const std::shared_ptr<const Parts> parts = index->snapshot();
      stats.segments += parts->size();
      for (const Part& part : *parts) {
        if (!tenant.empty() && !part.segment->path().empty()) stats.bytes_on_disk += part.segment->bytes();
      }
    }
    const std::shared_lock locked(each->mu);
    stats.documents += each->documents;
    stats.tokens += each->tokens;
  }
  return stats;
}

absl::Status SuffixStore::CheckIntegrity() const {
  for (const auto& [name, tenant] : rep_->Tenants()) {
    const std::lock_guard writing(tenant->write_mu);
    if (tenant->erased) continue;
    CLAMOR_ASSIGN_OR_RETURN(const TenantCount count, CheckTenant(*rep_->db, name, tenant->Indexes()));
    const std::shared_lock locked(tenant->mu);
    if (count.documents != tenant->documents || count.tokens != tenant->tokens) {
      return absl::DataLossError(absl::StrCat("tenant has ", count.documents, " documents of ", count.tokens,
                                              " tokens, the totals say ", tenant->documents, " of ",
                                              tenant->tokens));
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
