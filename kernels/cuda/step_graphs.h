// The work of a step, captured for each number of rows and replayed as one launch.
//
// One thread at a time. Tested by tests/kernels/cuda/step_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "kernels/cuda/stream.h"

struct CUgraphExec_st;

namespace clamor::kernels::cuda {

class StepGraphs {
 public:
  StepGraphs() = default;
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;

  // Queues on `stream` what `record` queues on the stream it is given: kernels, products and copies. The
  // first time for a key by calling it, which also loads what libraries load lazily; the second time a graph
  // is captured from it, whose arguments are then fixed, and replayed from then on. `record` may neither
  // allocate nor wait.
  void Run(int64_t key, Stream stream, const std::function<void(Stream)>& record);

 private:
  std::map<int64_t, CUgraphExec_st*> graphs_;  // null where only the first time has been
};

}  // namespace clamor::kernels::cuda
