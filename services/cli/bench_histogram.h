// Many times in little memory: counts in buckets whose width grows with the time, so that a quantile is off
// by 0.6 % at most. Not thread-safe. Tested by tests/services/cli/bench_figures_test.cc.
#pragma once

#include <cstdint>
#include <vector>

namespace clamor::cli {

class TimeHistogram {
 public:
  void Add(double seconds, int64_t times = 1);

  int64_t count() const { return count_; }
  double mean() const;  // NaN without times, as are all below
  double max() const;
  // The time that is not exceeded by a share `q` of the times, 0 to 1: the smallest bucket's middle for which
  // that holds, never above max().
  double Quantile(double q) const;

 private:
  std::vector<int64_t> buckets_;  // as many as needed so far
  int64_t count_ = 0;
  double sum_ = 0, max_ = 0;
};

}  // namespace clamor::cli
