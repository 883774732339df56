// How RocksDB is opened and written to by whatever keeps something for good: this store, and
// services/session.
//
// What was erased must not live on in its files, and what was acknowledged is there after a crash. Header
// only: who includes it links RocksDB. Tested by tests/integration/faults_test.py (full disks) and, through
// both stores, by all their tests.
#pragma once

#include <memory>
#include <mutex>

#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"
#include "rocksdb/write_batch.h"

namespace clamor::retrieval {

// RocksDB would look for room on a full disk every few seconds, refuse all changes until then, and stop the
// process if the room is gone again at that moment: RocksWriter asks it to go on when there is something to
// write.
class RecoverWhenTold final : public rocksdb::EventListener {
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status, bool* by_itself) override {
    *by_itself = false;
  }
};

inline rocksdb::DBOptions RocksOptions(int max_open_files) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_total_wal_size = 64 << 20;  // bounds the replay after a crash
  options.max_open_files = max_open_files;
  // Manifests name the first and last key of each file, and the log of events may name keys. A tenant that
  // was deleted must not live on in them: every change of the set of files starts a new manifest (it is
  // small), and events stay out.
  options.max_manifest_file_size = 1;
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.keep_log_file_num = 2;
  options.listeners.push_back(std::make_shared<RecoverWhenTold>());
  return options;
}

inline rocksdb::ColumnFamilyOptions RocksFamilyOptions(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;  // so that memory does not grow with the store
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = 16 << 20;
  options.compression = rocksdb::kNoCompression;  // what was erased can be looked for in the files
  options.level_compaction_dynamic_level_bytes = true;
  return options;
}

// Writes to a database of RocksOptions. Threads: any.
class RocksWriter {
 public:
  // After an error of the disk the database refuses all changes until it is told to go on, which fails while
  // the disk is as full as it was. Making the same change twice is making it once.
  rocksdb::Status Write(rocksdb::DB& db, bool sync, rocksdb::WriteBatch& batch) {
    rocksdb::WriteOptions options;
    options.sync = sync;
    const rocksdb::Status written = db.Write(options, &batch);
    if (!written.IsIOError() || !Resume(db).ok()) return written;
    return db.Write(options, &batch);
  }

  // One at a time: who comes second would be told that somebody is at it.
  rocksdb::Status Resume(rocksdb::DB& db) {
    const std::lock_guard lock(mu_);
    return db.Resume();
  }

 private:
  std::mutex mu_;
};

}  // namespace clamor::retrieval
