// How long requests take: seconds a token, by how many run at once. A line through the requests that ended,
// the newer the more, by weighted least squares; and how far they have been off it.
//
// Not thread-safe. Tested by tests/services/gateway/request_pace_test.cc.
#pragma once

namespace clamor {

class RequestPace {
 public:
  // A request took so long a token while `at_once` >= 1, itself included, ran on average.
  void Add(double seconds, double at_once);

  // Seconds a token where so many run; 0 until a request has ended.
  double Mean(double at_once) const;
  double AtMost(double at_once) const;  // that about one in a hundred exceeds

 private:
  double weight_ = 0, at_once_ = 0, seconds_ = 0;  // sums of weights, and means
  double variance_ = 0, covariance_ = 0;           // of at_once, and with seconds
  double off_ = 0;                                 // mean distance from the line
};

}  // namespace clamor
