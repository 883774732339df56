// How the ranks of one model, each a device with a stream of its own, give each other what they computed. One
// host thread queues the work of all ranks, so that a step of theirs can be one graph.
//
// Tested by tests/kernels/cuda/exchange_test.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

struct Rank {
  int device;
  Stream stream;
};

// One thread at a time.
class Exchange {
 public:
  // What lies at `offset` on rank `owner`.
  struct Piece {
    int owner;
    size_t offset, bytes;
  };

  virtual ~Exchange() = default;

  // Copies each piece from bases[owner] to bases[r] of every other rank r, at the same offset: once all ranks
  // have done what is queued on their streams, and before what comes next there. The owners may write the
  // memory again behind the next Share, whose memory must be other.
  virtual void Share(std::span<std::byte* const> bases, std::span<const Piece> pieces) = 0;

  // What the other ranks do from now on comes after what rank 0's stream was asked for, and the other way
  // round: with the first a capture of rank 0's stream takes in the others', with the second it ends.
  virtual void Fork() = 0;
  virtual void Join() = 0;

  virtual std::string name() const = 0;
};

// By copies from device to device, over NVLink where there is such.
std::unique_ptr<Exchange> NewPeerExchange(std::vector<Rank> ranks);

// By NCCL, which is opened when it is wanted, so that nothing needs it. Null where there is no such library,
// or it refuses, as it does where two ranks share a device.
std::unique_ptr<Exchange> NewNcclExchange(std::vector<Rank> ranks, const char* library = "libnccl.so.2");

}  // namespace clamor::kernels::cuda
