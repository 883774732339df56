// The work of a step, captured once for each number of rows and replayed as one launch.
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

  // Queues the graph of `key` on `stream`. The first time for a key it is captured from what `record` queues
  // on the stream it is given: kernels, products and copies, whose arguments are then fixed. `record` may
  // neither allocate nor wait.
  void Run(int64_t key, Stream stream, const std::function<void(Stream)>& record);

 private:
  std::map<int64_t, CUgraphExec_st*> graphs_;
};

}  // namespace clamor::kernels::cuda
