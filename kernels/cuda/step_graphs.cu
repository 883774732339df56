#include "kernels/cuda/gpu.h"
#include "kernels/cuda/step_graphs.h"

namespace clamor::kernels::cuda {

StepGraphs::~StepGraphs() {
  for (const auto& [key, exec] : graphs_) {
    if (exec != nullptr) Check(cudaGraphExecDestroy(exec), "freeing a graph");
  }
}

void StepGraphs::Run(int64_t key, Stream stream, const std::function<void(Stream)>& record) {
  const auto [at, first] = graphs_.try_emplace(key, nullptr);
  if (first) return record(stream);
  cudaGraphExec_t& exec = at->second;
  if (exec == nullptr) {
    cudaGraph_t graph;
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capturing a step");
    record(stream);
    Check(cudaStreamEndCapture(stream, &graph), "capturing a step");
    Check(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    Check(cudaGraphDestroy(graph), "freeing a graph");
  }
  Check(cudaGraphLaunch(exec, stream), "launching a graph");
}

}  // namespace clamor::kernels::cuda
