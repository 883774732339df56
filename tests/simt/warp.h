// Warp operations: the lanes that a mask names meet, and one function works on all their payloads.
#pragma once

#include <cstdint>
#include <string>

#include "simt/device.h"

namespace clamor::simt {

struct Thread;

struct Warp {
  unsigned lanes = 0;  // that exist; the last warp of a block may be short
  Thread* threads[32] = {};

  // A meeting under way. Lanes that diverged may hold several at a time, with disjoint masks.
  struct Meeting {
    unsigned mask = 0, arrived = 0;  // arrived == 0: free
    ::simt::WarpOp op;
    void* payloads[32];
    const void* return_address;  // of the first
  };
  Meeting meetings[32];
};

// "__shfl_sync at kernels/cuda/top_k.cu:71", of the meeting that the lane waits in.
std::string DescribeOp(const Warp& warp, int lane);
std::string DescribePlace(const ::simt::Place& place);

// Dies if lanes wait for this one, which has ended.
void CheckEndOfLane(const Warp& warp, int lane);

// Does `op` on the payloads of the lanes in `mask`.
void DoWarpOp(::simt::WarpOp op, unsigned mask, void* const* payloads);

}  // namespace clamor::simt
