#include "retrieval/document_db.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/options.h"
#include "rocksdb/slice.h"
#include "rocksdb/table.h"
#include "rocksdb/utilities/checkpoint.h"
#include "rocksdb/write_batch.h"

namespace clamor::retrieval {
namespace {

constexpr char kCatalog[] = "catalog", kDocuments[] = "documents";
constexpr char kFormatKey[] = "format", kFormatVersion[] = "1";

absl::Status ToStatus(const rocksdb::Status& status, const std::string& doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat(doing, ": ", status.ToString());
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsInvalidArgument()) return absl::FailedPreconditionError(message);
  return absl::InternalError(message);
}

rocksdb::Slice ToSlice(std::string_view bytes) { return {bytes.data(), bytes.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

rocksdb::DBOptions MakeDbOptions() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_total_wal_size = 64 << 20;  // bounds the replay after a crash
  options.max_open_files = 512;
  // Manifests name the first and last key of each file, and the log of events may name keys. A tenant that
  // was deleted must not live on in them: every change of the set of files starts a new manifest (it is
  // small), and events stay out.
  options.max_manifest_file_size = 1;
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.keep_log_file_num = 2;
  return options;
}

rocksdb::ColumnFamilyOptions MakeFamilyOptions(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;  // so that memory does not grow with the store
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = 16 << 20;
  options.compression =
      rocksdb::kNoCompression;  // ids are dense; and what a purge removed can be looked for in the files
  options.level_compaction_dynamic_level_bytes = true;
  return options;
}

// RocksDB takes a folder without CURRENT for a new one, and would start empty over what is left of the old.
absl::Status CheckNotBeheaded(const std::string& folder) {
  std::error_code error;
  const std::filesystem::path path(folder);
  if (std::filesystem::exists(path / "CURRENT", error)) return absl::OkStatus();
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string extension = it->path().extension();
    if (extension == ".sst" || extension == ".log") {
      return absl::DataLossError(
          absl::StrCat(folder, ": CURRENT is missing, yet there is ", it->path().filename().string()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentDb>> DocumentDb::Open(const std::string& folder) {
  CLAMOR_RETURN_IF_ERROR(CheckNotBeheaded(folder));
  const rocksdb::DBOptions options = MakeDbOptions();
  // A folder of a later version may have more families; all must be opened to read its version.
  std::vector<std::string> names;
  if (std::error_code error; std::filesystem::exists(std::filesystem::path(folder) / "CURRENT", error)) {
    CLAMOR_RETURN_IF_ERROR(ToStatus(rocksdb::DB::ListColumnFamilies(options, folder, &names), folder));
  }
  for (const char* name : {"default", kCatalog, kDocuments}) {
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  const std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(32 << 20);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : names) families.emplace_back(name, MakeFamilyOptions(cache));

  std::unique_ptr<DocumentDb> db(new DocumentDb);
  rocksdb::DB* opened = nullptr;
  CLAMOR_RETURN_IF_ERROR(
      ToStatus(rocksdb::DB::Open(options, folder, families, &db->handles_, &opened), folder));
  db->db_.reset(opened);
  for (rocksdb::ColumnFamilyHandle* handle : db->handles_) {
    if (handle->GetName() == kCatalog) db->catalog_ = handle;
    if (handle->GetName() == kDocuments) db->documents_ = handle;
  }
  CLAMOR_RETURN_IF_ERROR(db->CheckFormat(folder));
  return db;
}

DocumentDb::~DocumentDb() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : handles_)
    db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  db_->Close().PermitUncheckedError();
}

absl::Status DocumentDb::CheckFormat(const std::string& folder) {
  std::string version;
  const rocksdb::Status found = db_->Get({}, kFormatKey, &version);
  if (found.IsNotFound()) {
    const std::unique_ptr<rocksdb::Iterator> any(db_->NewIterator({}, catalog_));
    any->SeekToFirst();
    if (any->Valid())
      return absl::DataLossError(absl::StrCat(folder, ": holds documents but no format version"));
    CLAMOR_RETURN_IF_ERROR(ToStatus(any->status(), folder));
    rocksdb::WriteOptions synced;
    synced.sync = true;
    return ToStatus(db_->Put(synced, kFormatKey, kFormatVersion), folder);
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, folder));
  if (version == kFormatVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(folder, ": has format version ", version,
                                                    ", this program reads version ", kFormatVersion));
}

absl::StatusOr<std::optional<CatalogEntry>> DocumentDb::Find(std::string_view prefix,
                                                             std::string_view id) const {
  rocksdb::PinnableSlice value;
  const rocksdb::Status found = db_->Get({}, catalog_, CatalogKey(prefix, id), &value);
  if (found.IsNotFound()) return std::nullopt;
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, "reading the catalog"));
  return DecodeEntry(ToView(value));
}

absl::StatusOr<std::vector<uint32_t>> DocumentDb::Read(std::string_view prefix,
                                                       const CatalogEntry& entry) const {
  rocksdb::PinnableSlice value;
  const rocksdb::Status found = db_->Get({}, documents_, DocumentKey(prefix, entry.number), &value);
  if (found.IsNotFound()) {
    return absl::DataLossError(
        absl::StrCat("document number ", entry.number, " is in the catalog but has no body"));
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, "reading a document"));
  return DecodeTokens(ToView(value), entry);
}

