#include "services/gateway/request_pace.h"

#include <algorithm>
#include <cmath>

namespace clamor {
namespace {

constexpr double kMemory = 64;     // requests whose weight together is that of all before the last
constexpr double kOffMemory = 16;  // likewise, of distances
constexpr double kDeviations =
    3.5;  // mean distances above the line: what about one request in a hundred exceeds
constexpr double kLeastVariance = 0.05;  // of at_once, for a slope to mean something

}  // namespace

void RequestPace::Add(double seconds, double at_once) {
  const double expected = Mean(at_once);
  weight_ = std::min(weight_ + 1, kMemory);
  const double part = 1 / weight_;
  const double dx = at_once - at_once_, dy = seconds - seconds_;
  at_once_ += part * dx;
  seconds_ += part * dy;
  variance_ = (1 - part) * (variance_ + part * dx * dx);
  covariance_ = (1 - part) * (covariance_ + part * dx * dy);
  // Nobody knows of one request how far the next will be off.
  if (expected == 0) {
    off_ = seconds / 2;
  } else {
    off_ += (std::abs(seconds - expected) - off_) / std::min(weight_, kOffMemory);
  }
}

// More at once never make each of them faster, and fewer at best share what all had.
double RequestPace::Mean(double at_once) const {
  if (weight_ == 0) return 0;
  const double slope = variance_ < kLeastVariance ? 0 : std::max(0.0, covariance_ / variance_);
  const double least = seconds_ * std::min(1.0, at_once / at_once_);
  return std::max(least, seconds_ + slope * (at_once - at_once_));
}

double RequestPace::AtMost(double at_once) const { return Mean(at_once) + kDeviations * off_; }

}  // namespace clamor
