#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <climits>
#include <cstring>
#include <new>
#include <type_traits>

#include "kernels/cpu/ops.h"
#include "kernels/float_formats.h"
#include "kernels/matmul.h"
#include "kernels/quantized.h"

namespace clamor::kernels {
namespace {

constexpr int64_t kPanel = 16;
constexpr size_t kHugePage = size_t{2} << 20;

// The nodes whose memory this process may use, a bit for each; none if the kernel does not say.
using Nodes = std::array<unsigned long, 1024 / (CHAR_BIT * sizeof(unsigned long))>;  // as many as Linux knows
constexpr unsigned long kMaxNode = 1024;

Nodes AllowedNodes() {
  Nodes nodes{};
  if (syscall(SYS_get_mempolicy, nullptr, nodes.data(), kMaxNode, nullptr, MPOL_F_MEMS_ALLOWED) != 0)
    return {};
  return nodes;
}

// Spreads the pages over all nodes, where there is more than one: every thread reads weights, and from a
// single node they would come at that node's bandwidth. A hint too.
void Interleave(void* data, size_t bytes) {
  static const Nodes nodes = AllowedNodes();
  int count = 0;
  for (const unsigned long word : nodes) count += std::popcount(word);
  if (count > 1) syscall(SYS_mbind, data, bytes, MPOL_INTERLEAVE, nodes.data(), kMaxNode, 0);
}

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
  Interleave(result, bytes);
  return result;
}

// Element i of an array that may lie at any address.
template <typename T>
T Load(const void* array, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(array) + i * sizeof(T), sizeof(T));
  return value;
}

// The formats without groups, in sources and in panels: conversion from and to fp32, and where the element
// (column, k) of a panel lies, counted in elements.
struct FP32 {
  using Element = float;
  static float Widen(float v) { return v; }
  static float Narrow(float v) { return v; }
  static size_t Offset(int64_t column, int64_t k) { return k * kPanel + column; }
};
struct BF16 {
  using Element = uint16_t;
  static float Widen(uint16_t v) { return FromBF16(v); }
  static uint16_t Narrow(float v) { return ToBF16(v); }
  static size_t Offset(int64_t column, int64_t k) { return (k / 2 * kPanel + column) * 2 + k % 2; }
};
struct FP16 {
  using Element = uint16_t;
  static float Widen(uint16_t v) { return FromF16(v); }
  static uint16_t Narrow(float v) { return ToF16(v); }
  static size_t Offset(int64_t column, int64_t k) { return k * kPanel + column; }
};

template <class From>
float Widened(const void* array, size_t i) {
  return From::Widen(Load<typename From::Element>(array, i));
}

template <class From, class To>
typename To::Element Converted(const void* array, size_t i) {
  if constexpr (std::is_same_v<From, To>) return Load<typename To::Element>(array, i);
  return To::Narrow(Widened<From>(array, i));
}

// Fills `columns` columns of a panel, from column `first` on, with as many rows of the source. K outside: the
// panel is written once, front to back, from sixteen streams that the hardware prefetches.
template <class From, class To>
void PackPanel(const void* source, int64_t first, int64_t columns, int64_t k, void* panel) {
  auto* to = static_cast<typename To::Element*>(panel);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t c = 0; c < columns; ++c)
      to[To::Offset(first + c, i)] = Converted<From, To>(source, c * k + i);
  }
}

// The same, quantised group by group. Only bytes of those columns are written.
template <class From>
void QuantizePanel(const void* source, int64_t first, int64_t columns, int64_t k, Storage stored,
                   void* panel) {
  const auto quantize = kQuantizeWeights.Active();
  char* to = static_cast<char*>(panel);
  for (int64_t group = 0; group < GroupsFor(k); ++group) {
    alignas(64) float values[kGroup * kPanel] = {};
    const int64_t k_begin = group * kGroup, count = std::min(kGroup, k - k_begin);
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = 0; i < count; ++i) {
        values[i * kPanel + first + c] = Widened<From>(source, c * k + k_begin + i);
      }
    }
    ColumnGroup quantized;
    quantize(values, stored, quantized);
    std::memcpy(to + ScalesOffset(stored, group) + first * 2, quantized.scales + first, columns * 2);
    char* lines = to + LinesOffset(stored, group);
    for (size_t byte = first * 4; byte < BytesOfGroup(stored); byte += 64) {
      std::memcpy(lines + byte, quantized.lines + byte, columns * 4);
    }
  }
}

