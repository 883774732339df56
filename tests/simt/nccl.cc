// A stand-in for NCCL, as far as kernels/cuda uses it: broadcasts in groups, by copies. Ranks may share a
// device. What the real one refuses or waits for ever on ends the process: a broadcast that not every rank
// takes part in, sizes or roots that differ, calls outside a group.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

struct ncclComm {
  int rank, ranks;
};

namespace {

struct Part {
  int rank;
  std::byte* at;
  cudaStream_t stream;
};
struct Broadcast {
  size_t bytes;
  int root, ranks;
  std::vector<Part> parts;
};
std::vector<Broadcast> group;
std::map<int, size_t> calls;  // in the group, by rank
bool open_group = false;

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "nccl: %s\n", what);
  std::exit(86);
}

// Each stream behind all others.
void Meet(const Broadcast& b) {
  std::vector<cudaEvent_t> events(b.parts.size());
  for (size_t i = 0; i < b.parts.size(); ++i) {
    cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming);
    cudaEventRecord(events[i], b.parts[i].stream);
  }
  for (const Part& part : b.parts) {
    for (size_t i = 0; i < b.parts.size(); ++i) {
      if (b.parts[i].stream != part.stream) cudaStreamWaitEvent(part.stream, events[i]);
    }
  }
  for (const cudaEvent_t event : events) cudaEventDestroy(event);
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(int) { return "invalid argument"; }

int ncclCommInitAll(ncclComm** comms, int ranks, const int*) {
  for (int r = 0; r < ranks; ++r) comms[r] = new ncclComm{r, ranks};
  return 0;
}
int ncclCommDestroy(ncclComm* comm) {
  delete comm;
  return 0;
}

int ncclGroupStart() {
  Require(!open_group, "a group inside a group");
  open_group = true;
  return 0;
}

int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, ncclComm* comm,
                  cudaStream_t stream) {
  Require(open_group, "a broadcast of one thread's ranks outside a group waits for ever");
  Require(type == 1 && from == to, "only bytes in place are known here");
  const size_t index = calls[comm->rank]++;
  if (index == group.size()) group.push_back({count, root, comm->ranks, {}});
  Broadcast& b = group[index];
  Require(b.bytes == count && b.root == root, "ranks differ in the size or root of a broadcast");
  b.parts.push_back({comm->rank, static_cast<std::byte*>(to), stream});
  return 0;
}

int ncclGroupEnd() {
  Require(open_group, "the end of no group");
  for (const Broadcast& b : group) {
    Require(static_cast<int>(b.parts.size()) == b.ranks, "not every rank takes part in a broadcast");
    Meet(b);
    for (const Part& part : b.parts) {
      if (part.rank == b.root) continue;
      cudaMemcpyAsync(part.at, b.parts[b.root].at, b.bytes, cudaMemcpyDeviceToDevice, part.stream);
    }
    Meet(b);
  }
  group.clear();
  calls.clear();
  open_group = false;
  return 0;
}

}  // extern "C"
