// The files that this process has mapped for its segments, and how much of them may be in its memory at a
// time.
//
// Mapped pages that were read count as memory of the process, and nothing takes them away before the machine
// is short of it; lookups all over a large store would bring in all of it. Past the limit the ranges are
// dropped in turn, like the hand of a clock: a page that is wanted again comes back from the page cache in a
// microsecond.
//
// There is one of it, as there is one such number for the process. Threads: all methods may be called from
// any thread. Tested by tests/retrieval/mapped_files_test.cc.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

namespace clamor::retrieval {

class MappedFiles {
 public:
  static MappedFiles& OfProcess();

  // A range is a whole mapping of a file, shared, so that dropping its pages loses nothing. Remove before it
  // is unmapped.
  void Add(std::span<std::byte> range);
  void Remove(std::span<std::byte> range);

  // Bytes of mapped files in memory, libraries included. None at first.
  void SetLimit(uint64_t bytes) { limit_ = bytes; }

  // To be called now and then by who reads: every few calls it looks how much there is and, past the limit,
  // drops some. Drops no more than kMaxDrop at a time, so that it takes no more than about a millisecond.
  void Look();

  // What counts against the limit; 0 where the system does not say.
  static uint64_t ResidentBytes();

 private:
  static constexpr uint32_t kLookEvery = 8;
  static constexpr size_t kSlice = 4 << 20, kMaxDrop = 128 << 20;

  MappedFiles() = default;
  void Drop();  // REQUIRES: mu_ is held

  std::atomic<uint64_t> limit_{UINT64_MAX};
  std::atomic<uint32_t> looks_{0};
  std::mutex mu_;  // guards what follows
  std::vector<std::span<std::byte>> ranges_;
  size_t hand_ = 0, offset_ = 0;  // the slice to drop next
};

}  // namespace clamor::retrieval
