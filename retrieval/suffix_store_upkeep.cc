// What looks after the folder of a store: copies, sizes, checks, expiry.
#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/suffix_store_rep.h"

namespace clamor::retrieval {
namespace {

constexpr std::chrono::seconds kSweepPeriod{1};
constexpr size_t kSweepDocuments = 1024;  // removed in one step
constexpr uint64_t kReadAheadStep = 1 << 20;

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

// By hard links where the file system allows. Copies may be slow, and nothing is merged meanwhile.
absl::Status CopySegments(const std::string& from, const std::string& to) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != ".seg") continue;
    const std::filesystem::path copy = to / it->path().filename();
    std::error_code failed;
    std::filesystem::create_hard_link(it->path(), copy, failed);
    if (failed) std::filesystem::copy_file(it->path(), copy, failed);
    // A tenant that is deleted at this moment takes its files away.
    if (failed && std::filesystem::exists(it->path()))
      return absl::InternalError(absl::StrCat(copy.string(), ": cannot be made: ", failed.message()));
  }
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(from, ": cannot be listed: ", error.message()));
}

}  // namespace

SuffixStore::Rep::~Rep() {
  {
    const std::lock_guard locked(upkeep_mu);
    stopping = true;
  }
  upkeep_stop.notify_all();
  if (upkeep.joinable()) upkeep.join();
}

void SuffixStore::Rep::StartUpkeep() {
  upkeep = std::thread([this] {
    ReadAhead();
    std::unique_lock locked(upkeep_mu);
    while (!upkeep_stop.wait_for(locked, kSweepPeriod, [&] { return stopping.load(); })) {
      locked.unlock();
      RemoveExpired().IgnoreError();  // the next time tries again
      locked.lock();
    }
  });
}

void SuffixStore::Rep::ReadAhead() {
  std::vector<std::shared_ptr<const Segment>> newest_first;
  for (const auto& [name, tenant] : Tenants()) {
    for (const std::shared_ptr<NamespaceIndex>& index : tenant->Indexes()) {
      for (const Part& part : *index->snapshot()) newest_first.push_back(part.segment);
    }
  }
  std::ranges::sort(newest_first, std::greater(),
                    [](const auto& segment) { return segment->documents().back().number; });
  uint64_t left = options.read_ahead_bytes;
  for (const std::shared_ptr<const Segment>& segment : newest_first) {
    if (segment->path().empty()) continue;
    for (uint64_t at = 0; at < segment->bytes() && left > 0; at += kReadAheadStep) {
      if (stopping) return;
      segment->ReadAhead(at, std::min(kReadAheadStep, left));
      left -= std::min(kReadAheadStep, left);
    }
  }
}

uint64_t SuffixStore::Rep::Now() const {
  return options.clock ? options.clock() : static_cast<uint64_t>(std::time(nullptr));
}

absl::StatusOr<uint64_t> SuffixStore::RemoveExpired() { return rep_->RemoveExpired(); }

absl::StatusOr<uint64_t> SuffixStore::Rep::RemoveExpired() {
  for (uint64_t removed = 0;;) {
    const uint64_t now = Now(), before = removed;
    CLAMOR_ASSIGN_OR_RETURN(const std::vector<DocumentDb::Due> due, db->FindExpired(now, kSweepDocuments));
    for (auto begin = due.begin(), end = begin; begin != due.end(); begin = end) {
      const Namespace& ns = begin->ns;
      end = std::find_if(begin, due.end(), [&](const DocumentDb::Due& each) { return each.ns != ns; });
      auto remove = [&](Tenant& tenant) { return RemoveExpiredFrom(tenant, ns, {begin, end}, now); };
      CLAMOR_ASSIGN_OR_RETURN(const uint64_t count, Exclusively(ns.tenant, remove));
      removed += count;
    }
    if (removed == before) return removed;
  }
}

absl::StatusOr<uint64_t> SuffixStore::Rep::RemoveExpiredFrom(Tenant& tenant, const Namespace& ns,
                                                             std::span<const DocumentDb::Due> due,
                                                             uint64_t now) {
  const std::shared_ptr<NamespaceIndex> index = tenant.Find(ns.fingerprint);
  if (index == nullptr) return 0;  // the tenant was deleted meanwhile
  std::vector<DocumentDb::Change> expired;
  std::vector<uint64_t> removed;
  TenantCount less;
  for (const DocumentDb::Due& document : due) {
    CLAMOR_ASSIGN_OR_RETURN(const std::optional<CatalogEntry> before, db->Find(index->prefix(), document.id));
    if (!before || before->expires == 0 || before->expires > now) continue;  // changed meanwhile
    expired.push_back({.id = document.id, .before = before, .tokens = {}});
    removed.push_back(before->number);
    less -= CountOf(index->prefix(), document.id, before->tokens);
  }
  if (expired.empty()) return 0;
  CLAMOR_RETURN_IF_ERROR(db->Write(index->prefix(), expired));
  index->Publish({}, removed);
  for (const DocumentDb::Change& change : expired) changes.Add({ns, std::string(change.id)});
  tenant.Count(less);
  compactor.Schedule(index);
  return removed.size();
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
  {
    // What is appended behind this is in the documents and not in a segment: the copy sorts it when it opens.
    const std::lock_guard held(rep_->compactor.files_mutex());
    CLAMOR_RETURN_IF_ERROR(CopySegments(rep_->options.path + kSegmentsFolder, unfinished + kSegmentsFolder));
  }
  CLAMOR_RETURN_IF_ERROR(rep_->db->Checkpoint(unfinished + kDbFolder));
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
    stats.documents += each->count.documents;
    stats.tokens += each->count.tokens;
    stats.charged_bytes += each->count.bytes;
  }
  return stats;
}

absl::Status SuffixStore::CheckIntegrity() const {
  for (const auto& [name, tenant] : rep_->Tenants()) {
    const std::lock_guard writing(tenant->write_mu);
    if (tenant->erased) continue;
    CLAMOR_ASSIGN_OR_RETURN(const TenantCount count, CheckTenant(*rep_->db, name, tenant->Indexes()));
    const std::shared_lock locked(tenant->mu);
    if (count != tenant->count) {
      return absl::DataLossError(absl::StrCat("tenant has ", count.documents, " documents of ", count.tokens,
                                              " tokens and ", count.bytes, " bytes, the totals say ",
                                              tenant->count.documents, " of ", tenant->count.tokens, " and ",
                                              tenant->count.bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
