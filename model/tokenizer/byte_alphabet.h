// The alphabet of byte-level BPE: each byte as one printable character, so that any bytes are text.
//
// Bytes that print in Latin-1 stand for themselves; the other 68 follow from U+0100 on, in order.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace clamor {

struct ByteAlphabet {
  std::array<uint16_t, 256> to_char{};
  std::array<int16_t, 0x144> to_byte{};  // -1: not in the alphabet

  std::optional<unsigned char> Byte(uint32_t code) const {
    if (code >= to_byte.size() || to_byte[code] < 0) return std::nullopt;
    return static_cast<unsigned char>(to_byte[code]);
  }
};

constexpr ByteAlphabet MakeByteAlphabet() {
  ByteAlphabet alphabet;
  alphabet.to_byte.fill(-1);
  uint16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const uint16_t code = prints ? static_cast<uint16_t>(byte) : next++;
    alphabet.to_char[byte] = code;
    alphabet.to_byte[code] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

inline constexpr ByteAlphabet kByteAlphabet = MakeByteAlphabet();

}  // namespace clamor
