#include "kernels/cuda/gpu.h"
#include "kernels/cuda/step_io.h"

namespace clamor::kernels::cuda {
namespace {

cudaEvent_t NewEvent() {
  cudaEvent_t event;
  Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
  return event;
}

}  // namespace

Uploads::Uploads(size_t bytes) : bytes_(bytes) {
  for (Slot& slot : slots_) {
    if (!GotMemory(cudaMallocHost(&slot.host, bytes))) slot.host = nullptr;
    slot.fetched = NewEvent();
  }
}

Uploads::~Uploads() {
  for (const Slot& slot : slots_) {
    AwaitFetched(slot);
    Check(cudaFreeHost(slot.host), "freeing");
    Check(cudaEventDestroy(slot.fetched), "freeing");
  }
}

std::byte* Uploads::Next() {
  AwaitFetched(slots_[next_]);
  return slots_[next_].host;
}

void Uploads::AwaitFetched(const Slot& slot) const {
  if (slot.used) Check(cudaEventSynchronize(slot.fetched), "waiting for an upload");
}

void Uploads::Upload(void* to, size_t bytes, Stream stream) {
  Slot& slot = slots_[next_];
  if (bytes > bytes_) Check(cudaErrorInvalidValue, "an upload beyond its pinned memory");
  Check(cudaMemcpyAsync(to, slot.host, bytes, cudaMemcpyHostToDevice, stream), "an upload");
  Check(cudaEventRecord(slot.fetched, stream), "an event");
  slot.used = true;
  next_ = 1 - next_;
}

StepInputs::StepInputs(size_t bytes) : uploads_(bytes) {
  if (!GotMemory(cudaMalloc(&device_, bytes))) device_ = nullptr;
}
StepInputs::~StepInputs() { Check(cudaFree(device_), "freeing"); }

StepOutputs::StepOutputs(size_t bytes) : bytes_(bytes), written_(NewEvent()), copied_(NewEvent()) {
  if (!GotMemory(cudaMalloc(&device_, bytes))) device_ = nullptr;
  for (std::byte*& host : host_) {
    if (!GotMemory(cudaMallocHost(&host, bytes))) host = nullptr;
  }
  Check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "a stream");
}

StepOutputs::~StepOutputs() {
  Check(cudaStreamDestroy(copies_), "freeing");
  for (const cudaEvent_t event : {written_, copied_}) Check(cudaEventDestroy(event), "freeing");
  for (std::byte* host : host_) Check(cudaFreeHost(host), "freeing");
  Check(cudaFree(device_), "freeing");
}

void StepOutputs::BeginStep(Stream stream) {
  if (used_) Check(cudaStreamWaitEvent(stream, copied_), "waiting for the last outputs");
}

void StepOutputs::Download(size_t bytes, Stream stream) {
  if (bytes > bytes_) Check(cudaErrorInvalidValue, "a copy beyond the outputs");
  latest_ = 1 - latest_;
  Check(cudaEventRecord(written_, stream), "an event");
  Check(cudaStreamWaitEvent(copies_, written_), "waiting for a step");
  Check(cudaMemcpyAsync(host_[latest_], device_, bytes, cudaMemcpyDeviceToHost, copies_), "copying outputs");
  Check(cudaEventRecord(copied_, copies_), "an event");
  used_ = true;
}

const std::byte* StepOutputs::Wait() {
  Check(cudaEventSynchronize(copied_), "waiting for a step's outputs");
  return host_[latest_];
}

}  // namespace clamor::kernels::cuda
