#include "services/session/rocks_session_store.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "retrieval/rocks.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "rocksdb/write_batch.h"
#include "services/faults/disk.h"
#include "services/rpc_error.h"
#include "services/session/rocks_layout.h"

namespace clamor {

using namespace rocks;

absl::StatusOr<std::unique_ptr<SessionStore>> RocksSessionStore::Open(const StoreOptions& options) {
  std::unique_ptr<RocksSessionStore> store(new RocksSessionStore(options));
  CLAMOR_RETURN_IF_ERROR(store->OpenFamilies());
  CLAMOR_RETURN_IF_ERROR(store->CheckFormat());
  CLAMOR_RETURN_IF_ERROR(store->CountAll());
  store->sweeper_ = std::thread([s = store.get()] { s->Sweep(); });
  return store;
}

RocksSessionStore::RocksSessionStore(const StoreOptions& options)
    : options_(options), writer_(std::make_unique<retrieval::RocksWriter>()) {}

RocksSessionStore::~RocksSessionStore() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (sweeper_.joinable()) sweeper_.join();
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : handles_)
    db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  db_->Close().PermitUncheckedError();
}

absl::Status RocksSessionStore::OpenFamilies() {
  rocksdb::DBOptions options = retrieval::RocksOptions(/*max_open_files=*/256);
  options.env = faults::Disk();
  const std::string& folder = options_.location;
  // A folder of a later version may have more families; all must be opened to read its version.
  std::vector<std::string> names;
  if (!rocksdb::DB::ListColumnFamilies(options, folder, &names).ok()) names.clear();  // a new folder
  for (const char* name : {"default", "sessions", "turns", "streams", "expiry"}) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  const std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(16 << 20);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : names) families.emplace_back(name, retrieval::RocksFamilyOptions(cache));
  rocksdb::DB* opened = nullptr;
  CLAMOR_RETURN_IF_ERROR(ToStatus(rocksdb::DB::Open(options, folder, families, &handles_, &opened), folder));
  db_.reset(opened);
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    if (handle->GetName() == "sessions") sessions_ = handle;
    if (handle->GetName() == "turns") turns_ = handle;
    if (handle->GetName() == "streams") streams_ = handle;
    if (handle->GetName() == "expiry") expiry_ = handle;
  }
  return absl::OkStatus();
}

absl::Status RocksSessionStore::CheckFormat() {
  std::string version;
  const rocksdb::Status found = db_->Get({}, kFormatKey, &version);
  if (found.IsNotFound()) {
    return ToStatus(db_->Put(Durably(), kFormatKey, kFormatVersion), options_.location);
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, options_.location));
  if (version == kFormatVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("--sessions: ", options_.location, " has format version ",
                                                    version, ", this program reads version ",
                                                    kFormatVersion));
}

absl::Status RocksSessionStore::CountAll() {
  absl::MutexLock lock(&mu_);
  const auto count = [this](const Expiry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (entry.kind == kOfSession) {
      ++counts_[std::string(TenantOfKey(entry.key))];
      ++sessions_kept_;
    } else {
      ++streams_kept_;
      stream_bytes_ += entry.bytes;
    }
    return absl::OkStatus();
  };
  return ForEachExpiry(std::numeric_limits<int64_t>::max(), count);
}

absl::Mutex& RocksSessionStore::LockOf(const std::string& key) {
  return locks_[std::hash<std::string>()(key) % locks_.size()];
}

absl::Status RocksSessionStore::Write(rocksdb::WriteBatch& batch, bool sync) const {
  return ToStatus(writer_->Write(*db_, sync, batch), "writing");
}

// As it is stored, expired or not.
absl::StatusOr<std::optional<v1::Session>> RocksSessionStore::FindStored(const std::string& key) const {
  rocksdb::PinnableSlice value;
  const rocksdb::Status found = db_->Get({}, sessions_, key, &value);
  if (found.IsNotFound()) return std::nullopt;
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, "reading a session"));
  std::optional<v1::Session> session(std::in_place);
  if (!session->ParseFromArray(value.data(), static_cast<int>(value.size())))
    return absl::DataLossError("--sessions: a stored session cannot be read");
  return session;
}

absl::StatusOr<v1::Session> RocksSessionStore::Find(const std::string& tenant, const std::string& name) {
  CLAMOR_ASSIGN_OR_RETURN(std::optional<v1::Session> session, FindStored(KeyOf(tenant, name)));
  if (!session || Milliseconds(session->expire_time()) < Now()) return SessionNotFound(name);
  return *std::move(session);
}

absl::StatusOr<std::vector<v1::Turn>> RocksSessionStore::ReadTurns(const std::string& key, uint64_t first,
                                                                   uint64_t count) const {
  const std::string begin = TurnKey(key, first + 1), end = TurnKey(key, first + count + 1);
  const rocksdb::Slice bound = ToSlice(end);
  rocksdb::ReadOptions options;
  options.iterate_upper_bound = &bound;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, turns_));
  std::vector<v1::Turn> turns;
  for (it->Seek(begin); it->Valid(); it->Next()) {
    if (!turns.emplace_back().ParseFromArray(it->value().data(), static_cast<int>(it->value().size())))
      return absl::DataLossError("--sessions: a stored turn cannot be read");
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(it->status(), "reading turns"));
  return turns;
}

