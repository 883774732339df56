#include "retrieval/suffix_store.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/mapped_files.h"
#include "retrieval/segment.h"
#include "retrieval/suffix_store_rep.h"

namespace clamor::retrieval {
namespace {

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

// Of two times to expire at, of which 0 is never.
uint64_t Later(uint64_t a, uint64_t b) { return a == 0 || b == 0 ? 0 : std::max(a, b); }

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

}  // namespace

absl::Status CreateFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(folder, ": cannot be created: ", error.message()));
}

SuffixStore::SuffixStore(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
SuffixStore::~SuffixStore() = default;

absl::StatusOr<std::unique_ptr<SuffixStore>> SuffixStore::Open(const StoreOptions& options) {
  CLAMOR_RETURN_IF_ERROR(ValidateOptions(options));
  CLAMOR_RETURN_IF_ERROR(CreateFolder(options.path + kSegmentsFolder));
  CLAMOR_ASSIGN_OR_RETURN(FolderLock lock, FolderLock::Acquire(options.path));
  MappedFiles::OfProcess().SetLimit(options.mapped_bytes);
  std::error_code ignored;
  std::filesystem::remove_all(options.path + kLoadingFolder, ignored);  // left by a crash
  CLAMOR_ASSIGN_OR_RETURN(std::unique_ptr<DocumentDb> db,
                          DocumentDb::Open(options.path + kDbFolder, options.env));
  CLAMOR_ASSIGN_OR_RETURN(SegmentFiles files, OpenSegmentFiles(options.path + kSegmentsFolder));
  auto rep = std::make_unique<Rep>(options, std::move(lock), std::move(db), files);
  CLAMOR_RETURN_IF_ERROR(rep->Restore(std::move(files)));
  rep->StartUpkeep();
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
    tenant->Count(catalog.count);
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
                                         std::span<const uint32_t> tokens, uint64_t expires) {
  const Document document{document_id, tokens, expires};
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
  CLAMOR_RETURN_IF_ERROR(compactor.WaitForRoom(index));

  const std::string& prefix = index->prefix();
  std::vector<bool> changed(documents.size());
  std::vector<DocumentDb::Change> changed_documents;
  std::vector<Segment::Source> sources;
  std::vector<uint64_t> removed;
  TenantCount more;
  for (const size_t i : LastOfEachId(documents)) {
    const auto& [id, tokens, expires] = documents[i];
    CLAMOR_ASSIGN_OR_RETURN(const std::optional<CatalogEntry> before, db->Find(prefix, id));
    CLAMOR_ASSIGN_OR_RETURN(const bool same, IsBody(prefix, before, tokens));
    if (same) {
      const uint64_t later = Later(before->expires, expires);
      if (later != before->expires)
        changed_documents.push_back(
            {.id = id, .before = before, .tokens = tokens, .number = before->number, .expires = later});
      continue;
    }
    changed[i] = true;
    changed_documents.push_back(
        {.id = id, .before = before, .tokens = tokens, .number = next_number++, .expires = expires});
    sources.push_back({changed_documents.back().number, tokens});
    more += CountOf(prefix, id, static_cast<uint32_t>(tokens.size()));
    if (!before) continue;
    removed.push_back(before->number);
    more -= CountOf(prefix, id, before->tokens);
  }
  if (changed_documents.empty()) return changed;
  CLAMOR_RETURN_IF_ERROR(CheckQuota(tenant, more));
  // The index first, as building it may fail and publishing it cannot.
  std::shared_ptr<const Segment> segment;
  if (!sources.empty()) {
    CLAMOR_RETURN_IF_ERROR(CheckDisk(more.bytes));
    CLAMOR_ASSIGN_OR_RETURN(segment, Segment::Build(prefix, sources, ""));
  }
  CLAMOR_RETURN_IF_ERROR(db->Write(prefix, changed_documents));
  index->Publish({.segment = std::move(segment), .dead = nullptr}, removed);
  for (const DocumentDb::Change& change : changed_documents) changes.Add({ns, std::string(change.id)});
  tenant.Count(more);
  compactor.Schedule(index);
  return changed;
}

absl::StatusOr<bool> SuffixStore::Rep::IsBody(std::string_view prefix,
                                              const std::optional<CatalogEntry>& entry,
                                              std::span<const uint32_t> tokens) const {
  if (!entry || entry->tokens != tokens.size()) return false;
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<uint32_t> stored, db->Read(prefix, *entry));
  return std::ranges::equal(stored, tokens);
}

