// What calculus says of a function, to check the gradients of the kernels by.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "gtest/gtest.h"

namespace clamor::kernels {

// f's gradient at x by central differences, all in double.
inline std::vector<double> CentralDifferences(const std::function<double(const std::vector<double>&)>& f,
                                              std::vector<double> x) {
  constexpr double kStep = 1e-5;
  std::vector<double> gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    x[i] = at + kStep;
    const double up = f(x);
    x[i] = at - kStep;
    gradient[i] = (up - f(x)) / (2 * kStep);
    x[i] = at;
  }
  return gradient;
}

// Within 1e-5 of the largest.
inline testing::AssertionResult Near(const std::vector<double>& expected, const float* actual) {
  double largest = 1e-3;
  for (const double v : expected) largest = std::max(largest, std::abs(v));
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::abs(expected[i] - actual[i]) <= 1e-5 * largest) continue;
    return testing::AssertionFailure()
           << "element " << i << " of " << expected.size() << " is " << actual[i] << ", expected "
           << expected[i] << " (the largest is " << largest << ")";
  }
  return testing::AssertionSuccess();
}

inline std::vector<double> Doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }

}  // namespace clamor::kernels
