// Tiles of the key/value cache as the products of attention want them: as they are stored, or as fp32.

// Included once per target.
#if defined(CLAMOR_KERNELS_CPU_KV_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLAMOR_KERNELS_CPU_KV_TILES_INL_H_
#undef CLAMOR_KERNELS_CPU_KV_TILES_INL_H_
#else
#define CLAMOR_KERNELS_CPU_KV_TILES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/lanes-inl.h"
#include "kernels/float_formats.h"
#include "kernels/kv_layer.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// How sixteen stored elements, or one, become fp32. `scale` is of int8 alone.
struct FromF32 {
  using Stored = float;
  static constexpr bool kScaled = false;
  static HWY_INLINE F16 Widen(const float* p, const F16&) { return Load16(p); }
  static float Widen(float v, float) { return v; }
};
struct FromBF16Bits {
  using Stored = uint16_t;
  static constexpr bool kScaled = false;
  static HWY_INLINE F16 Widen(const uint16_t* p, const F16&) {
    F16 v;
    const hn::Rebind<uint16_t, FloatTag> narrow;
    const hn::RebindToUnsigned<FloatTag> wide;
#pragma GCC unroll 16
    for (size_t i = 0; i < kParts; ++i) {
      const auto bits = hn::PromoteTo(wide, hn::LoadU(narrow, p + i * kPartLanes));
      v.part[i] = hn::BitCast(FloatTag(), hn::ShiftLeft<16>(bits));
    }
    return v;
  }
  static float Widen(uint16_t v, float) { return FromBF16(v); }
};
struct FromInt8 {
  using Stored = int8_t;
  static constexpr bool kScaled = true;
  static HWY_INLINE F16 Widen(const int8_t* p, const F16& scale) {
    F16 v;
    const hn::Rebind<int8_t, FloatTag> narrow;
    const hn::RebindToSigned<FloatTag> wide;
#pragma GCC unroll 16
    for (size_t i = 0; i < kParts; ++i) {
      v.part[i] = hn::ConvertTo(FloatTag(), hn::PromoteTo(wide, hn::LoadU(narrow, p + i * kPartLanes)));
    }
    return v * scale;
  }
  static float Widen(int8_t v, float scale) { return static_cast<float>(v) * scale; }
};

// A whole tile as a product reads it.
struct KvOperand {
  const void* elements;
  const float* scales;  // [16], of int8 alone
};

// Reads the tiles of one format. `reused`: a product reads each tile so often that it pays to widen it first.
class KvTiles {
 public:
  KvTiles(KvFormat format, int head_dim, bool reused)
      : format_(format),
        head_dim_(head_dim),
        padded_dim_((head_dim + 15) / 16 * 16),
        keys_as_(reused ? KvFormat::kF32 : format),
        values_as_(reused || padded_dim_ != head_dim ? KvFormat::kF32 : format) {}

  // The formats of what Keys and Values return.
  KvFormat keys_as() const { return keys_as_; }
  KvFormat values_as() const { return values_as_; }

  // [head_dim][16] keys; in `room` if they had to be widened.
  KvOperand Keys(const std::byte* tile, float* room) const {
    if (keys_as_ == format_) return InPlace(tile);
    As([&](auto from) HWY_ATTR { WidenKeys(from, tile, room); });
    return {room, nullptr};
  }
  // [16][padded_dim] values likewise; what lies behind head_dim means nothing.
  KvOperand Values(const std::byte* tile, float* room) const {
    if (values_as_ == format_ && padded_dim_ == head_dim_) return InPlace(tile);
    return {FloatValues(tile, 0, kPageSize, room), nullptr};
  }
  // Some of them as fp32, [count][padded_dim].
  const float* FloatValues(const std::byte* tile, int first, int count, float* room) const {
    if (format_ == KvFormat::kF32 && padded_dim_ == head_dim_) {
      return reinterpret_cast<const float*>(tile) + first * head_dim_;
    }
    As([&](auto from) HWY_ATTR { WidenValues(from, tile, first, count, room); });
    return room;
  }
  // One key, its elements sixteen apart in `to`.
  void CopyKey(const std::byte* tile, int offset, float* to) const {
    As([&](auto from) {
      using From = decltype(from);
      const auto* elements = Elements<From>(tile) + offset;
      const float scale = Scale<From>(tile, offset);
      for (int d = 0; d < head_dim_ * 16; d += 16) to[d] = From::Widen(elements[d], scale);
    });
  }

 private:
  template <class Fn>
  HWY_INLINE void As(Fn fn) const {
    switch (format_) {
      case KvFormat::kF32:
        return fn(FromF32());
      case KvFormat::kBF16:
        return fn(FromBF16Bits());
      case KvFormat::kInt8:
        return fn(FromInt8());
    }
  }

  template <class From>
  static const typename From::Stored* Elements(const std::byte* tile) {
    return reinterpret_cast<const typename From::Stored*>(tile + (From::kScaled ? kKvScalesBytes : 0));
  }
  template <class From>
  static float Scale(const std::byte* tile, int offset) {
    return From::kScaled ? reinterpret_cast<const float*>(tile)[offset] : 1.0f;
  }

  KvOperand InPlace(const std::byte* tile) const {
    if (format_ != KvFormat::kInt8) return {tile, nullptr};
    return {Elements<FromInt8>(tile), reinterpret_cast<const float*>(tile)};
  }

  template <class From>
  void WidenKeys(From, const std::byte* tile, float* to) const {
    const auto* elements = Elements<From>(tile);
    const F16 scales = From::kScaled ? Load16(reinterpret_cast<const float*>(tile)) : Set16(1.0f);
    for (int d = 0; d < head_dim_ * 16; d += 16) Store16(From::Widen(elements + d, scales), to + d);
  }

  template <class From>
  void WidenValues(From, const std::byte* tile, int first, int count, float* to) const {
    const int whole = head_dim_ / 16 * 16;
    for (int i = first; i < first + count; ++i, to += padded_dim_) {
      const auto* elements = Elements<From>(tile) + i * head_dim_;
      const float scale = Scale<From>(tile, i);
      const F16 scales = Set16(scale);
      for (int d = 0; d < whole; d += 16) Store16(From::Widen(elements + d, scales), to + d);
      for (int d = whole; d < head_dim_; ++d) to[d] = From::Widen(elements[d], scale);
    }
  }

  const KvFormat format_;
  const int head_dim_, padded_dim_;
  const KvFormat keys_as_, values_as_;
};

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
