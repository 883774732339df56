#include "retrieval/document_db.h"

#include <algorithm>
#include <deque>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"
#include "retrieval/document_db_rep.h"
#include "retrieval/rocks.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "rocksdb/slice.h"
#include "rocksdb/sst_file_writer.h"
#include "rocksdb/utilities/checkpoint.h"
#include "rocksdb/write_batch.h"

namespace clamor::retrieval {
namespace {

rocksdb::Slice ToSlice(std::string_view bytes) { return {bytes.data(), bytes.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

}  // namespace

absl::Status DocumentDb::PutFormat(const std::string& version, const char* doing) {
  rocksdb::WriteBatch batch;
  CLAMOR_RETURN_IF_ERROR(ToStatus(batch.Put(kFormatKey, version), doing));
  CLAMOR_RETURN_IF_ERROR(Write(batch, doing));
  format_ = version;
  return absl::OkStatus();
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

// A key of a family that is put or deleted.
struct DocumentDb::Row {
  std::string key;
  std::optional<std::string_view> value;  // nothing: deleted
};

struct DocumentDb::Rows {
  std::array<std::vector<Row>, 3> by_family;  // as families()
  std::deque<std::string> entries;            // that catalog rows refer to

  std::vector<Row>& catalog() { return by_family[0]; }
  std::vector<Row>& documents() { return by_family[1]; }
  std::vector<Row>& expiries() { return by_family[2]; }
};

absl::StatusOr<DocumentDb::Rows> DocumentDb::MakeRows(std::string_view prefix,
                                                      std::span<const Change> changes) {
  if (std::ranges::any_of(changes, [](const Change& change) { return change.expires != 0; })) {
    const std::lock_guard lock(format_mu_);
    if (format_ == kFirstFormat) CLAMOR_RETURN_IF_ERROR(PutFormat(kExpiringFormat, "changing the format"));
  }
  Rows rows;
  for (const Change& change : changes) {
    const std::optional<CatalogEntry>& before = change.before;
    const bool same_body = before && !change.tokens.empty() && before->number == change.number;
    if (before && !same_body) rows.documents().push_back({DocumentKey(prefix, before->number), std::nullopt});
    if (!change.tokens.empty() && !same_body)
      rows.documents().push_back({DocumentKey(prefix, change.number), EncodeTokens(change.tokens)});

    Row& entry = rows.catalog().emplace_back(Row{CatalogKey(prefix, change.id), std::nullopt});
    if (!change.tokens.empty()) {
      const uint64_t checksum = same_body ? before->checksum : TokenChecksum(change.tokens);
      entry.value =
          rows.entries.emplace_back(EncodeEntry({.number = change.number,
                                                 .checksum = checksum,
                                                 .tokens = static_cast<uint32_t>(change.tokens.size()),
                                                 .expires = change.expires}));
    }
    const uint64_t expired_before = before ? before->expires : 0;
    const uint64_t expires = change.tokens.empty() ? 0 : change.expires;
    if (expired_before == expires) continue;
    if (expired_before != 0)
      rows.expiries().push_back({ExpiryKey(prefix, expired_before, change.id), std::nullopt});
    if (expires != 0) rows.expiries().push_back({ExpiryKey(prefix, expires, change.id), ""});
  }
  return rows;
}

absl::Status DocumentDb::Write(std::string_view prefix, std::span<const Change> changes) {
  CLAMOR_ASSIGN_OR_RETURN(const Rows rows, MakeRows(prefix, changes));
  rocksdb::WriteBatch batch;
  for (size_t family = 0; family < rows.by_family.size(); ++family) {
    rocksdb::ColumnFamilyHandle* const handle = families()[family];
    for (const Row& row : rows.by_family[family]) {
      CLAMOR_RETURN_IF_ERROR(ToStatus(
          row.value ? batch.Put(handle, row.key, ToSlice(*row.value)) : batch.Delete(handle, row.key),
          "gathering documents"));
    }
  }
  return Write(batch, "writing documents");
}

absl::Status DocumentDb::Write(rocksdb::WriteBatch& batch, const std::string& doing) {
  return ToStatus(writer_->Write(*db_, /*sync=*/true, batch), doing);
}

absl::Status DocumentDb::Ingest(std::string_view prefix, std::span<const Change> changes,
                                const std::string& scratch) {
  CLAMOR_ASSIGN_OR_RETURN(Rows rows, MakeRows(prefix, changes));
  std::error_code error;
  std::filesystem::create_directories(scratch, error);
  if (error) return absl::InternalError(absl::StrCat(scratch, ": cannot be made: ", error.message()));
  const auto cleaner = absl::MakeCleanup([&] { std::filesystem::remove_all(scratch, error); });

  std::vector<rocksdb::IngestExternalFileArg> files;
  for (size_t family = 0; family < rows.by_family.size(); ++family) {
    std::vector<Row>& sorted = rows.by_family[family];
    if (sorted.empty()) continue;
    std::ranges::sort(sorted, {}, &Row::key);
    const std::string path = absl::StrCat(scratch, "/", family, ".sst");
    rocksdb::ColumnFamilyHandle* const handle = families()[family];
    rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), db_->GetOptions(handle), handle);
    CLAMOR_RETURN_IF_ERROR(ToStatus(writer.Open(path), path));
    for (const Row& row : sorted) {
      CLAMOR_RETURN_IF_ERROR(
          ToStatus(row.value ? writer.Put(row.key, ToSlice(*row.value)) : writer.Delete(row.key), path));
    }
    CLAMOR_RETURN_IF_ERROR(ToStatus(writer.Finish(), path));
    rocksdb::IngestExternalFileArg& file = files.emplace_back();
    file.column_family = handle;
    file.external_files = {path};
    file.options.move_files = true;
    file.options.write_global_seqno = false;
  }
  if (files.empty()) return absl::OkStatus();
  CLAMOR_RETURN_IF_ERROR(ToStatus(writer_->Resume(*db_), "taking in documents"));  // as Write does
  return ToStatus(db_->IngestExternalFiles(files), "taking in documents");
}

absl::StatusOr<std::vector<DocumentDb::Due>> DocumentDb::FindExpired(uint64_t now, size_t limit) const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, expiries_));
  std::vector<Due> due;
  for (it->SeekToFirst(); it->Valid() && due.size() < limit;) {
    CLAMOR_ASSIGN_OR_RETURN(auto key, SplitKey(ToView(it->key())));
    CLAMOR_ASSIGN_OR_RETURN(const auto expiry, DecodeExpiry(key.second));
    if (expiry.first <= now) {
      due.push_back({std::move(key.first), std::string(expiry.second)});
      it->Next();
    } else {  // the rest of this namespace expires later still
      std::string next = NamespacePrefix(key.first);
      next.back() = '\1';
      it->Seek(next);
    }
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(it->status(), "reading expiries"));
  return due;
}

