#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "kernels/float_formats.h"
#include "kernels/matmul.h"

namespace clamor::kernels {
namespace {

constexpr int64_t kPanel = 16;
constexpr size_t kHugePage = size_t{2} << 20;

// Zero pages from the kernel, so that the zero padding costs nothing and memory appears only as it is packed.
// Large blocks start at a huge page: a token reads every weight once, and 4 KB pages would cost a TLB miss
// each.
void* MapPages(size_t bytes) {
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* mapped = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  if (slack == 0) return mapped;
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (start + slack - 1) / slack * slack;
  if (aligned != start) munmap(mapped, aligned - start);
  const size_t tail = start + slack - aligned;
  if (tail != 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
  void* result = reinterpret_cast<void*>(aligned);
  madvise(result, bytes, MADV_HUGEPAGE);  // a hint: failure only costs speed
  return result;
}

// Element i of an array that may lie at any address.
template <typename T>
T Element(const void* array, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(array) + i * sizeof(T), sizeof(T));
  return value;
}

struct ReadF32 {
  float operator()(const void* array, size_t i) const { return Element<float>(array, i); }
};
struct ReadBF16 {
  float operator()(const void* array, size_t i) const { return FromBF16(Element<uint16_t>(array, i)); }
};
struct ReadF16 {
  float operator()(const void* array, size_t i) const { return FromF16(Element<uint16_t>(array, i)); }
};

// Where element (column, k) of a panel lies, counted in elements.
size_t OffsetF32(int64_t column, int64_t k) { return static_cast<size_t>(k * kPanel + column); }
size_t OffsetBF16(int64_t column, int64_t k) {
  return static_cast<size_t>((k / 2 * kPanel + column) * 2 + k % 2);
}

// Fills `columns` columns of a panel, from column `first` on, with as many rows of the source. K outside: the
// panel is written once, front to back, from sixteen streams that the hardware prefetches.
template <typename Read>
void PackPanel(const void* source, int64_t first, int64_t columns, int64_t k, DType stored, void* panel,
               Read read) {
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t c = 0; c < columns; ++c) {
      const float value = read(source, c * k + i);
      if (stored == DType::kBF16) {
        static_cast<uint16_t*>(panel)[OffsetBF16(first + c, i)] = ToBF16(value);
      } else {
        static_cast<float*>(panel)[OffsetF32(first + c, i)] = value;
      }
    }
  }
}

// Writes k = first_k .. first_k + count of a panel from its `columns` columns of a [count, n] source.
template <typename Read>
void PackPanelTransposed(const void* source, int64_t n, int64_t column, int64_t columns, int64_t first_k,
                         int64_t count, DType stored, void* panel, Read read) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < columns; ++c) {
      const float value = read(source, i * n + column + c);
      if (stored == DType::kBF16) {
        static_cast<uint16_t*>(panel)[OffsetBF16(c, first_k + i)] = ToBF16(value);
      } else {
        static_cast<float*>(panel)[OffsetF32(c, first_k + i)] = value;
      }
    }
  }
}

// Calls fn with the reader for elements of `type`.
template <typename Fn>
void WithReader(DType type, Fn fn) {
  switch (type) {
    case DType::kF32:
      return fn(ReadF32());
    case DType::kBF16:
      return fn(ReadBF16());
    case DType::kF16:
      return fn(ReadF16());
  }
}

size_t PanelBytes(int64_t k, DType stored) {
  return kPanel *
         (stored == DType::kBF16 ? static_cast<size_t>((k + 1) / 2 * 2) * 2 : static_cast<size_t>(k) * 4);
}

}  // namespace

PackedMatrix::PackedMatrix(int64_t n, int64_t k, DType stored)
    : n_(n),
      k_(k),
      bytes_(static_cast<size_t>((n + kPanel - 1) / kPanel) * PanelBytes(k, stored)),
      stored_(stored) {
  constexpr size_t kPage = 4096;
  const size_t mapped = (bytes_ + kPage - 1) / kPage * kPage;
  data_ = std::unique_ptr<void, Free>(MapPages(mapped), Free{mapped});
}

void PackedMatrix::Free::operator()(void* p) const { munmap(p, bytes); }

void PackedMatrix::PackRows(int64_t row, int64_t rows, const void* source, DType type, ThreadPool& pool) {
  if (rows == 0) return;
  const int64_t first_panel = row / kPanel;
  const int64_t panels = (row + rows - 1) / kPanel - first_panel + 1;
  pool.ParallelFor(panels, 1, [&](size_t begin, size_t end) {
    for (int64_t p = first_panel + begin; p < first_panel + static_cast<int64_t>(end); ++p) {
      const int64_t from = std::max(row, p * kPanel);
      const int64_t columns = std::min(row + rows, (p + 1) * kPanel) - from;
      const void* rows_of_panel = static_cast<const char*>(source) + (from - row) * k_ * DTypeSize(type);
      void* panel = static_cast<char*>(data_.get()) + p * PanelBytes(k_, stored_);
      const int64_t first = from - p * kPanel;
      WithReader(type,
                 [&](auto read) { PackPanel(rows_of_panel, first, columns, k_, stored_, panel, read); });
    }
  });
}

void PackedMatrix::PackTransposed(int64_t first_k, int64_t count, const void* source, DType type,
                                  ThreadPool& pool) {
  pool.ParallelFor((n_ + kPanel - 1) / kPanel, 1, [&](size_t begin, size_t end) {
    for (int64_t p = begin; p < static_cast<int64_t>(end); ++p) {
      void* panel = static_cast<char*>(data_.get()) + p * PanelBytes(k_, stored_);
      const int64_t columns = std::min(kPanel, n_ - p * kPanel);
      WithReader(type, [&](auto read) {
        PackPanelTransposed(source, n_, p * kPanel, columns, first_k, count, stored_, panel, read);
      });
    }
  });
}

float PackedMatrix::At(int64_t row, int64_t col) const {
  const char* panel = static_cast<const char*>(data_.get()) + row / kPanel * PanelBytes(k_, stored_);
  if (stored_ == DType::kBF16) return FromBF16(Element<uint16_t>(panel, OffsetBF16(row % kPanel, col)));
  return Element<float>(panel, OffsetF32(row % kPanel, col));
}

void PackedMatrix::UnpackRow(int64_t row, float* out) const {
  for (int64_t i = 0; i < k_; ++i) out[i] = At(row, i);
}

}  // namespace clamor::kernels
