// The inner loop of products with int8 and int4 weights: a few rows of x against sixteen columns of w, or
// twice sixteen. Dot products of groups are integers and therefore exact, so each set of instructions may
// compute them in its own way; the fp32 chain over groups is the same everywhere.
//
// Included once per target for namespace `plain` and, but for scalar, once more with CLAMOR_VNNI 1 for
// namespace `vnni`, whose instruction multiplies bytes and adds up four products at once.

#if CLAMOR_VNNI
#define CLAMOR_VARIANT vnni
#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avxvnni")
#endif
#else
#define CLAMOR_VARIANT plain
HWY_BEFORE_NAMESPACE();
#endif
namespace clamor::kernels::HWY_NAMESPACE::CLAMOR_VARIANT {

using IntTag = hn::RebindToSigned<FloatTag>;
using IntVec = hn::Vec<IntTag>;

// Integer sums, fp32 sums, weights and one broadcast must fit the registers: 32 zmm; 16 ymm, two for each
// F16.
#if HWY_TARGET == HWY_AVX3
inline constexpr int kTileRows = 12;  // of one panel
inline constexpr int kTilePanels = 2;
#else
inline constexpr int kTileRows = 3;
inline constexpr int kTilePanels = 1;
#endif
inline constexpr int kWideTileRows = kTileRows / kTilePanels;  // of kTilePanels panels
// In a loop GCC copies each sum of a `vpdpbusd` to another register and back; the longer sequences of the
// others it reorders until they no longer fit the registers.
inline constexpr int kUnrolledLines = CLAMOR_VNNI ? 8 : 1;

// The values of int4 that the halves of bytes name, without sign.
HWY_INLINE IntVec Int4Bytes(IntVec halves) {
  constexpr int kZero = 32;  // ZeroPoint(Storage::kI4)
#if HWY_TARGET == HWY_SCALAR
  uint32_t bytes = 0;
  for (int bit = 0; bit < 32; bit += 8) {
    bytes |= static_cast<uint32_t>(kInt4Values[halves.raw >> bit & 0xf] + kZero) << bit;
  }
  return hn::Set(IntTag(), static_cast<int32_t>(bytes));
#else
  constexpr auto kTable = [] {
    std::array<int8_t, 16> table;
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int8_t>(kInt4Values[i] + kZero);
    return table;
  }();
  const hn::Repartition<int8_t, IntTag> bytes;
  const auto table = hn::LoadDup128(bytes, kTable.data());
  return hn::BitCast(IntTag(), hn::TableLookupBytes(table, hn::BitCast(bytes, halves)));
#endif
}

// A vector of weights: four bytes without sign of each column. A line gives kVectors of them, one for each
// four k.
struct Int8 {
  static constexpr Storage kStored = Storage::kI8;
  static constexpr int kVectors = 1;
  static HWY_INLINE void Read(const uint8_t* line, IntVec (&w)[1]) {
    w[0] = hn::LoadU(IntTag(), reinterpret_cast<const int32_t*>(line));
  }
};
struct Int4 {
  static constexpr Storage kStored = Storage::kI4;
  static constexpr int kVectors = 2;
  static HWY_INLINE void Read(const uint8_t* line, IntVec (&w)[2]) {
    const IntVec both = hn::LoadU(IntTag(), reinterpret_cast<const int32_t*>(line));
    const IntVec half = hn::Set(IntTag(), 0x0f0f0f0f);
    w[0] = Int4Bytes(hn::And(both, half));
    w[1] = Int4Bytes(hn::And(hn::ShiftRight<4>(both), half));
  }
};

// The sum of a group's products for each column, and how it grows: Add takes the vectors of weights of one
// line and as many fours of x, the same for all columns.
#if HWY_TARGET == HWY_SCALAR || CLAMOR_VNNI
template <class Format>
struct Sum {
  using Weights = IntVec;
  static HWY_INLINE Weights Prepare(IntVec w) { return w; }
  static HWY_INLINE IntVec Start(int32_t correction) { return hn::Set(IntTag(), correction); }
  template <int kVectors>
  static HWY_INLINE IntVec Add(IntVec sum, const Weights (&w)[kVectors], const IntVec (&x)[kVectors]) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
#if HWY_TARGET == HWY_SCALAR
      for (int bit = 0; bit < 32; bit += 8) {
        sum.raw += (w[v].raw >> bit & 0xff) * static_cast<int8_t>(x[v].raw >> bit);
      }
#elif HWY_TARGET == HWY_AVX3
      sum = IntVec{_mm512_dpbusd_epi32(sum.raw, w[v].raw, x[v].raw)};
#else
      sum = IntVec{_mm256_dpbusd_avx_epi32(sum.raw, w[v].raw, x[v].raw)};
#endif
    }
    return sum;
  }
};