absl::StatusOr<std::vector<DocumentDb::Listed>> DocumentDb::List(std::string_view after, size_t limit) const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, catalog_));
  it->Seek(ToSlice(after));
  if (it->Valid() && ToView(it->key()) == after) it->Next();
  std::vector<Listed> listed;
  for (; it->Valid() && listed.size() < limit; it->Next()) {
    CLAMOR_ASSIGN_OR_RETURN(auto key, SplitKey(ToView(it->key())));
    CLAMOR_ASSIGN_OR_RETURN(const CatalogEntry entry, DecodeEntry(ToView(it->value())));
    listed.push_back({std::move(key.first), std::string(key.second), entry});
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(it->status(), "reading the catalog"));
  return listed;
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

absl::StatusOr<uint64_t> DocumentDb::CountKeys(
    rocksdb::ColumnFamilyHandle* family, std::string_view tenant,
    absl::FunctionRef<absl::Status(std::string_view rest)> check) const {
  const auto [first, last] = TenantRange(tenant);
  const rocksdb::Slice bound = ToSlice(last);
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  if (!tenant.empty()) options.iterate_upper_bound = &bound;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, family));
  uint64_t count = 0;
  for (tenant.empty() ? it->SeekToFirst() : it->Seek(first); it->Valid(); it->Next(), ++count) {
    CLAMOR_ASSIGN_OR_RETURN(const auto key, SplitKey(ToView(it->key())));
    CLAMOR_RETURN_IF_ERROR(check(key.second));
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(it->status(), "counting documents"));
  return count;
}

absl::StatusOr<uint64_t> DocumentDb::CountBodies(std::string_view tenant) const {
  return CountKeys(documents_, tenant,
                   [](std::string_view rest) { return DecodeDocumentNumber(rest).status(); });
}

absl::StatusOr<uint64_t> DocumentDb::CountExpiries(std::string_view tenant) const {
  return CountKeys(expiries_, tenant, [](std::string_view rest) { return DecodeExpiry(rest).status(); });
}

absl::StatusOr<bool> DocumentDb::HasExpiry(std::string_view prefix, uint64_t expires,
                                           std::string_view id) const {
  rocksdb::PinnableSlice value;
  const rocksdb::Status found = db_->Get({}, expiries_, ExpiryKey(prefix, expires, id), &value);
  if (found.IsNotFound()) return false;
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, "reading expiries"));
  return true;
}

absl::Status DocumentDb::EraseTenant(std::string_view tenant) {
  const auto [first, last] = TenantRange(tenant);
  rocksdb::WriteBatch batch;
  for (rocksdb::ColumnFamilyHandle* family : families()) {
    CLAMOR_RETURN_IF_ERROR(ToStatus(batch.DeleteRange(family, first, last), "erasing a tenant"));
  }
  return Write(batch, "erasing a tenant");
}

absl::Status DocumentDb::PurgeTenant(std::string_view tenant) {
  const std::string kDoing = "purging a tenant";
  const auto [first, last] = TenantRange(tenant);
  const rocksdb::Slice begin = ToSlice(first), end = ToSlice(last);
  const std::lock_guard lock(files_mu_);
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->Flush(rocksdb::FlushOptions(), handles_), kDoing));
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  for (rocksdb::ColumnFamilyHandle* family : families()) {
    CLAMOR_RETURN_IF_ERROR(ToStatus(db_->CompactRange(options, family, &begin, &end), kDoing));
  }
  // A new manifest begins with the files as they were before the edit that started it, so the last edit so
  // far may still name the tenant's keys: one more, of a key that is rewritten as it is.
  {
    const std::lock_guard format_lock(format_mu_);
    CLAMOR_RETURN_IF_ERROR(PutFormat(format_, kDoing.c_str()));
  }
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
  for (rocksdb::ColumnFamilyHandle* family : families()) {
    uint64_t bytes = 0;
    if (db_->GetApproximateSizes(options, family, &range, 1, &bytes).ok()) total += bytes;
  }
  return total;
}

}  // namespace clamor::retrieval
