// The memory of one segment: a block on the heap, or a file that is mapped.
//
// A file comes into being whole or not at all: it is written under `path` + ".tmp", synced by Seal and
// renamed. The mapping lives as long as the object, whatever becomes of the name. How much of all mappings is
// in memory at a time is bounded by mapped_files.h.
//
// Threads: none of its own; read-only after Seal.
// Tested by tests/retrieval/segment_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "retrieval/mapped_files.h"

namespace clamor::retrieval {

class SegmentStorage {
 public:
  static SegmentStorage OnHeap(size_t bytes);
  // RESOURCE_EXHAUSTED if the disk has not this much room.
  static absl::StatusOr<SegmentStorage> CreateFile(std::string path, size_t bytes);
  static absl::StatusOr<SegmentStorage> OpenFile(std::string path);

  SegmentStorage(SegmentStorage&& other) noexcept;
  SegmentStorage& operator=(SegmentStorage&&) = delete;
  ~SegmentStorage();  // removes a file that was not sealed

  // Ends writing. Does nothing on the heap.
  absl::Status Seal();

  // From now on it is looked up in: its index all the time, its pieces by Words. Does nothing on the heap.
  void Serve(const MappedFiles::Use& use) const;

  // Takes the pages that lie wholly in `bytes` from `offset` on out of memory, until they are used again.
  // Does nothing on the heap.
  void Forget(size_t offset, size_t bytes) const;

  // Has `bytes` from `offset` on read from the disk: what is kept, into memory, before it returns; the rest
  // into the page cache, while the caller goes on. What is not asked for so is read as lookups want it:
  // whoever reads all of a file asks for it piece by piece, ahead of itself. Does nothing on the heap.
  void ReadAhead(size_t offset, size_t bytes) const;

  // Whether `piece` is read where it is: on the heap, in a small file, or if it is kept (mapped_files.h).
  bool Direct(size_t piece) const { return fd_ < 0 || mapped_->kept[piece].load(std::memory_order_relaxed); }
  // The bytes of `part` of data(), for a look here and there: where they are, if that is direct, else read
  // from the file into `buffer`, which has room for them. What cannot be read is 0.
  const std::byte* Read(size_t piece, std::span<const std::byte> part, std::byte* buffer) const;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }  // empty on the heap

 private:
  SegmentStorage() = default;
  absl::Status Map(int protection);
  // Whether what is at `offset` of a file that is not small is read through the mapping.
  bool Kept(size_t offset) const;

  std::unique_ptr<std::byte[]> heap_;
  std::unique_ptr<MappedFiles::File> mapped_;  // null on the heap
  int fd_ = -1;                                // of a file that is not small (mapped_files.h)
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
  bool unsealed_file_ = false;
};

}  // namespace clamor::retrieval
