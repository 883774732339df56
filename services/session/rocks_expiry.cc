// What a store in a folder forgets: expired sessions and streams, and erased tenants.
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "rocksdb/write_batch.h"
#include "services/log.h"
#include "services/session/rocks_layout.h"
#include "services/session/rocks_session_store.h"

namespace clamor {

using namespace rocks;

absl::Status RocksSessionStore::ForEachExpiry(int64_t until,
                                              const std::function<absl::Status(const Expiry&)>& visit) const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, expiry_));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const absl::string_view key = ToView(it->key()), value = ToView(it->value());
    if (key.size() < 9 || value.size() != 8)
      return absl::DataLossError("--sessions: a stored time of expiry cannot be read");
    const Expiry entry{.time = static_cast<int64_t>(ReadNumber(key)),
                       .kind = key[8],
                       .key = std::string(key.substr(9)),
                       .bytes = ReadNumber(value)};
    if (entry.time > until) return absl::OkStatus();
    CLAMOR_RETURN_IF_ERROR(visit(entry));
  }
  return ToStatus(it->status(), "reading what expires");
}

absl::Status RocksSessionStore::RemoveExpired(const Expiry& expired) {
  absl::MutexLock lock(&LockOf(expired.key));
  rocksdb::WriteBatch batch;
  const std::string index = ExpiryKey(expired.time, expired.kind, expired.key);
  std::string value;
  const rocksdb::Status there = db_->Get({}, expiry_, index, &value);
  if (there.IsNotFound()) return absl::OkStatus();  // put off, or gone, since it was looked at
  CLAMOR_RETURN_IF_ERROR(ToStatus(there, "reading what expires"));
  if (expired.kind == kOfSession) {
    CLAMOR_ASSIGN_OR_RETURN(const std::optional<v1::Session> session, FindStored(expired.key));
    if (session) CLAMOR_RETURN_IF_ERROR(DropSession(batch, expired.key, *session));
  } else {
    CLAMOR_RETURN_IF_ERROR(ToStatus(batch.Delete(streams_, expired.key), "removing a stream"));
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(batch.Delete(expiry_, index), "removing what expired"));
  CLAMOR_RETURN_IF_ERROR(Write(batch, /*sync=*/false));  // after a crash it is expired still
  if (expired.kind == kOfSession) {
    Forget(TenantOfKey(expired.key), 1);
  } else {
    absl::MutexLock counts(&mu_);
    --streams_kept_;
    stream_bytes_ -= expired.bytes;
  }
  return absl::OkStatus();
}

void RocksSessionStore::Sweep() {
  absl::MutexLock lock(&mu_);
  while (!mu_.AwaitWithTimeout(absl::Condition(&stopping_), options_.sweep_every)) {
    mu_.Unlock();
    const absl::Status swept =
        ForEachExpiry(Now() - 1, [this](const Expiry& expired) { return RemoveExpired(expired); });
    if (!swept.ok()) spdlog::error("event=session_sweep error=\"{}\"", std::string(swept.message()));
    mu_.Lock();
  }
}

absl::Status RocksSessionStore::EraseTenant(const std::string& tenant) {
  const std::string first = KeyOf(tenant, ""), last = TenantEnd(tenant);
  uint64_t sessions = 0, streams = 0, bytes = 0;
  for (absl::Mutex& lock : locks_) lock.Lock();  // nothing is added meanwhile
  const absl::Status erased = [&]() -> absl::Status {
    rocksdb::WriteBatch batch;
    CLAMOR_RETURN_IF_ERROR(ForEachExpiry(std::numeric_limits<int64_t>::max(), [&](const Expiry& entry) {
      if (TenantOfKey(entry.key) != tenant) return absl::OkStatus();
      (entry.kind == kOfSession ? sessions : streams) += 1;
      bytes += entry.bytes;
      return ToStatus(batch.Delete(expiry_, ExpiryKey(entry.time, entry.kind, entry.key)), "erasing");
    }));
    for (rocksdb::ColumnFamilyHandle* family : {sessions_, turns_, streams_})
      CLAMOR_RETURN_IF_ERROR(ToStatus(batch.DeleteRange(family, first, last), "erasing a tenant"));
    return Write(batch, /*sync=*/true);
  }();
  for (absl::Mutex& lock : locks_) lock.Unlock();
  CLAMOR_RETURN_IF_ERROR(erased);
  Forget(tenant, sessions);
  {
    absl::MutexLock counts(&mu_);
    streams_kept_ -= streams;
    stream_bytes_ -= bytes;
  }
  return Purge(tenant);
}

// Rewrites every file that could hold bytes of the tenant, and starts a new log and a new manifest.
absl::Status RocksSessionStore::Purge(const std::string& tenant) {
  constexpr absl::string_view kDoing = "purging a tenant";
  const std::string first = KeyOf(tenant, ""), last = TenantEnd(tenant);
  const rocksdb::Slice begin = ToSlice(first), end = ToSlice(last);
  absl::MutexLock lock(&purging_);
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->Flush(rocksdb::FlushOptions(), handles_), kDoing));
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  for (rocksdb::ColumnFamilyHandle* family : {sessions_, turns_, streams_})
    CLAMOR_RETURN_IF_ERROR(ToStatus(db_->CompactRange(options, family, &begin, &end), kDoing));
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->CompactRange(options, expiry_, nullptr, nullptr), kDoing));
  // A new manifest begins with the files as they were before the edit that started it, so the last edit so
  // far may still name the tenant's keys: one more, of a key that is rewritten as it is.
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->Put({}, kFormatKey, kFormatVersion), kDoing));
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->Flush(rocksdb::FlushOptions()), kDoing));
  // Disabling and enabling deletions makes RocksDB look for obsolete files now instead of some time later.
  CLAMOR_RETURN_IF_ERROR(ToStatus(db_->DisableFileDeletions(), kDoing));
  return ToStatus(db_->EnableFileDeletions(/*force=*/false), kDoing);
}

}  // namespace clamor
