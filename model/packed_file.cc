#include "model/packed_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/sha256.h"

namespace clamor {
namespace {

using kernels::PackedMatrix;

static_assert(std::endian::native == std::endian::little, "the file is little-endian");

// To be raised with every change of the panels, of which fields Weights packs, of how it holds or orders
// them, or of anything below.
constexpr uint64_t kVersion = 1;
constexpr std::string_view kMagic = "clamor packed\n";
constexpr char kRemedy[] = "; delete it, and the next start writes it anew, or name another file";

// The panels begin at a page.
struct Header {
  char magic[16];  // texts end with zeros, unless they fill their field
  uint64_t version;
  char fingerprint[16];
  char format[16];
  uint64_t bytes;     // of the panels
  uint64_t checksum;  // of the panels
  char unused[4016];
  uint64_t header_checksum;  // of all above
};
static_assert(sizeof(Header) == 4096 && std::has_unique_object_representations_v<Header>);

// Against damage, not against malice. Each step is one to one in the word and in the lane, so that a single
// wrong word always shows; eight lanes hide the latency of the multiplication.
uint64_t Checksum(std::string_view bytes, uint64_t seed) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
  const auto step = [](uint64_t state, uint64_t word) { return std::rotl((state ^ word) * kOdd, 32); };
  uint64_t lanes[8], block[8];
  for (uint64_t& lane : lanes) lane = seed = step(seed, bytes.size());
  for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), sizeof(block)))) {
    if (bytes.size() < sizeof(block)) std::memset(block, 0, sizeof(block));
    std::memcpy(block, bytes.data(), std::min(bytes.size(), sizeof(block)));
    for (int i = 0; i < 8; ++i) lanes[i] = step(lanes[i], block[i]);
  }
  uint64_t sum = seed;
  for (const uint64_t lane : lanes) sum = step(sum, lane);
  return sum;
}

uint64_t HeaderChecksum(const Header& header) {
  return Checksum({reinterpret_cast<const char*>(&header), offsetof(Header, header_checksum)}, 0);
}

// Calls `prepare` for pieces of a matrix that together are all of it, and returns the sum of their checksums.
// The matrix begins at byte `position` of the panels: a piece in the wrong place has another checksum.
uint64_t SumPieces(const char* panels, size_t bytes, uint64_t position, kernels::ThreadPool& pool,
                   absl::FunctionRef<void(size_t begin, size_t size)> prepare) {
  constexpr size_t kPiece = size_t{256} << 10;  // is still in the cache when its checksum is computed
  std::atomic<uint64_t> sum = 0;
  pool.ParallelFor((bytes + kPiece - 1) / kPiece, 1, [&](size_t first, size_t last) {
    for (size_t begin = first * kPiece; begin < std::min(bytes, last * kPiece); begin += kPiece) {
      const size_t size = std::min(kPiece, bytes - begin);
      prepare(begin, size);
      sum += Checksum({panels + begin, size}, position + begin);
    }
  });
  return sum;
}

// Reads `size` bytes at `offset`. Returns 0, errno, or ENODATA if the file ends before.
int ReadAt(int fd, uint64_t offset, char* to, size_t size) {
  while (size > 0) {
    const ssize_t count = pread(fd, to, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? errno : ENODATA;
    to += count;
    offset += static_cast<uint64_t>(count);
    size -= static_cast<size_t>(count);
  }
  return 0;
}

template <size_t n>
std::string Text(const char (&field)[n]) {
  return {field, std::find(field, field + n, '\0')};
}

template <size_t n>
void SetText(char (&field)[n], std::string_view text) {
  std::memcpy(field, text.data(), std::min(n, text.size()));
}

absl::Status CheckHeader(const std::string& path, uint64_t file_bytes, const Header& header,
                         const PackedOrigin& origin) {
  if (Text(header.magic) != kMagic) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a file of packed weights; name another"));
  }
  if (header.version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": has version ", header.version,
                                                      ", this program reads version ", kVersion, kRemedy));
  }
  if (const uint64_t checksum = HeaderChecksum(header); checksum != header.header_checksum) {
    return absl::DataLossError(
        absl::StrFormat("%s: the header is damaged: its checksum is %016x, its bytes have %016x%s", path,
                        header.header_checksum, checksum, kRemedy));
  }
  if (const std::string fingerprint = Text(header.fingerprint); fingerprint != origin.fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": was made of weights ", Quote(fingerprint),
                                                      ", ", origin.model, " has ", Quote(origin.fingerprint),
                                                      kRemedy));
  }
  if (const std::string format = Text(header.format); format != origin.format) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": holds the weights as ", Quote(format),
                                                      ", wanted is ", Quote(origin.format), kRemedy));
  }
  if (header.bytes != origin.bytes || file_bytes != PackedFileBytes(origin)) {
    return absl::DataLossError(absl::StrCat(path, ": has ", file_bytes, " bytes, ", header.bytes,
                                            " of weights by its header, must be ", PackedFileBytes(origin),
                                            " and ", origin.bytes, kRemedy));
  }
  return absl::OkStatus();
}

}  // namespace