absl::Status DocumentDb::Write(std::string_view prefix, std::span<const Change> changes) {
  rocksdb::WriteBatch batch;
  rocksdb::Status status;
  for (const Change& change : changes) {
    const std::string key = CatalogKey(prefix, change.id);
    if (change.before && status.ok()) {
      status = batch.Delete(documents_, DocumentKey(prefix, change.before->number));
    }
    if (!status.ok()) break;
    if (change.tokens.empty()) {
      status = batch.Delete(catalog_, key);
      continue;
    }
    status = batch.Put(documents_, DocumentKey(prefix, change.number), ToSlice(EncodeTokens(change.tokens)));
    if (!status.ok()) break;
    const CatalogEntry entry{change.number, TokenChecksum(change.tokens),
                             static_cast<uint32_t>(change.tokens.size())};
    status = batch.Put(catalog_, key, EncodeEntry(entry));
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(status, "gathering documents"));
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return ToStatus(db_->Write(synced, &batch), "writing documents");
}

absl::Status DocumentDb::ForEach(std::string_view tenant, Visitor visit) const {
  const auto [first, last] = TenantRange(tenant);
  const rocksdb::Slice bound = ToSlice(last);
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  if (!tenant.empty()) options.iterate_upper_bound = &bound;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, catalog_));
  for (tenant.empty() ? it->SeekToFirst() : it->Seek(first); it->Valid(); it->Next()) {
    CLAMOR_ASSIGN_OR_RETURN(const auto key, SplitKey(ToView(it->key())));
    CLAMOR_ASSIGN_OR_RETURN(const CatalogEntry entry, DecodeEntry(ToView(it->value())));
    CLAMOR_RETURN_IF_ERROR(visit(key.first, key.second, entry));
  }
  return ToStatus(it->status(), "reading the catalog");
}

absl::StatusOr<uint64_t> DocumentDb::CountBodies(std::string_view tenant) const {
  const auto [first, last] = TenantRange(tenant);
  const rocksdb::Slice bound = ToSlice(last);
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  if (!tenant.empty()) options.iterate_upper_bound = &bound;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, documents_));
  uint64_t count = 0;
  for (tenant.empty() ? it->SeekToFirst() : it->Seek(first); it->Valid(); it->Next(), ++count) {
    CLAMOR_ASSIGN_OR_RETURN(const auto key, SplitKey(ToView(it->key())));
    CLAMOR_RETURN_IF_ERROR(DecodeDocumentNumber(key.second).status());
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(it->status(), "reading documents"));
  return count;
}

absl::Status DocumentDb::EraseTenant(std::string_view tenant) {
  const auto [first, last] = TenantRange(tenant);
  rocksdb::WriteBatch batch;
  for (rocksdb::ColumnFamilyHandle* family : {catalog_, documents_}) {
    CLAMOR_RETURN_IF_ERROR(ToStatus(batch.DeleteRange(family, first, last), "erasing a tenant"));
  }
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return ToStatus(db_->Write(synced, &batch), "erasing a tenant");
}

absl::Status DocumentDb::PurgeTenant(std::string_view tenant) {
  const std::string kDoing = "purging a tenant";
  const auto [first, last] = TenantRange(tenant);
  const rocksdb::Slice begin = ToSlice(first), end = ToSlice(last);
  const std::lock_guard lock(files_mu_);
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->Flush(rocksdb::FlushOptions(), handles_), kDoing));
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  for (rocksdb::ColumnFamilyHandle* family : {catalog_, documents_}) {
    CLAMOR_RETURN_IF_ERROR(ToStatus(db_->CompactRange(options, family, &begin, &end), kDoing));
  }
  // A new manifest begins with the files as they were before the edit that started it, so the last edit so
  // far may still name the tenant's keys: one more, of a key that is rewritten as it is.
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->Put({}, kFormatKey, kFormatVersion), kDoing));
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->Flush(rocksdb::FlushOptions()), kDoing));
  // Disabling and enabling deletions makes RocksDB look for obsolete files now instead of some time later.
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->DisableFileDeletions(), kDoing));
  return ToStatus(db_->EnableFileDeletions(/*force=*/false), kDoing);
}

absl::Status DocumentDb::Checkpoint(const std::string& folder) const {
  const std::lock_guard lock(files_mu_);
  rocksdb::Checkpoint* raw = nullptr;
  CLAMOR_RETURN_IF_ERROR(ToStatus(rocksdb::Checkpoint::Create(db_.get(), &raw), folder));
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(raw);
  return ToStatus(checkpoint->CreateCheckpoint(folder), folder);
}

uint64_t DocumentDb::TenantBytes(std::string_view tenant) const {
  const auto [first, last] = TenantRange(tenant);
  const rocksdb::Range range(ToSlice(first), ToSlice(last));
  rocksdb::SizeApproximationOptions options;
  options.include_memtables = true;
  uint64_t total = 0;
  for (rocksdb::ColumnFamilyHandle* family : {catalog_, documents_}) {
    uint64_t bytes = 0;
    if (db_->GetApproximateSizes(options, family, &range, 1, &bytes).ok()) total += bytes;
  }
  return total;
}

}  // namespace clamor::retrieval
