// Messages whose size on the wire does not tell how much is in them.
// Tested by tests/services/gateway/padding_test.cc.
#pragma once

#include <cstddef>
#include <string>

namespace clamor {

// The most that a message may be filled up to: lengths of fields below it take two bytes at most.
inline constexpr size_t kMaxPadBytes = 1 << 14;

// Fills up a message that has the field `repeated bytes padding`, numbered below 16, to the least multiple of
// `bytes`, up to kMaxPadBytes, that it can be; 0: leaves it. One byte cannot be filled, for an empty field
// takes two: where that is missing the message grows to the next multiple.
template <class Message>
void Pad(size_t bytes, Message* message) {
  if (bytes == 0) return;
  const size_t size = message->ByteSizeLong();
  size_t whole = (size + bytes - 1) / bytes * bytes;
  while (whole == size + 1) whole += bytes;
  // A field takes a byte for its number, one for its length up to 127 and two for longer ones: no field takes
  // 130 bytes, so that one leaves room for an empty second.
  for (size_t gap; (gap = whole - message->ByteSizeLong()) > 0;) {
    message->add_padding(std::string(gap - (gap < 130 ? 2 : gap == 130 ? 4 : 3), '\0'));
  }
}

}  // namespace clamor
