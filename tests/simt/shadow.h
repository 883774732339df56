// What is known of each byte that a kernel can reach: who wrote it last, and who has read it since. By that a
// race is found whether or not the schedule at hand makes it visible.
//
// Inside a launch, time passes at barriers: __syncthreads moves all threads of a block past the greatest
// time among them, a __syncwarp of a whole warp likewise those of the warp. An access happens before another
// if it is of an earlier time in the same warp, or of a time before the block's last barrier in the same
// block. Blocks of one launch are never ordered; a __syncwarp of part of a warp orders nothing here.
// Between launches, copies and streams the clocks of operations.h decide.
//
// Three readers of a byte are kept: the latest, the latest other one of its warp, and the latest of
// elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "tests/simt/operations.h"

namespace clamor::simt {

enum class Access { kRead, kWrite, kAtomic };

// A return address by a small number. 0 is null.
uint32_t SiteOf(const void* return_address);

struct Record {
  uint32_t operation = 0;  // OperationId and the flags below; 0: there is none
  uint32_t thread = 0;     // counted over all blocks of the launch
  uint32_t time = 0;
  uint32_t site = 0;

  static constexpr uint32_t kAtomic = 1u << 31;
  static constexpr uint32_t kUnfilled = 1u << 30;  // an asynchronous copy is under way
  OperationId id() const { return operation & kIdBits; }
};

struct Cell {
  Record write;
  Record reads[3];
};

// Who accesses. Copies and library calls are a single thread.
struct Actor {
  OperationId operation = 0;
  uint32_t thread = 0, time = 0;
  uint32_t block_begin = 0, block_end = 1;  // the threads of its block
  uint32_t block_time = 0;                  // of the block's last barrier
};

// Enters an access to cells[0..n) and says what is wrong with it, in words that follow on "reads ...": "which
// <thread> of <operation> wrote at <place> with no barrier between".
// unwritten: what stands for the writer of bytes that nothing has written yet, such as their allocation.
std::optional<std::string> Enter(Cell* cells, size_t n, Access access, const Actor& actor, uint32_t site,
                                 OperationId unwritten);

// Marks cells[0..n) as about to be written by an asynchronous copy. Same checks as a write.
std::optional<std::string> EnterUnfilled(Cell* cells, size_t n, const Actor& actor, uint32_t site);

}  // namespace clamor::simt
