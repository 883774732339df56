// Everything that the device was asked to do, and which of it happens before which.
//
// Each stream is a lane, and so is each branch of a replayed graph. An operation knows, as a vector clock,
// how many operations of each lane happen before it: those before it on its lane, those behind events that
// its lane waits for, and those that the host knew to be done when it asked. Whatever the clocks leave open
// may run in either order, whether or not it just did.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace clamor::simt {

using OperationId = uint32_t;                    // 0: the host, before everything else
constexpr OperationId kIdBits = (1u << 29) - 1;  // the bits above are the shadow's

class Clock {
 public:
  uint32_t at(int lane) const { return static_cast<size_t>(lane) < counts_.size() ? counts_[lane] : 0; }
  void Set(int lane, uint32_t count);
  void Join(const Clock& other);  // the greater of both, in each lane

 private:
  std::vector<uint32_t> counts_;
};

struct Operation {
  const char* what = "";            // "cudaMemcpyAsync"; of a kernel, its name is looked up when asked for
  const void* kernel = nullptr;     // its address, or null
  const void* issued_at = nullptr;  // return address
  unsigned grid[3] = {1, 1, 1};
  unsigned threads[3] = {1, 1, 1};
  int lane = 0;
  Clock seen;  // itself included
  bool done = false;
};

int NewLane();

// The next of the operation's lane; `seen` is what happens before it, apart from what is on the lane.
OperationId AddOperation(Operation operation);
Operation& GetOperation(OperationId id);
OperationId LastOperation();  // the latest, 0 if none

// All operations so far.
const Clock& AllOperations();

// The latest of `lane`, 0 if it is empty.
OperationId LastOnLane(int lane);

bool HappensBefore(OperationId a, OperationId b);

// "RmsNormKernel, launched at kernels/cuda/rmsnorm.cu:90".
std::string Describe(OperationId id);
// "block (3,0,0) thread (12,0,0)" of the thread-th thread of a launch, counted over all blocks.
std::string DescribeThread(OperationId id, uint32_t thread);

}  // namespace clamor::simt
