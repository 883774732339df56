// The files that this process has mapped for its segments, and how much of them may be in its memory at a
// time.
//
// Mapped pages that were read count as memory of the process, and nothing takes them away before the machine
// is short of it; lookups all over a large store would bring in all of it. So lookups read through the
// mapping only pieces of files that are kept, as many as fit the limit together, of the newest files first.
// Of the others they copy what they need from the page cache, which costs half a microsecond; to bring in a
// page, the fifteen around it and to drop them all again costs eight. Whoever builds, merges or checks reads
// through mappings all the same; past the limit, ranges are dropped in turn, like the hand of a clock.
//
// There is one of it, as there is one such number for the process. Threads: all methods may be called from
// any thread. Tested by tests/retrieval/mapped_files_test.cc.
#pragma once

#include <array>
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

  // A whole mapping of a file, shared, so that dropping its pages loses nothing.
  static constexpr size_t kPieces = 2;
  // What a file is when it is no longer written, but looked up in.
  struct Use {
    uint64_t newest = 0;       // document in it: newer files are kept rather
    uint64_t index_bytes = 0;  // from its beginning: read through the mapping in any case
    // Of what follows. The first pieces of all files are kept rather than the second of any.
    std::array<uint64_t, kPieces> piece_bytes = {};
  };
  struct File {
    std::span<std::byte> range;
    std::array<std::atomic<bool>, kPieces> kept = {};
    Use use = {};  // owned by MappedFiles
  };
  // `file` must be removed before it is unmapped.
  void Add(File* file);
  void Remove(File* file);
  void Serve(File* file, const Use& use);

  // Files smaller than this are always read through their mappings, and not chosen among: there may be
  // thousands of them, and those that are copied from keep a descriptor open.
  uint64_t small_bytes() const { return limit_ / 64; }

  // Bytes of mapped files in memory, libraries included; indexes and what is kept have 15/16 of it.
  // None at first.
  void SetLimit(uint64_t bytes);

  // To be called now and then by who reads, every lookup for one: looks how much there is, which takes a
  // microsecond, and drops what is over the limit. So each lookup drops about as much as the one before
  // brought in, and none has to drop much.
  void Look();

  // What counts against the limit; 0 where the system does not say.
  static uint64_t ResidentBytes();

 private:
  static constexpr size_t kSlice = 2 << 20;

  MappedFiles() = default;
  void Drop();    // these two REQUIRE mu_
  void Choose();  // what is kept

  std::atomic<uint64_t> limit_{UINT64_MAX};
  std::mutex mu_;  // guards what follows
  std::vector<File*> files_;
  size_t hand_ = 0, offset_ = 0;  // the slice to drop next
};

}  // namespace clamor::retrieval
