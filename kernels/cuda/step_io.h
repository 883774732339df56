// What goes to the device for each step and comes back from it. Graphs hold addresses, so the device's side
// of both stays where it is; the host's side is doubled, so that the host prepares step n + 1 while step n
// runs.
//
// All classes: one thread at a time; where ok() is false, memory was missing and nothing else may be called.
// Tested by tests/kernels/cuda/step_test.cc.
#pragma once

#include <cstddef>

#include "kernels/cuda/stream.h"

struct CUevent_st;

namespace clamor::kernels::cuda {

// Pinned memory for what goes up, doubled: the host fills one half while the other is fetched.
class Uploads {
 public:
  explicit Uploads(size_t bytes);
  ~Uploads();
  Uploads(const Uploads&) = delete;

  bool ok() const { return slots_[0].host != nullptr && slots_[1].host != nullptr; }
  // `bytes` of host memory for the next upload. Waits if the one before last is not fetched yet.
  std::byte* Next();
  // Queues the copy of the first `bytes` of them to the device.
  void Upload(void* to, size_t bytes, Stream stream);

 private:
  struct Slot {
    std::byte* host = nullptr;
    CUevent_st* fetched = nullptr;
    bool used = false;
  };
  void AwaitFetched(const Slot& slot) const;

  const size_t bytes_;
  Slot slots_[2];
  int next_ = 0;
};

class StepInputs {
 public:
  explicit StepInputs(size_t bytes);
  ~StepInputs();
  StepInputs(const StepInputs&) = delete;

  bool ok() const { return uploads_.ok() && device_ != nullptr; }
  // Host memory for the next step's inputs. Waits if the step before last has not fetched its own from there.
  std::byte* Next() { return uploads_.Next(); }
  // Queues the copy of the first `bytes` to device(), behind whatever `stream` still does with the inputs of
  // the last step.
  void Upload(size_t bytes, Stream stream) { uploads_.Upload(device_, bytes, stream); }
  const std::byte* device() const { return device_; }

 private:
  Uploads uploads_;
  std::byte* device_ = nullptr;
};

class StepOutputs {
 public:
  explicit StepOutputs(size_t bytes);
  ~StepOutputs();
  StepOutputs(const StepOutputs&) = delete;

  bool ok() const { return device_ != nullptr && host_[0] != nullptr && host_[1] != nullptr; }
  std::byte* device() { return device_; }
  // To be called before the step that writes device(): its work then waits until the last outputs are out.
  void BeginStep(Stream stream);
  // Queues the copy of the first `bytes`, as `stream` has written them by then.
  void Download(size_t bytes, Stream stream);
  // The outputs of the last Download(), once they are there. Good until the Download() after the next.
  const std::byte* Wait();

 private:
  const size_t bytes_;
  std::byte* device_ = nullptr;
  std::byte* host_[2] = {};
  int latest_ = 0;
  bool used_ = false;
  Stream copies_ = nullptr;
  CUevent_st* written_ = nullptr;
  CUevent_st* copied_ = nullptr;
};

}  // namespace clamor::kernels::cuda