absl::Status SuffixStore::Rep::CheckQuota(Tenant& tenant, const TenantCount& more) const {
  const std::shared_lock locked(tenant.mu);
  const uint64_t bytes = tenant.count.bytes + more.bytes;
  if (bytes <= tenant.count.bytes || bytes <= options.max_bytes_per_tenant) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("tenant would hold ", bytes, " bytes, limit is ", options.max_bytes_per_tenant));
}

absl::Status SuffixStore::Rep::CheckDisk(uint64_t more_bytes) const {
  std::error_code error;
  const auto space = std::filesystem::space(options.path, error);
  if (error) return absl::InternalError(absl::StrCat(options.path, ": ", error.message()));
  const auto more = static_cast<uint64_t>(std::max<int64_t>(0, static_cast<int64_t>(more_bytes)));
  if (space.available >= more && space.available - more >= options.min_free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("disk has ", space.available, " bytes free, ", more,
                                                   " are wanted and ", options.min_free_bytes, " must stay"));
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
  index->Publish({}, {&before->number, 1});
  changes.Add({ns, std::string(document_id)});
  TenantCount less;
  less -= CountOf(index->prefix(), document_id, before->tokens);
  tenant.Count(less);
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
  changes.Add({{std::string(name), ""}, ""});
  {
    const std::lock_guard locked(mu);
    tenants.erase(tenants.find(name));
  }
  CLAMOR_RETURN_IF_ERROR(closed);
  const std::shared_lock locked(tenant.mu);
  return tenant.count.documents;
}

absl::StatusOr<Trie> SuffixStore::Draft(const Namespace& ns, std::span<const uint32_t> context,
                                        const DraftOptions& options) const {
  CLAMOR_RETURN_IF_ERROR(ValidateNamespace(ns));
  CLAMOR_RETURN_IF_ERROR(options.Validate());
  CLAMOR_RETURN_IF_ERROR(ValidateTokens("context", context));
  const std::shared_ptr<Tenant> tenant = rep_->Find(ns.tenant);
  const std::shared_ptr<NamespaceIndex> index = tenant == nullptr ? nullptr : tenant->Find(ns.fingerprint);
  if (index == nullptr) return Trie{};
  MappedFiles::OfProcess().Look();
  return retrieval::Draft(*index->snapshot(), context, options);
}

absl::StatusOr<std::vector<DocumentDb::Listed>> SuffixStore::List(std::string_view after,
                                                                  size_t limit) const {
  return rep_->db->List(after, limit);
}

absl::StatusOr<std::optional<StoredDocument>> SuffixStore::Find(const Namespace& ns,
                                                                std::string_view document_id) const {
  CLAMOR_RETURN_IF_ERROR(ValidateNamespace(ns));
  CLAMOR_RETURN_IF_ERROR(ValidateDocumentId(document_id));
  if (rep_->Find(ns.tenant) == nullptr) return std::nullopt;
  // Between the two reads another change may take the body away: no change of the tenant may be under way.
  using Found = absl::StatusOr<std::optional<StoredDocument>>;
  return rep_->Exclusively(ns.tenant, [&](Tenant&) -> Found {
    const std::string prefix = NamespacePrefix(ns);
    CLAMOR_ASSIGN_OR_RETURN(const std::optional<CatalogEntry> entry, rep_->db->Find(prefix, document_id));
    if (!entry) return std::nullopt;
    CLAMOR_ASSIGN_OR_RETURN(std::vector<uint32_t> tokens, rep_->db->Read(prefix, *entry));
    return StoredDocument{std::move(tokens), entry->expires};
  });
}

const ChangeLog& SuffixStore::changes() const { return rep_->changes; }

}  // namespace clamor::retrieval