std::string FingerprintOf(const Safetensors& files, std::span<const Tensor> tensors) {
  constexpr size_t kPieces = 8, kBytes = 4096;
  Sha256 hash;
  for (const Tensor& tensor : tensors) {
    hash.Add(absl::StrCat(tensor.name, " ", static_cast<int>(tensor.dtype), " [",
                          absl::StrJoin(tensor.shape, ","), "]\n"));
    const std::string_view bytes(static_cast<const char*>(tensor.data), tensor.bytes);
    if (bytes.size() <= kPieces * kBytes) {
      hash.Add(bytes);
    } else {
      for (size_t i = 0; i < kPieces; ++i) {
        hash.Add(bytes.substr((bytes.size() - kBytes) * i / (kPieces - 1), kBytes));
      }
    }
    files.Release(tensor);
  }
  return hash.Hex().substr(0, sizeof(Header::fingerprint));
}

PackedFileReader::PackedFileReader(PackedFileReader&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      expected_(other.expected_),
      position_(other.position_),
      checksum_(other.checksum_) {}

PackedFileReader::~PackedFileReader() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<PackedFileReader> PackedFileReader::Open(const std::string& path, const PackedOrigin& origin) {
  // O_NONBLOCK: opening a pipe must fail the test for a regular file, not wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  PackedFileReader reader(path, fd);
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  const uint64_t bytes = static_cast<uint64_t>(info.st_size);
  if (bytes < sizeof(Header)) {
    return absl::DataLossError(
        absl::StrCat(path, ": has ", bytes, " bytes, the header alone takes ", sizeof(Header), kRemedy));
  }
  Header header;
  if (const int error = ReadAt(fd, 0, reinterpret_cast<char*>(&header), sizeof(header)); error != 0) {
    return absl::ErrnoToStatus(error, path);
  }
  CLAMOR_RETURN_IF_ERROR(CheckHeader(path, bytes, header, origin));
  reader.expected_ = header.checksum;
  return reader;
}

absl::Status PackedFileReader::Read(PackedMatrix& matrix, kernels::ThreadPool& pool) {
  std::atomic<int> error = 0;
  checksum_ += SumPieces(matrix.panels(), matrix.bytes(), position_, pool, [&](size_t begin, size_t size) {
    const int failed = ReadAt(fd_, sizeof(Header) + position_ + begin, matrix.panels() + begin, size);
    if (failed != 0) error = failed;
  });
  position_ += matrix.bytes();
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat(path_, ": cannot read"));
  return absl::OkStatus();
}

absl::Status PackedFileReader::Finish() const {
  if (checksum_ == expected_) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("%s: is damaged: its weights have checksum %016x, the header says %016x%s", path_,
                      checksum_, expected_, kRemedy));
}

uint64_t PackedFileBytes(const PackedOrigin& origin) { return sizeof(Header) + origin.bytes; }

absl::Status WritePackedFile(AtomicFile file, const PackedOrigin& origin,
                             std::span<const PackedMatrix* const> matrices, kernels::ThreadPool& pool) {
  Header header{.version = kVersion, .bytes = origin.bytes};
  SetText(header.magic, kMagic);
  SetText(header.fingerprint, origin.fingerprint);
  SetText(header.format, origin.format);
  uint64_t position = 0;
  for (const PackedMatrix* matrix : matrices) {
    header.checksum += SumPieces(static_cast<const char*>(matrix->data()), matrix->bytes(), position, pool,
                                 [](size_t, size_t) {});
    position += matrix->bytes();
  }
  header.header_checksum = HeaderChecksum(header);
  CLAMOR_RETURN_IF_ERROR(file.Append({reinterpret_cast<const char*>(&header), sizeof(header)}));
  for (const PackedMatrix* matrix : matrices) {
    CLAMOR_RETURN_IF_ERROR(file.Append({static_cast<const char*>(matrix->data()), matrix->bytes()}));
  }
  return file.Commit();
}

}  // namespace clamor