#else

// Of bytes: x with the sign of w, 0 where w is 0; u without sign times s with sign, two products added up to
// 16 bits. Of 16 bits: pairs added up to 32 bits; sums.
#if HWY_TARGET == HWY_AVX3
HWY_INLINE IntVec WithSign(IntVec x, IntVec w) {
  const __mmask64 negative = _mm512_movepi8_mask(w.raw);  // where w is 0, so will the product be
  return IntVec{_mm512_mask_sub_epi8(x.raw, negative, _mm512_setzero_si512(), x.raw)};
}
HWY_INLINE IntVec Pairs(IntVec u, IntVec s) { return IntVec{_mm512_maddubs_epi16(u.raw, s.raw)}; }
HWY_INLINE IntVec PairsOf16(IntVec v) { return IntVec{_mm512_madd_epi16(v.raw, _mm512_set1_epi16(1))}; }
HWY_INLINE IntVec Add16(IntVec a, IntVec b) { return IntVec{_mm512_add_epi16(a.raw, b.raw)}; }
#else
HWY_INLINE IntVec WithSign(IntVec x, IntVec w) { return IntVec{_mm256_sign_epi8(x.raw, w.raw)}; }
HWY_INLINE IntVec Pairs(IntVec u, IntVec s) { return IntVec{_mm256_maddubs_epi16(u.raw, s.raw)}; }
HWY_INLINE IntVec PairsOf16(IntVec v) { return IntVec{_mm256_madd_epi16(v.raw, _mm256_set1_epi16(1))}; }
HWY_INLINE IntVec Add16(IntVec a, IntVec b) { return IntVec{_mm256_add_epi16(a.raw, b.raw)}; }
#endif

template <class Format>
struct Sum;

// |w| * (x with the sign of w): both are at most 127, so two products fit 16 bits.
template <>
struct Sum<Int8> {
  struct Weights {
    IntVec magnitude, with_sign;
  };
  static HWY_INLINE Weights Prepare(IntVec w) {
    const IntVec with_sign = hn::Xor(w, hn::Set(IntTag(), static_cast<int32_t>(0x80808080)));
    const hn::Repartition<int8_t, IntTag> bytes;
    return {hn::BitCast(IntTag(), hn::Abs(hn::BitCast(bytes, with_sign))), with_sign};
  }
  static HWY_INLINE IntVec Start(int32_t) { return hn::Zero(IntTag()); }
  static HWY_INLINE IntVec Add(IntVec sum, const Weights (&w)[1], const IntVec (&x)[1]) {
    return hn::Add(sum, PairsOf16(Pairs(w[0].magnitude, WithSign(x[0], w[0].with_sign))));
  }
};

// Weights without sign, at most 26 + 32: four products fit 16 bits.
template <>
struct Sum<Int4> {
  using Weights = IntVec;
  static HWY_INLINE Weights Prepare(IntVec w) { return w; }
  static HWY_INLINE IntVec Start(int32_t correction) { return hn::Set(IntTag(), correction); }
  static HWY_INLINE IntVec Add(IntVec sum, const Weights (&w)[2], const IntVec (&x)[2]) {
    return hn::Add(sum, PairsOf16(Add16(Pairs(w[0], x[0]), Pairs(w[1], x[1]))));
  }
};
#endif

// bf16 to fp32.
HWY_INLINE F16 ReadScales(const uint8_t* scales) {
  const hn::Rebind<uint16_t, FloatTag> narrow;
  const hn::RebindToUnsigned<FloatTag> wide;
  F16 v;
#pragma GCC unroll 16
  for (size_t i = 0; i < kParts; ++i) {
    const auto bits = hn::LoadU(narrow, reinterpret_cast<const uint16_t*>(scales) + i * kPartLanes);
    v.part[i] = hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(wide, bits)));
  }
  return v;
}

template <int kPanels>
HWY_INLINE void PrefetchPanels(const char* soon, int64_t panel_step) {
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) hwy::Prefetch(soon + p * panel_step);
}

