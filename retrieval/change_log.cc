#include "retrieval/change_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace clamor::retrieval {

ChangeLog::ChangeLog(size_t limit)
    : limit_(limit),
      first_(std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1)) {}

void ChangeLog::Add(Change change) {
  {
    const std::lock_guard lock(mu_);
    changes_.push_back(std::move(change));
    if (changes_.size() > limit_) {
      changes_.pop_front();
      ++first_;
    }
  }
  added_.notify_all();
}

uint64_t ChangeLog::next() const {
  const std::lock_guard lock(mu_);
  return first_ + changes_.size();
}

absl::StatusOr<ChangeLog::Slice> ChangeLog::Read(uint64_t from, size_t limit,
                                                 std::chrono::milliseconds wait) const {
  std::unique_lock lock(mu_);
  added_.wait_for(lock, wait, [&] { return from != first_ + changes_.size(); });
  const uint64_t end = first_ + changes_.size();
  if (from < first_ || from > end) {
    return absl::OutOfRangeError(absl::StrCat("position ", from, " is not kept, ", first_, " to ", end,
                                              " are: compare all documents"));
  }
  const auto begin = changes_.begin() + static_cast<std::ptrdiff_t>(from - first_);
  const auto count = static_cast<std::ptrdiff_t>(std::min<uint64_t>(limit, end - from));
  return Slice{
      {begin, begin + count}, from + static_cast<uint64_t>(count), from + static_cast<uint64_t>(count) < end};
}

}  // namespace clamor::retrieval
