// Times in texts: replay_worker begins each message's text with when it was sent, and who reads it on the
// same machine knows how long it was on its way.
#pragma once

#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_format.h"

namespace clamor {

// 16 hexadecimal digits: nanoseconds of the machine's steady clock.
inline std::string StampOf(std::chrono::steady_clock::time_point time) {
  return absl::StrFormat("%016x", std::chrono::nanoseconds(time.time_since_epoch()).count());
}

// Seconds from the stamp at the beginning of `text` until `now`; nothing if there is none. Of texts that were
// merged it is the oldest one's.
inline std::optional<double> SecondsSinceStamp(std::string_view text,
                                               std::chrono::steady_clock::time_point now) {
  constexpr size_t kDigits = 16;
  if (text.size() < kDigits) return std::nullopt;
  int64_t sent = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + kDigits, sent, 16);
  if (error != std::errc() || end != text.data() + kDigits) return std::nullopt;
  return 1e-9 * static_cast<double>(std::chrono::nanoseconds(now.time_since_epoch()).count() - sent);
}

}  // namespace clamor
