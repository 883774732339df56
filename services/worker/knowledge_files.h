// What tenants taught the drafter, kept as FOLDER/TENANT.knowledge, so that a worker starts warm.
//
// A file that is missing, damaged or another tokenizer's means a cold start of its tenant and nothing worse;
// nor does a disk that takes no files. A thread of its own writes, so that the engine never waits for a disk:
// at most kWaiting snapshots wait for it. At most kFiles files are kept; the longest unwritten go. Processes
// may share a folder: files are replaced whole, the last one stays.
//
// Threads: all methods may be called from any thread. Tested by
// tests/services/worker/engine_knowledge_test.cc.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "model/spec/merged_drafter.h"

namespace clamor {

struct KnowledgeFilesOptions {
  std::string folder;                 // made if it is not there
  std::string tokenizer_fingerprint;  // what the ids mean
  int32_t vocab_size = 0;
  absl::Duration interval = absl::Minutes(3);  // of saving a tenant who is being served
};

class KnowledgeFiles {
 public:
  static constexpr size_t kWaiting = 4;  // snapshots, of at most 72 bytes per token of the vocabulary
  static constexpr size_t kFiles = 256;
  using Warn = std::function<void(const absl::Status&)>;  // names the file; called from any thread

  KnowledgeFiles(KnowledgeFilesOptions options, Warn warn);
  // Drops what still waits.
  ~KnowledgeFiles();

  // The newest that was given to Write, now or by another process; null if there is none or it is no good.
  // 40 ms for a vocabulary of 150,000 tokens, all in the table.
  std::unique_ptr<DraftKnowledge> Read(const std::string& tenant) const;

  // Replaces what is there for `tenant`, by and by. Waits until `deadline` for a place to wait in; false if
  // there was none.
  bool Write(const std::string& tenant, std::shared_ptr<const DraftKnowledge> snapshot, absl::Time deadline);

  // Removes what is there for `tenant`, waiting files included. Waits for the one that is being written.
  void Remove(const std::string& tenant);

  bool Idle() const;                // nothing waits
  bool Flush(absl::Time deadline);  // waits for that; false if something is left

  absl::Duration interval() const { return options_.interval; }

 private:
  struct Entry {
    std::string tenant;
    std::shared_ptr<const DraftKnowledge> snapshot;
  };

  std::string PathOf(const std::string& tenant) const;
  std::shared_ptr<const DraftKnowledge> Waiting(const std::string& tenant) const;  // null: nothing
  void Loop();
  absl::Status Save(const Entry& entry) const;
  void RemoveOldest() const;
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stopping_ || !queue_.empty(); }
  bool IsNotWriting() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return !writing_; }
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return queue_.empty(); }
  bool HasPlace() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return queue_.size() < kWaiting; }

  const KnowledgeFilesOptions options_;
  const Warn warn_;

  mutable absl::Mutex mu_;
  std::deque<Entry> queue_ ABSL_GUARDED_BY(mu_);  // an entry leaves when it is written
  bool writing_ ABSL_GUARDED_BY(mu_) = false;     // the first of them is being written
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::thread thread_;
};

}  // namespace clamor
