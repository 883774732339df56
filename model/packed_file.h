// A file of packed matrices, so that a later start need neither quantise nor pack: the bytes of the panels
// (kernels/matmul.h) one matrix after the other, behind a header of 4096 bytes that says what they were made
// of and has their checksum. The same on every CPU target; little-endian.
//
// A file is believed after its magic, version, checksum, origin, format and size were checked, in that order,
// and before anything is allocated; the checksum of the panels is checked last. Errors name the file, both
// values and what to do: FAILED_PRECONDITION for a good file of another version, model or format; DATA_LOSS
// for one that is damaged or cut short; INVALID_ARGUMENT for one of another kind.
//
// Tested by tests/model/checkpoint/packed_file_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/matmul.h"
#include "kernels/thread_pool.h"
#include "model/atomic_file.h"
#include "model/safetensors.h"

namespace clamor {

// What must be equal for a file to serve.
struct PackedOrigin {
  std::string model;        // directory, for messages
  std::string fingerprint;  // of the tensors that were packed, 16 characters
  std::string format;       // how they are held, at most 16 characters: "int4"
  uint64_t bytes = 0;       // of all matrices
};

// A hash of the tensors' names, types, shapes and values: of small tensors all, of large ones pieces spread
// from the first byte to the last, so that a large model is not read for it. Files, paths and times do not
// matter. Releases the pages that it read.
std::string FingerprintOf(const Safetensors& files, std::span<const Tensor> tensors);

// The matrices of a file, in the order in which they were written. One thread at a time.
//
// They are read into memory of their own: mapping the file costs a fifth of that time, once, but its small
// pages then slow down every product by 6 % (a token reads each weight, and misses the TLB for each page).
class PackedFileReader {
 public:
  // NOT_FOUND: no such file.
  static absl::StatusOr<PackedFileReader> Open(const std::string& path, const PackedOrigin& origin);
  PackedFileReader(PackedFileReader&& other) noexcept;
  ~PackedFileReader();

  // Fills `matrix` with the next one. REQUIRES: all matrices together have origin.bytes.
  absl::Status Read(kernels::PackedMatrix& matrix, kernels::ThreadPool& pool);

  // After the last: whether what was read is what was written.
  absl::Status Finish() const;

 private:
  PackedFileReader(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;                 // -1: moved from
  uint64_t expected_ = 0;  // the sum of the checksums of all pieces
  uint64_t position_ = 0, checksum_ = 0;
};

// Size of the file that WritePackedFile writes.
uint64_t PackedFileBytes(const PackedOrigin& origin);

// Writes and commits. REQUIRES: `file` has room for PackedFileBytes; the matrices have origin.bytes.
absl::Status WritePackedFile(AtomicFile file, const PackedOrigin& origin,
                             std::span<const kernels::PackedMatrix* const> matrices,
                             kernels::ThreadPool& pool);

}  // namespace clamor
