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

  // To be called now and then by who reads, every lookup for one: looks how much there is, which takes a
  // microsecond, and drops what is over the limit. So each lookup drops about as much as the one before
  // brought in, and none has to drop much.
  void Look();

  // What counts against the limit; 0 where the system does not say.
  static uint64_t ResidentBytes();

 private:
  static constexpr size_t kSlice = 2 << 20;

  MappedFiles() = default;
  void Drop();  // REQUIRES: mu_ is held

  std::atomic<uint64_t> limit_{UINT64_MAX};
  std::mutex mu_;  // guards what follows
  std::vector<std::span<std::byte>> ranges_;
  size_t hand_ = 0, offset_ = 0;  // the slice to drop next
};

}  // namespace clamor::retrieval
