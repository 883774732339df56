#include "services/cli/bench_histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace clamor::cli {
namespace {

constexpr double kLeast = 1e-6, kMost = 1e6;  // seconds; what is beyond counts as these
constexpr double kPerOctave = 64;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

size_t BucketOf(double seconds) {
  return static_cast<size_t>(kPerOctave * std::log2(std::clamp(seconds, kLeast, kMost) / kLeast));
}

double MiddleOf(size_t bucket) {
  return kLeast * std::exp2((static_cast<double>(bucket) + 0.5) / kPerOctave);
}

}  // namespace

void TimeHistogram::Add(double seconds, int64_t times) {
  const size_t bucket = BucketOf(seconds);
  if (bucket >= buckets_.size()) buckets_.resize(bucket + 1);
  buckets_[bucket] += times;
  count_ += times;
  sum_ += seconds * static_cast<double>(times);
  max_ = std::max(max_, seconds);
}

double TimeHistogram::mean() const { return count_ > 0 ? sum_ / static_cast<double>(count_) : kNone; }

double TimeHistogram::max() const { return count_ > 0 ? max_ : kNone; }

double TimeHistogram::Quantile(double q) const {
  if (count_ == 0) return kNone;
  const auto wanted = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(q * static_cast<double>(count_))));
  int64_t below = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    below += buckets_[bucket];
    if (below >= wanted) return std::min(MiddleOf(bucket), max_);
  }
  return max_;
}

}  // namespace clamor::cli
