#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <type_traits>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/exchange.h"
#include "kernels/cuda/gpu.h"

namespace clamor::kernels::cuda {
namespace {

// What all ways have in common: the order of the ranks' streams.
class OrderedExchange : public Exchange {
 public:
  explicit OrderedExchange(std::vector<Rank> ranks) : ranks_(std::move(ranks)), reached_(ranks_.size()) {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      UseDevice(ranks_[r].device);
      Check(cudaEventCreateWithFlags(&reached_[r], cudaEventDisableTiming), "an event");
    }
    UseDevice(ranks_[0].device);
  }
  ~OrderedExchange() override {
    for (const cudaEvent_t event : reached_) Check(cudaEventDestroy(event), "freeing");
  }

  void Fork() override {
    if (ranks_.size() == 1) return;
    Record(0);
    for (size_t r = 1; r < ranks_.size(); ++r) Await(r, 0);
    UseDevice(ranks_[0].device);
  }
  void Join() override {
    for (size_t r = 1; r < ranks_.size(); ++r) {
      Record(r);
      Await(0, r);
    }
    if (ranks_.size() > 1) UseDevice(ranks_[0].device);
  }

 protected:
  void Record(size_t rank) {
    UseDevice(ranks_[rank].device);
    Check(cudaEventRecord(reached_[rank], ranks_[rank].stream), "an event");
  }
  void Await(size_t rank, size_t other) {
    UseDevice(ranks_[rank].device);
    Check(cudaStreamWaitEvent(ranks_[rank].stream, reached_[other]), "waiting for another rank");
  }

  const std::vector<Rank> ranks_;

 private:
  std::vector<cudaEvent_t> reached_;  // by rank
};

class PeerExchange : public OrderedExchange {
 public:
  explicit PeerExchange(std::vector<Rank> ranks) : OrderedExchange(std::move(ranks)) {
    for (const Rank& rank : ranks_) {
      for (const Rank& other : ranks_) AllowAccess(rank.device, other.device);
    }
  }

  void Share(std::span<std::byte* const> bases, std::span<const Piece> pieces) override {
    for (size_t r = 0; r < ranks_.size(); ++r) Record(r);
    for (size_t r = 0; r < ranks_.size(); ++r) {
      for (size_t other = 0; other < ranks_.size(); ++other) {
        if (other != r) Await(r, other);
      }
      for (const Piece& piece : pieces) {
        if (piece.owner == static_cast<int>(r)) continue;
        Check(cudaMemcpyAsync(bases[r] + piece.offset, bases[piece.owner] + piece.offset, piece.bytes,
                              cudaMemcpyDeviceToDevice, ranks_[r].stream),
              "copying between ranks");
      }
    }
    UseDevice(ranks_[0].device);
  }

  std::string name() const override { return "copies between devices"; }

 private:
  // Where it is refused, copies go through the host.
  static void AllowAccess(int device, int other) {
    int can = 0;
    if (device == other) return;
    Check(cudaDeviceCanAccessPeer(&can, device, other), "asking how devices are linked");
    if (can == 0) return;
    UseDevice(device);
    const cudaError_t error = cudaDeviceEnablePeerAccess(other, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();  // it is no error of what comes next
      return;
    }
    Check(error, "linking devices");
  }
};

// The part of NCCL's interface that is used, as its manual has it, so that its header is not needed.
struct Nccl {
  using Comm = struct ncclComm*;
  static constexpr int kUint8 = 1;

  int (*CommInitAll)(Comm* comms, int devices, const int* list);
  int (*CommDestroy)(Comm comm);
  int (*GroupStart)();
  int (*GroupEnd)();
  int (*Broadcast)(const void* from, void* to, size_t count, int type, int root, Comm comm,
                   cudaStream_t stream);
  const char* (*GetErrorString)(int error);

  // False if the library has not all of it.
  bool Find(void* library) {
    const auto find = [library](auto*& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return find(CommInitAll, "ncclCommInitAll") && find(CommDestroy, "ncclCommDestroy") &&
           find(GroupStart, "ncclGroupStart") && find(GroupEnd, "ncclGroupEnd") &&
           find(Broadcast, "ncclBroadcast") && find(GetErrorString, "ncclGetErrorString");
  }
};

class NcclExchange : public OrderedExchange {
 public:
  NcclExchange(std::vector<Rank> ranks, const Nccl& nccl, std::vector<Nccl::Comm> comms)
      : OrderedExchange(std::move(ranks)), nccl_(nccl), comms_(std::move(comms)) {}
  ~NcclExchange() override {
    for (const Nccl::Comm comm : comms_) nccl_.CommDestroy(comm);
  }

  void Share(std::span<std::byte* const> bases, std::span<const Piece> pieces) override {
    CheckNccl(nccl_.GroupStart());
    for (const Piece& piece : pieces) {
      for (size_t r = 0; r < ranks_.size(); ++r) {
        std::byte* const at = bases[r] + piece.offset;
        CheckNccl(
            nccl_.Broadcast(at, at, piece.bytes, Nccl::kUint8, piece.owner, comms_[r], ranks_[r].stream));
      }
    }
    CheckNccl(nccl_.GroupEnd());
    UseDevice(ranks_[0].device);
  }

  std::string name() const override { return "NCCL"; }

 private:
  void CheckNccl(int error) const {
    if (error == 0) return;
    std::fprintf(stderr, "cuda: NCCL: %s; its ranks cannot go on, so this process ends\n",
                 nccl_.GetErrorString(error));
    std::abort();
  }

  const Nccl nccl_;
  const std::vector<Nccl::Comm> comms_;  // by rank
};

}  // namespace

std::unique_ptr<Exchange> NewPeerExchange(std::vector<Rank> ranks) {
  return std::make_unique<PeerExchange>(std::move(ranks));
}

std::unique_ptr<Exchange> NewNcclExchange(std::vector<Rank> ranks, const char* library) {
  void* const opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);  // never closed
  Nccl nccl;
  if (opened == nullptr || !nccl.Find(opened)) return nullptr;
  std::vector<Nccl::Comm> comms(ranks.size());
  std::vector<int> devices;
  for (const Rank& rank : ranks) devices.push_back(rank.device);
  if (nccl.CommInitAll(comms.data(), static_cast<int>(devices.size()), devices.data()) != 0) return nullptr;
  UseDevice(ranks[0].device);
  return std::make_unique<NcclExchange>(std::move(ranks), nccl, std::move(comms));
}

}  // namespace clamor::kernels::cuda
