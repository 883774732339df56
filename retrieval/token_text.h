// Token ids in as few bits as they need.
//
// DESCRIPTION. A dictionary lists the different ids of a text by rising id, and the end mark after them. The
// text has for each token its code: which entry of the dictionary it is. Codes are in the order of ids, so
// within one dictionary they can be compared in their stead.
//
// IMPLEMENTATION. Code i is in the bits from i * width on, where bit b is bit b % 8 of byte b / 8. Each is
// read by a load of eight bytes, for which there is room behind the last. A code that is no entry is taken
// for the end mark: damaged bits give wrong tokens and nothing worse.
//
// Threads: const methods from any number of threads. Tested by tests/retrieval/token_text_test.cc.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace clamor::retrieval {

inline constexpr uint32_t kEndMark = ~0u;  // greater than every token

// A view: dictionary and bytes outlive it.
class TokenText {
 public:
  static constexpr uint32_t kMaxWidth = 32;
  static constexpr size_t kLoad = sizeof(uint64_t);

  // Bits for each token, and bytes for `size` of them: a multiple of eight. REQUIRES: `dictionary`, the
  // entries, is at least 2.
  static uint32_t Width(uint64_t dictionary) { return static_cast<uint32_t>(std::bit_width(dictionary - 1)); }
  static uint64_t Bytes(uint64_t dictionary, uint64_t size) {
    return (size * Width(dictionary) + 63) / 64 * kLoad + kLoad;
  }

  TokenText() = default;
  // REQUIRES: `bytes` are Bytes() of them.
  TokenText(std::span<const uint32_t> dictionary, std::span<std::byte> bytes, uint32_t size)
      : dictionary_(dictionary),
        bytes_(bytes),
        size_(size),
        width_(Width(dictionary.size())),
        mask_((uint64_t{1} << width_) - 1) {}

  uint32_t size() const { return size_; }
  uint32_t end_code() const { return static_cast<uint32_t>(dictionary_.size()) - 1; }
  std::span<std::byte> bytes() const { return bytes_; }

  uint32_t Code(uint32_t index) const { return std::min(Raw(index), end_code()); }
  uint32_t operator[](uint32_t index) const { return dictionary_[Code(index)]; }
  void Set(uint32_t index, uint32_t code) {
    const uint64_t bit = uint64_t{index} * width_, shift = bit % 8;
    std::byte* at = bytes_.data() + bit / 8;
    const uint64_t load = (LoadBits(at) & ~(mask_ << shift)) | (uint64_t{code} << shift);
    std::memcpy(at, &load, kLoad);
  }
  // The codes of the `count` tokens before `index` as one number, the last of them in its highest bits: such
  // numbers of equal count are in the order of the texts read backwards, unless a code is no entry. REQUIRES:
  // count is 1 to per_key() and at most index.
  uint32_t width() const { return width_; }
  uint32_t per_key() const { return (64 - 7) / width_; }
  uint64_t Key(uint32_t index, uint32_t count) const {
    const uint64_t bit = uint64_t{index - count} * width_;
    return LoadBits(bytes_.data() + bit / 8) >> bit % 8 & ((uint64_t{1} << count * width_) - 1);
  }
  void Prefetch(uint32_t index) const { __builtin_prefetch(bytes_.data() + uint64_t{index} * width_ / 8); }

  // The bytes in which the `size` tokens from `first` on are.
  static constexpr size_t WindowBytes(size_t size) { return (size * kMaxWidth + 7) / 8 + 2 * kLoad; }
  std::span<const std::byte> Window(uint32_t first, uint32_t size) const {
    const uint64_t begin = uint64_t{first} * width_ / 8, end = (first + uint64_t{size}) * width_ / 8 + kLoad;
    return bytes_.subspan(begin, end - begin);
  }

 private:
  friend class TokenRun;
  static uint64_t LoadBits(const std::byte* at) {
    uint64_t load;
    std::memcpy(&load, at, kLoad);
    return load;
  }
  uint32_t Load(const std::byte* at, uint64_t shift) const {
    return static_cast<uint32_t>(LoadBits(at) >> shift & mask_);
  }
  uint32_t Raw(uint32_t index) const {
    const uint64_t bit = uint64_t{index} * width_;
    return Load(bytes_.data() + bit / 8, bit % 8);
  }

  std::span<const uint32_t> dictionary_;
  std::span<std::byte> bytes_;
  uint32_t size_ = 0, width_ = 0;
  uint64_t mask_ = 0;
};

// Neighbours in a text, read from the bytes of their window or from a copy of these. A view: text and bytes
// outlive it.
class TokenRun {
 public:
  TokenRun(const TokenText& text, uint32_t first, uint32_t size, const std::byte* window)
      : text_(&text),
        window_(window),
        first_bit_(static_cast<uint32_t>(uint64_t{first} * text.width_ % 8)),
        size_(size) {}

  uint32_t size() const { return size_; }
  void Shorten(uint32_t size) { size_ = std::min(size_, size); }
  uint32_t operator[](uint32_t index) const {
    const uint64_t bit = first_bit_ + uint64_t{index} * text_->width_;
    return text_->dictionary_[std::min(text_->Load(window_ + bit / 8, bit % 8), text_->end_code())];
  }

 private:
  const TokenText* text_;
  const std::byte* window_;
  uint32_t first_bit_, size_;
};

}  // namespace clamor::retrieval
