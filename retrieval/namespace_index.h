// What can be drafted from one namespace: a set of segments that together index each of its documents once.
//
// Every append adds a small segment; a background thread merges them (compactor.h). Readers take a snapshot
// and never wait for either. What a draft answers does not depend on how the documents are spread over
// segments.
//
// Threads: all methods may be called from any thread, but Publish by one at a time.
// Tested by tests/retrieval/compactor_test.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "retrieval/draft.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {

class NamespaceIndex {
 public:
  // `hot_tokens` counts the tokens held on the heap over all indexes; it must outlive this one.
  NamespaceIndex(std::string prefix, std::atomic<int64_t>& hot_tokens);
  ~NamespaceIndex();

  const std::string& prefix() const { return prefix_; }
  std::shared_ptr<const Parts> snapshot() const;

  // In one step for all readers: adds `part` (its segment may be null: nothing) and drops the documents of
  // these numbers from the others.
  void Publish(Part part, std::span<const uint64_t> removed);

  // Puts `merged` (null: nothing was live) in the place of `inputs`, parts of an earlier snapshot; documents
  // dropped since then stay dropped. False, and nothing happens, if the index was closed.
  bool Replace(std::span<const Part> inputs, std::shared_ptr<const Segment> merged);

  // Empties the index for good and removes its files (an error says which one stayed). Waits for a merge
  // under way.
  absl::Status Close();
  bool closed() const;

  // Held shared while parts of this index are merged, so that no file appears behind Close. No part may be in
  // two merges at a time.
  std::shared_mutex& merge_mutex() { return merge_mu_; }

  // Every part is sound and each document is live in at most one of them.
  absl::Status CheckIntegrity() const;

 private:
  void Set(Parts parts);  // REQUIRES: mu_ is held

  const std::string prefix_;
  std::atomic<int64_t>& hot_tokens_;
  std::shared_mutex merge_mu_;    // taken before mu_
  mutable std::shared_mutex mu_;  // held briefly; guards what follows
  std::shared_ptr<const Parts> parts_;
  bool closed_ = false;
};

}  // namespace clamor::retrieval
