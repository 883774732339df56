#include "tests/simt/warp.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <string_view>

#include "tests/simt/block.h"
#include "tests/simt/report.h"

namespace clamor::simt {
namespace {

std::string_view NameOfOp(::simt::WarpOp op) {
  constexpr std::string_view kNames[] = {"__shfl_sync", "__ballot_sync", "__syncwarp", "ldmatrix",
                                         "ldmatrix",    "mma.sync",      "mma.sync"};
  return kNames[static_cast<int>(op)];
}

std::string DescribeMeeting(const Warp::Meeting& m) {
  char mask[16];
  std::snprintf(mask, sizeof(mask), "%08x", m.mask);
  return std::string(NameOfOp(m.op)) + " at " + PlaceOf(m.return_address) + " with mask " + mask;
}

void CheckMask(const Warp& warp, const Warp::Meeting& own, int lane) {
  if (!(own.mask >> lane & 1)) FailInKernel("is not named by the mask of its own " + DescribeMeeting(own));
  for (unsigned rest = own.mask; rest != 0; rest &= rest - 1) {
    const int other = std::countr_zero(rest);
    if (!(warp.lanes >> other & 1)) {
      FailInKernel("names lane " + std::to_string(other) + ", which does not exist, in " +
                   DescribeMeeting(own));
    }
    if (warp.threads[other]->state == State::kDone) {
      FailInKernel("names lane " + std::to_string(other) + ", which has ended, in " + DescribeMeeting(own));
    }
  }
}

// The one that the lane joins, or a new one.
Warp::Meeting& Join(Warp& warp, const Warp::Meeting& own) {
  Warp::Meeting* free = nullptr;
  for (Warp::Meeting& m : warp.meetings) {
    if (m.arrived == 0) {
      free = &m;
    } else if (m.mask & own.mask) {
      if (m.mask == own.mask && m.op == own.op) return m;
      FailInKernel("reaches " + DescribeMeeting(own) + " while lanes of its warp wait in " +
                   DescribeMeeting(m));
    }
  }
  *free = own;
  return *free;
}

// __syncwarp of the whole warp: time moves on for it.
void AdvanceTime(Warp& warp) {
  uint32_t time = 0;
  for (int l = 0; l < 32; ++l) {
    if (warp.lanes >> l & 1) time = std::max(time, warp.threads[l]->actor.time);
  }
  for (int l = 0; l < 32; ++l) {
    if (warp.lanes >> l & 1) warp.threads[l]->actor.time = time + 1;
  }
}

}  // namespace

std::string DescribePlace(const ::simt::Place& place) {
  std::string_view file = place.file_name();
  if (file.substr(0, 2) == "./") file.remove_prefix(2);
  return std::string(file) + ":" + std::to_string(place.line());
}

std::string DescribeOp(const Warp& warp, int lane) {
  for (const Warp::Meeting& m : warp.meetings) {
    if (m.arrived >> lane & 1) return DescribeMeeting(m);
  }
  return "no operation";
}

void CheckEndOfLane(const Warp& warp, int lane) {
  for (const Warp::Meeting& m : warp.meetings) {
    if (m.arrived != 0 && (m.mask >> lane & 1)) {
      FailInKernel("ends while lanes of its warp wait for it in " + DescribeMeeting(m));
    }
  }
}

}  // namespace clamor::simt

namespace simt {
using namespace clamor::simt;

void Collective(WarpOp op, unsigned mask, void* payload) {
  Thread& t = *Running();
  Warp& warp = *t.warp;
  Warp::Meeting own = {
      .mask = mask, .arrived = 0, .op = op, .payloads = {}, .return_address = __builtin_return_address(0)};
  // A full mask in the last, short warp of a block means all that are there.
  if (mask == ~0u) own.mask = warp.lanes;
  CheckMask(warp, own, t.lane);
  if ((op == WarpOp::kMmaBF16 || op == WarpOp::kMmaS8 || op == WarpOp::kLoadMatrix ||
       op == WarpOp::kLoadMatrixTransposed) &&
      own.mask != ~0u) {
    FailInKernel("has not all 32 lanes of its warp in " + DescribeMeeting(own));
  }
  Warp::Meeting& meeting = Join(warp, own);
  meeting.payloads[t.lane] = payload;
  meeting.arrived |= 1u << t.lane;
  if (meeting.arrived != meeting.mask) {
    t.state = State::kInWarpOp;
    t.fiber.Pause();
    return;
  }
  DoWarpOp(op, meeting.mask, meeting.payloads);
  if (op == WarpOp::kSync && meeting.mask == warp.lanes) AdvanceTime(warp);
  for (int l = 0; l < 32; ++l) {
    if (meeting.mask >> l & 1) warp.threads[l]->state = State::kReady;
  }
  meeting.arrived = 0;
}

}  // namespace simt