// Writes k = first_k .. first_k + count of a panel from its `columns` columns of a [count, n] source.
template <class From, class To>
void PackPanelTransposed(const void* source, int64_t n, int64_t column, int64_t columns, int64_t first_k,
                         int64_t count, void* panel) {
  auto* to = static_cast<typename To::Element*>(panel);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < columns; ++c) {
      to[To::Offset(c, first_k + i)] = Converted<From, To>(source, i * n + column + c);
    }
  }
}

// Calls fn with the format of a source.
template <typename Fn>
void WithFormat(DType type, Fn fn) {
  switch (type) {
    case DType::kF32:
      return fn(FP32());
    case DType::kBF16:
      return fn(BF16());
    case DType::kF16:
      return fn(FP16());
  }
}

// Calls fn with the format of a panel that has no groups.
template <typename Fn>
void WithFormat(Storage stored, Fn fn) {
  if (stored == Storage::kBF16) return fn(BF16());
  if (stored == Storage::kF16) return fn(FP16());
  return fn(FP32());
}

float DequantizedAt(const char* panel, Storage stored, int64_t column, int64_t k) {
  const int64_t group = k / kGroup, i = k % kGroup;
  const char* lines = panel + LinesOffset(stored, group);
  const float scale = FromBF16(Load<uint16_t>(panel + ScalesOffset(stored, group), column));
  int q;
  if (stored == Storage::kI8) {
    q = Load<uint8_t>(lines, i / 4 * 64 + column * 4 + i % 4) - ZeroPoint(stored);
  } else {
    q = kInt4Values[Load<uint8_t>(lines, i / 8 * 64 + column * 4 + i % 4) >> (i % 8 < 4 ? 0 : 4) & 15];
  }
  return static_cast<float>(q) * scale;  // exact: 8 bits times 8
}

size_t PanelBytes(int64_t k, Storage stored) {
  if (IsQuantized(stored)) return (GroupsFor(k) + 1) / 2 * BytesOfPair(stored);
  return kPanel *
         (stored == Storage::kF32 ? static_cast<size_t>(k) * 4 : static_cast<size_t>((k + 1) / 2) * 4);
}

}  // namespace

std::string_view StorageName(Storage stored) {
  switch (stored) {
    case Storage::kF32:
      return "fp32";
    case Storage::kBF16:
      return "bf16";
    case Storage::kF16:
      return "fp16";
    case Storage::kI8:
      return "int8";
    case Storage::kI4:
      return "int4";
  }
  return "unknown";
}

size_t PackedMatrix::BytesFor(int64_t n, int64_t k, Storage stored) {
  return static_cast<size_t>((n + kPanel - 1) / kPanel) * PanelBytes(k, stored);
}

PackedMatrix::PackedMatrix(int64_t n, int64_t k, Storage stored)
    : n_(n), k_(k), bytes_(BytesFor(n, k, stored)), stored_(stored) {
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
      WithFormat(type, [&](auto source_format) {
        using From = decltype(source_format);
        if (IsQuantized(stored_)) {
          return QuantizePanel<From>(rows_of_panel, first, columns, k_, stored_, panel);
        }
        WithFormat(stored_, [&](auto format) {
          PackPanel<From, decltype(format)>(rows_of_panel, first, columns, k_, panel);
        });
      });
    }
  });
}

void PackedMatrix::PackTransposed(int64_t first_k, int64_t count, const void* source, DType type,
                                  ThreadPool& pool) {
  pool.ParallelFor((n_ + kPanel - 1) / kPanel, 1, [&](size_t begin, size_t end) {
    for (int64_t p = begin; p < static_cast<int64_t>(end); ++p) {
      void* panel = static_cast<char*>(data_.get()) + p * PanelBytes(k_, stored_);
      const int64_t columns = std::min(kPanel, n_ - p * kPanel);
      WithFormat(type, [&](auto from) {
        WithFormat(stored_, [&](auto to) {
          PackPanelTransposed<decltype(from), decltype(to)>(source, n_, p * kPanel, columns, first_k, count,
                                                            panel);
        });
      });
    }
  });
}

float PackedMatrix::At(int64_t row, int64_t col) const {
  const char* panel = static_cast<const char*>(data_.get()) + row / kPanel * PanelBytes(k_, stored_);
  if (IsQuantized(stored_)) return DequantizedAt(panel, stored_, row % kPanel, col);
  float value = 0;
  WithFormat(stored_, [&](auto format) {
    using Format = decltype(format);
    value = Widened<Format>(panel, Format::Offset(row % kPanel, col));
  });
  return value;
}

void PackedMatrix::UnpackRow(int64_t row, float* out) const {
  for (int64_t i = 0; i < k_; ++i) out[i] = At(row, i);
}

}  // namespace clamor::kernels