// Adds one group to `acc`. `soon` moves on by a step for each line.
template <class Format, int kRows, int kPanels>
HWY_INLINE void AddGroup(const QuantizedTile& t, const RowGroup* x, const uint8_t* scales,
                         const uint8_t* lines, const char*& soon, F16 (&acc)[kRows][kPanels]) {
  using S = Sum<Format>;
  constexpr int kLines = static_cast<int>(kGroup) / 4 / Format::kVectors;
  IntVec sums[kRows][kPanels][kParts];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (size_t i = 0; i < kParts; ++i) sums[r][p][i] = S::Start(x[r].correction);
    }
  }
#pragma GCC unroll kUnrolledLines
  for (int line = 0; line < kLines; ++line, lines += 64, soon += t.prefetch_step) {
    PrefetchPanels<kPanels>(soon, t.prefetch_panel_step);
    typename S::Weights w[kPanels][kParts][Format::kVectors];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (size_t i = 0; i < kParts; ++i) {
        IntVec stored[Format::kVectors];
        Format::Read(lines + p * t.panel_step + i * kPartLanes * 4, stored);
#pragma GCC unroll 2
        for (int v = 0; v < Format::kVectors; ++v) w[p][i][v] = S::Prepare(stored[v]);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      IntVec values[Format::kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < Format::kVectors; ++v) {
        int32_t four;
        std::memcpy(&four, x[r].q + (line * Format::kVectors + v) * 4, 4);
        values[v] = hn::Set(IntTag(), four);
      }
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
        for (size_t i = 0; i < kParts; ++i) sums[r][p][i] = S::Add(sums[r][p][i], w[p][i], values);
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    const F16 scale = ReadScales(scales + p * t.panel_step);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      F16 dot;
#pragma GCC unroll 16
      for (size_t i = 0; i < kParts; ++i) {
        dot.part[i] = hn::ConvertTo(FloatTag(), sums[r][p][i]);
      }
      acc[r][p] = Fma(dot, Set16(x[r].scale) * scale, acc[r][p]);
    }
  }
}

template <class Format, int kPanels, int kRows>
void RunTile(const QuantizedTile& t) {
  F16 acc[kRows][kPanels];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      acc[r][p] = t.accumulate ? Load16(t.y + r * t.y_stride + p * 16) : Set16(0.0f);
    }
  }
  const RowGroup* x = t.x;
  const uint8_t* pair = t.w;
  const char* soon = t.prefetch;
  for (int64_t left = t.groups; left > 0; left -= 2, pair += BytesOfPair(Format::kStored)) {
    PrefetchPanels<kPanels>(soon, t.prefetch_panel_step);  // for the line of scales
    soon += t.prefetch_step;
    const int64_t groups = std::min<int64_t>(left, 2);
#pragma GCC unroll 1
    for (int64_t g = 0; g < groups; ++g, x += t.x_step) {
      AddGroup<Format>(t, x, pair + ScalesOffset(Format::kStored, g), pair + LinesOffset(Format::kStored, g),
                       soon, acc);
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    const F16 bias = t.bias != nullptr ? Load16(t.bias + p * 16) : Set16(0.0f);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      if (t.bias != nullptr) acc[r][p] = acc[r][p] + bias;
      Store16(acc[r][p], t.y + r * t.y_stride + p * 16);
    }
  }
}

template <class Format, int kPanels, size_t... kIndex>
constexpr std::array<QuantizedTileFn, sizeof...(kIndex)> MakeTiles(std::index_sequence<kIndex...>) {
  return {RunTile<Format, kPanels, static_cast<int>(kIndex) + 1>...};
}
// kTiles<Format, panels>[rows - 1] runs a tile of that many rows and panels.
template <class Format, int kPanels>
inline constexpr std::array<QuantizedTileFn, kTileRows / kPanels> kTiles =
    MakeTiles<Format, kPanels>(std::make_index_sequence<kTileRows / kPanels>());

inline QuantizedTileFn TileFor(Storage stored, int64_t panels, int64_t rows) {
  const bool int8 = stored == Storage::kI8;
  if constexpr (kTilePanels > 1) {
    if (panels > 1) return int8 ? kTiles<Int8, kTilePanels>[rows - 1] : kTiles<Int4, kTilePanels>[rows - 1];
  }
  return int8 ? kTiles<Int8, 1>[rows - 1] : kTiles<Int4, 1>[rows - 1];
}

inline constexpr QuantizedTiles kAllTiles = {kTileRows, kTilePanels, kWideTileRows, TileFor};

}  // namespace clamor::kernels::HWY_NAMESPACE::CLAMOR_VARIANT
#if CLAMOR_VNNI
HWY_POP_ATTRIBUTES
#else
HWY_AFTER_NAMESPACE();
#endif
#undef CLAMOR_VARIANT
