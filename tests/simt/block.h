// Runs the blocks of a launch: one block at a time, its threads as fibers, in an order that the seed decides.
//
// A block runs in rounds: each thread that can run does, until its next barrier, warp operation or end. Every
// thread must reach every __syncthreads, all of them at the same place; every lane that a warp operation's
// mask names must reach it, with the same mask and operation; none may have ended before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "simt/device.h"
#include "tests/simt/fiber.h"
#include "tests/simt/operations.h"
#include "tests/simt/shadow.h"

namespace clamor::simt {

struct KernelLaunch {
  dim3 grid, threads;
  size_t shared_bytes;
  std::shared_ptr<const ::simt::Call> call;
};

// Runs it to its end, or dies.
void RunKernel(const KernelLaunch& launch, OperationId operation);

// Dies if CUDA would refuse the launch.
void CheckLaunch(const void* kernel, dim3 grid, dim3 threads, size_t shared_bytes, const void* issued_at);

struct Warp;

// A copy by cp.async that its thread has not waited for.
struct AsyncCopy {
  std::byte* to;
  std::byte bytes[16];  // read when it was issued, as it may be
  uint32_t site;
};

enum class State { kReady, kAtBarrier, kInWarpOp, kDone };

struct Thread {
  Fiber fiber;
  State state;
  uint3 index;
  int lane;
  Warp* warp;
  Actor actor;
  ::simt::Place place;                         // of the barrier it waits at
  std::vector<std::vector<AsyncCopy>> groups;  // oldest first; the last is not committed
};

// Null while no kernel runs.
Thread* Running();

// An address of the running block's memory: in one of its shared variables, or null.
struct SharedCells {
  std::byte* data;
  size_t bytes;
  Cell* cells;
};
const SharedCells* FindShared(const void* p);
bool IsSharedAddress(const void* p);
bool IsArgument(const void* p);  // the arguments of the running kernel, or threadIdx and the like

// Names the kernel, its launch, block and thread: "RmsNormKernel, block .. thread .., <what>; launched at
// ..".
[[noreturn]] void FailInKernel(const std::string& what);

}  // namespace clamor::simt
