// Tells requests that kill their workers from those that were only there when one died.
// Tested by tests/services/gateway/suspicion_test.cc.
#pragma once

#include <cstdint>
#include <optional>

namespace clamor {

// Of one answer. A request that kills a worker kills the next one at about the same token, for both do the
// same sums; whoever has gone on well beyond that token was not to blame. Not thread-safe.
class Suspicion {
 public:
  static constexpr uint64_t kNear =
      16;  // tokens: what the first may have sent that had not arrived, and more
  static constexpr int kMostLosses = 4;  // wherever they were

  // A worker died or hung when `tokens` had come, after it had admitted the request or before. True if the
  // request is to blame as far as one can tell, and no further worker should get it.
  bool Lost(bool admitted, uint64_t tokens) {
    if (++losses_ > kMostLosses) return true;
    if (!admitted) return false;
    const bool again = last_ && tokens - *last_ < kNear;  // tokens never decrease
    last_ = tokens;
    return again;
  }

 private:
  int losses_ = 0;
  std::optional<uint64_t> last_;  // how many had come when the last worker that ran it was lost
};

}  // namespace clamor
