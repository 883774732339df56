// What the host asks for is queued and runs when the host waits: everything that streams and events leave
// open happens in an order that the seed decides.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "cuda_runtime.h"
#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/operations.h"

namespace clamor::simt {

// Something to do on a stream, once or, as a node of a graph, many times.
struct Work {
  Operation operation;
  std::function<void(OperationId)> run;
  struct PinnedUse {
    Buffer* buffer;
    bool writes;
  };
  std::optional<PinnedUse> pinned = {};
};

struct Graph {
  struct Node {
    std::shared_ptr<const Work> work;
    int branch;              // 0: the stream whose capture it is
    std::vector<int> after;  // nodes
  };
  std::vector<Node> nodes;
};

// A capture under way, shared by the streams that take part.
struct Capture {
  Graph graph;
  CUstream_st* origin;
  const void* begun_at;
  std::vector<CUstream_st*> streams;  // by branch
};

}  // namespace clamor::simt

struct CUstream_st {
  int lane;
  std::shared_ptr<clamor::simt::Capture> capture;
  int branch = 0;
  std::vector<int> after;  // nodes that the next one captured comes after
};

struct CUevent_st {
  clamor::simt::OperationId operation = 0;
  std::shared_ptr<clamor::simt::Capture> capture;  // in which it was recorded
  std::vector<int> after;
};

namespace clamor::simt {

// Queues the work on the stream, or adds it to the graph that the stream captures.
void Submit(CUstream_st* stream, Work work);

// Queues it on a lane, behind `after` as well as what is on the lane.
OperationId Enqueue(int lane, const Work& work, const std::vector<OperationId>& after);

// Runs until the operation is done, and whatever else comes up; the host then knows it.
void WaitFor(OperationId id);
void WaitForAll();
bool HostKnows(OperationId id);

// Dies where CUDA has an error: `call` on the stream while it captures, or on no stream.
void CheckStream(const CUstream_st* stream, const char* call, const void* return_address);
void CheckNotCapturing(const CUstream_st* stream, const char* call, const void* return_address);
bool AnyCapture();

}  // namespace clamor::simt