absl::StatusOr<Conversation> RocksSessionStore::Read(const std::string& tenant, const std::string& name,
                                                     uint64_t first, uint64_t count) {
  Conversation read;
  CLAMOR_ASSIGN_OR_RETURN(read.session, Find(tenant, name));
  const uint64_t version = read.session.version();
  count = first < version ? std::min(count, version - first) : 0;
  if (count == 0) return read;
  CLAMOR_ASSIGN_OR_RETURN(read.turns, ReadTurns(KeyOf(tenant, name), first, count));
  if (read.turns.size() == count) return read;
  CLAMOR_ASSIGN_OR_RETURN(const v1::Session now, Find(tenant, name));
  if (now.uid() != read.session.uid()) return SessionNotFound(name);  // deleted in between
  return absl::DataLossError(absl::StrCat("--sessions: session \"", name, "\" has ", read.turns.size(),
                                          " turns from index ", first, " on, must have ", count));
}

absl::Status RocksSessionStore::PutSession(rocksdb::WriteBatch& batch, const std::string& key,
                                           const v1::Session& session) const {
  rocksdb::Status status = batch.Put(sessions_, key, session.SerializeAsString());
  if (status.ok()) {
    const std::string expiry = ExpiryKey(Milliseconds(session.expire_time()), kOfSession, key);
    status = batch.Put(expiry_, expiry, Number(0));
  }
  return ToStatus(status, "gathering a session");
}

absl::Status RocksSessionStore::DropSession(rocksdb::WriteBatch& batch, const std::string& key,
                                            const v1::Session& session) const {
  rocksdb::Status status =
      batch.Delete(expiry_, ExpiryKey(Milliseconds(session.expire_time()), kOfSession, key));
  if (status.ok()) status = batch.Delete(sessions_, key);
  for (uint64_t version = 1; status.ok() && version <= session.version(); ++version) {
    status = batch.Delete(turns_, TurnKey(key, version));
  }
  return ToStatus(status, "removing a session");
}

absl::StatusOr<v1::Session> RocksSessionStore::Create(const std::string& tenant, const v1::Session& session,
                                                      const v1::Turn& opening) {
  const std::string key = KeyOf(tenant, session.name());
  absl::MutexLock lock(&LockOf(key));
  CLAMOR_ASSIGN_OR_RETURN(std::optional<v1::Session> before, FindStored(key));
  const int64_t now = Now();
  rocksdb::WriteBatch batch;
  if (before && Milliseconds(before->expire_time()) >= now) {
    if (before->uid() == session.uid()) return *std::move(before);
    return SessionExists(session.name());
  }
  if (before) CLAMOR_RETURN_IF_ERROR(DropSession(batch, key, *before));

  v1::Session created = session;
  created.clear_version();
  *created.mutable_create_time() = *created.mutable_update_time() = ToTimestamp(now);
  *created.mutable_expire_time() = ToTimestamp(now + Milliseconds(session.ttl()));
  if (opening.messages_size() > 0) {
    v1::Turn turn = opening;
    turn.set_version(1);
    const std::string value = turn.SerializeAsString();
    created.set_version(1);
    created.set_messages(MessagesOf(turn));
    created.set_bytes(value.size());
    CLAMOR_RETURN_IF_ERROR(ToStatus(batch.Put(turns_, TurnKey(key, 1), value), "gathering a turn"));
  }
  CLAMOR_RETURN_IF_ERROR(PutSession(batch, key, created));
  if (!before) CLAMOR_RETURN_IF_ERROR(Reserve(tenant));
  if (absl::Status written = Write(batch, /*sync=*/true); !written.ok()) {
    if (!before) Forget(tenant, 1);
    return written;
  }
  return created;
}

absl::StatusOr<v1::Session> RocksSessionStore::Append(const std::string& tenant, const v1::Session& base,
                                                      v1::Turn turn) {
  const std::string key = KeyOf(tenant, base.name());
  turn.set_version(base.version() + 1);
  absl::MutexLock lock(&LockOf(key));
  CLAMOR_ASSIGN_OR_RETURN(v1::Session session, Find(tenant, base.name()));
  if (session.uid() != base.uid()) return SessionNotFound(base.name());
  if (session.version() != base.version()) {
    CLAMOR_ASSIGN_OR_RETURN(const std::vector<v1::Turn> there, ReadTurns(key, base.version(), 1));
    if (there.empty() || there[0].answer().request_id() != turn.answer().request_id())
      return SessionMoved(base, session.version());
    session.set_version(turn.version());  // this turn, added before
    return session;
  }
  rocksdb::WriteBatch batch;
  const std::string value = turn.SerializeAsString();
  rocksdb::Status status =
      batch.Delete(expiry_, ExpiryKey(Milliseconds(session.expire_time()), kOfSession, key));
  if (status.ok()) status = batch.Put(turns_, TurnKey(key, turn.version()), value);
  CLAMOR_RETURN_IF_ERROR(ToStatus(status, "gathering a turn"));
  const int64_t now = Now();
  session.set_version(turn.version());
  session.set_messages(session.messages() + MessagesOf(turn));
  session.set_bytes(session.bytes() + value.size());
  *session.mutable_update_time() = ToTimestamp(now);
  *session.mutable_expire_time() = ToTimestamp(now + Milliseconds(session.ttl()));
  CLAMOR_RETURN_IF_ERROR(PutSession(batch, key, session));
  CLAMOR_RETURN_IF_ERROR(Write(batch, /*sync=*/true));
  return session;
}

