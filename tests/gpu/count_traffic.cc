// What a step of a tiny model moves, as the emulator counts it: a line for each kernel with the bytes that it
// loads and stores, each once. roofline_test.py holds bench/roofline.py against it.
//
//   count_traffic WEIGHTS ROWS CONTEXT      WEIGHTS: bf16, int8 or int4
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/model/cuda/device_runner.h"
#include "tests/simt/traffic.h"

namespace clamor {
namespace {

int Main(const std::string& weights, int rows, int context) {
  const auto format = ParseWeightFormat(weights);
  if (!format.ok() || rows < 1 || context < 1) {
    std::fprintf(stderr, "count_traffic WEIGHTS ROWS CONTEXT\n");
    return 2;
  }
  DeviceRunner runner("llama", {.weights = *format});
  Sequence s;
  for (int i = 0; i < context; ++i) s.text.push_back(i % 600);
  runner.Run({&s});
  for (int i = 0; i < rows; ++i) {
    s.tree.push_back(i);
    s.parents.push_back(i == 0 ? -1 : (i - 1) / 2);
  }
  simt::ForgetTraffic();
  runner.Run({&s});
  for (const auto& [name, traffic] : simt::TrafficByName()) {
    std::printf("%s\t%llu\n", name.c_str(),
                static_cast<unsigned long long>(traffic.distinct_loaded + traffic.distinct_stored));
  }
  return 0;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) {
  if (argc != 4) return clamor::Main("", 0, 0);
  return clamor::Main(argv[1], std::atoi(argv[2]), std::atoi(argv[3]));
}