absl::Status RocksSessionStore::Delete(const std::string& tenant, const std::string& name) {
  const std::string key = KeyOf(tenant, name);
  absl::MutexLock lock(&LockOf(key));
  CLAMOR_ASSIGN_OR_RETURN(const v1::Session session, Find(tenant, name));
  rocksdb::WriteBatch batch;
  CLAMOR_RETURN_IF_ERROR(DropSession(batch, key, session));
  CLAMOR_RETURN_IF_ERROR(Write(batch, /*sync=*/true));
  Forget(tenant, 1);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::Session>> RocksSessionStore::List(const std::string& tenant,
                                                                 const std::string& after, uint32_t count) {
  const std::string end = TenantEnd(tenant), last = KeyOf(tenant, after);
  const rocksdb::Slice bound = ToSlice(end);
  rocksdb::ReadOptions options;
  options.iterate_upper_bound = &bound;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, sessions_));
  const int64_t now = Now();
  std::vector<v1::Session> sessions;
  for (it->Seek(last); it->Valid() && sessions.size() < count; it->Next()) {
    if (it->key() == last) continue;
    v1::Session session;
    if (!session.ParseFromArray(it->value().data(), static_cast<int>(it->value().size())))
      return absl::DataLossError("--sessions: a stored session cannot be read");
    if (Milliseconds(session.expire_time()) >= now) sessions.push_back(std::move(session));
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(it->status(), "listing sessions"));
  return sessions;
}

absl::Status RocksSessionStore::PutStream(const v1::StoredStream& stream, absl::Duration ttl) {
  const std::string key = KeyOf(stream.request().tenant(), stream.request().request_id());
  const int64_t expires = Now() + absl::ToInt64Milliseconds(ttl);
  const std::string value = absl::StrCat(Number(static_cast<uint64_t>(expires)), stream.SerializeAsString());
  absl::MutexLock lock(&LockOf(key));  // EraseTenant sees all of it or nothing
  {
    absl::MutexLock counts(&mu_);
    if (streams_kept_ >= options_.max_streams || stream_bytes_ + value.size() > options_.max_stream_bytes) {
      return Refusal("STORE_FULL",
                     absl::StrCat(streams_kept_, " streams of ", stream_bytes_, " bytes are kept, limits ",
                                  options_.max_streams, " and ", options_.max_stream_bytes));
    }
    ++streams_kept_;
    stream_bytes_ += value.size();
  }
  rocksdb::WriteBatch batch;
  rocksdb::Status status = batch.Put(streams_, key, value);
  if (status.ok()) status = batch.Put(expiry_, ExpiryKey(expires, kOfStream, key), Number(value.size()));
  absl::Status written = ToStatus(status, "gathering a stream");
  if (written.ok()) written = Write(batch, /*sync=*/false);
  if (!written.ok()) {
    absl::MutexLock counts(&mu_);
    --streams_kept_;
    stream_bytes_ -= value.size();
  }
  return written;
}

absl::StatusOr<v1::StoredStream> RocksSessionStore::FindStream(const std::string& tenant,
                                                               const std::string& id) {
  rocksdb::PinnableSlice value;
  const rocksdb::Status found = db_->Get({}, streams_, KeyOf(tenant, id), &value);
  if (found.IsNotFound()) return StreamNotFound(id);
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, "reading a stream"));
  v1::StoredStream stream;
  if (value.size() < 8 || !stream.ParseFromArray(value.data() + 8, static_cast<int>(value.size() - 8)))
    return absl::DataLossError("--sessions: a stored stream cannot be read");
  if (static_cast<int64_t>(ReadNumber(ToView(value))) < Now()) return StreamNotFound(id);
  return stream;
}

absl::StatusOr<uint64_t> RocksSessionStore::CountSessions() {
  absl::MutexLock lock(&mu_);
  return sessions_kept_;
}

// One more session of `tenant`, if it may have one.
absl::Status RocksSessionStore::Reserve(const std::string& tenant) {
  absl::MutexLock lock(&mu_);
  uint64_t& count = counts_[tenant];
  if (count >= options_.max_sessions) return TooManySessions(count, options_.max_sessions);
  ++count;
  ++sessions_kept_;
  return absl::OkStatus();
}

void RocksSessionStore::Forget(absl::string_view tenant, uint64_t sessions) {
  absl::MutexLock lock(&mu_);
  const auto it = counts_.find(tenant);
  if (it == counts_.end()) return;
  it->second -= sessions;
  sessions_kept_ -= sessions;
  if (it->second == 0) counts_.erase(it);
}

}  // namespace clamor
