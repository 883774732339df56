#include "tests/simt/block.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <utility>

#include "cuda_runtime.h"
#include "tests/simt/report.h"
#include "tests/simt/schedule.h"
#include "tests/simt/warp.h"

namespace simt {
Builtins builtins;
}

namespace clamor::simt {
namespace {

constexpr size_t kMaxShared = 227 << 10, kDefaultShared = 48 << 10;
constexpr size_t kGap = 64;  // between shared variables, so that one's end is not another's beginning

std::map<const void*, int> shared_limits;  // by cudaFuncSetAttribute

// The block that runs. Its shared memory is filled with 0xff, NaN, for each block.
struct Block {
  const KernelLaunch* launch = nullptr;
  OperationId operation = 0;
  int size = 0, alive = 0, at_barrier = 0;
  std::deque<Thread> threads;  // grows only: stacks are kept for the next launch
  std::vector<Warp> warps;
  Thread* running = nullptr;

  struct Variable : SharedCells {
    const void* key;
  };
  std::vector<Variable> variables;
  size_t shared_used = 0;
  std::vector<std::byte> shared = std::vector<std::byte>(2 * kMaxShared);
  std::vector<Cell> cells = std::vector<Cell>(2 * kMaxShared);
};
Block& block() {
  static Block* const block = new Block;
  return *block;
}

// All threads that wait at the barrier go on, at a time after every time of the block.
void ReleaseBarrier() {
  Block& b = block();
  uint32_t time = 0;
  for (int i = 0; i < b.size; ++i) time = std::max(time, b.threads[i].actor.time);
  for (int i = 0; i < b.size; ++i) {
    Thread& t = b.threads[i];
    t.actor.time = t.actor.block_time = time + 1;
    t.state = State::kReady;
  }
  b.at_barrier = 0;
}

void ThreadMain() {
  Block& b = block();
  b.launch->call->Run();
  Thread& t = *b.running;
  for (const auto& group : t.groups) {
    if (!group.empty()) FailInKernel("ends without waiting for its asynchronous copies");
  }
  t.state = State::kDone;
  --b.alive;
  if (b.at_barrier > 0) {
    FailInKernel("ends while other threads of its block wait at " +
                 DescribePlace(std::find_if(b.threads.begin(), b.threads.end(), [](const Thread& other) {
                                 return other.state == State::kAtBarrier;
                               })->place));
  }
  CheckEndOfLane(*t.warp, t.lane);
  t.fiber.Pause();
}

[[noreturn]] void FailDeadlock() {
  Block& b = block();
  std::string what = "waits for ever";
  for (int i = 0; i < b.size; ++i) {
    Thread& t = b.threads[i];
    if (t.state == State::kDone) continue;
    b.running = &t;
    if (t.state == State::kAtBarrier) what += " at " + DescribePlace(t.place);
    if (t.state == State::kInWarpOp) what += " in " + DescribeOp(*t.warp, t.lane);
    break;
  }
  FailInKernel(what + ", which others never reach");
}

void StartBlock(uint32_t index) {
  Block& b = block();
  const dim3 grid = b.launch->grid, size = b.launch->threads;
  ::simt::builtins = {{}, {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y}, size, grid};
  b.alive = b.size;
  b.at_barrier = 0;
  b.variables.clear();
  b.shared_used = 0;
  b.warps.assign((b.size + 31) / 32, {});
  const uint32_t first = index * b.size;
  for (unsigned i = 0; i < static_cast<unsigned>(b.size); ++i) {
    Thread& t = b.threads[i];
    t.state = State::kReady;
    t.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    t.lane = static_cast<int>(i % 32);
    t.actor = {b.operation, first + i, 0, first, first + b.size, 0};
    t.groups.assign(1, {});
    t.fiber.Start(ThreadMain);
    t.warp = &b.warps[i / 32];
    t.warp->lanes |= 1u << t.lane;
    t.warp->threads[t.lane] = &t;
  }
  if (b.launch->shared_bytes > 0) ::simt::Shared(nullptr, b.launch->shared_bytes, 16);
}

void RunBlock(uint32_t index, std::mt19937& random) {
  Block& b = block();
  StartBlock(index);
  std::vector<int> order(b.size);
  std::iota(order.begin(), order.end(), 0);
  while (b.alive > 0) {
    Shuffle(order, random);
    bool any = false;
    for (const int i : order) {
      Thread& t = b.threads[i];
      if (t.state != State::kReady) continue;
      any = true;
      b.running = &t;
      ::simt::builtins.thread_index = t.index;
      t.fiber.Resume();
      b.running = nullptr;
    }
    if (!any) FailDeadlock();
  }
}

}  // namespace

void CheckLaunch(const void* kernel, dim3 grid, dim3 threads, size_t shared_bytes, const void* issued_at) {
  const size_t size = size_t{threads.x} * threads.y * threads.z;
  const auto limit = shared_limits.find(kernel);
  const size_t most = limit == shared_limits.end() ? kDefaultShared : limit->second;
  std::string wrong;
  if (size == 0 || size > 1024 || threads.z > 64)
    wrong = std::to_string(size) + " threads; 1 to 1024 are possible";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) wrong = "no blocks";
  if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) wrong = "a grid beyond 2^31 x 65535 x 65535";
  if (shared_bytes > most) {
    wrong = std::to_string(shared_bytes) + " bytes of shared memory; the limit is " + std::to_string(most);
  }
  if (!wrong.empty()) Fail(NameOf(kernel) + " is launched at " + PlaceOf(issued_at) + " with " + wrong);
}

void RunKernel(const KernelLaunch& launch, OperationId operation) {
  Block& b = block();
  b.launch = &launch;
  b.operation = operation;
  b.size = static_cast<int>(launch.threads.x * launch.threads.y * launch.threads.z);
  while (static_cast<int>(b.threads.size()) < b.size) b.threads.emplace_back();
  const uint32_t blocks = launch.grid.x * launch.grid.y * launch.grid.z;
  std::mt19937 random = RandomFor(operation);
  std::vector<uint32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  Shuffle(order, random);
  for (const uint32_t index : order) RunBlock(index, random);
  b.launch = nullptr;
}

Thread* Running() { return block().running; }

bool IsSharedAddress(const void* p) {
  const Block& b = block();
  return p >= b.shared.data() && p < b.shared.data() + b.shared.size();
}

const SharedCells* FindShared(const void* p) {
  for (const SharedCells& v : block().variables) {
    if (p >= v.data && p < v.data + v.bytes) return &v;
  }
  return nullptr;
}

bool IsArgument(const void* p) {
  const auto inside = [p](const void* object, size_t bytes) {
    return p >= object && p < static_cast<const char*>(object) + bytes;
  };
  const ::simt::Call& call = *block().launch->call;
  return inside(&::simt::builtins, sizeof(::simt::builtins)) || inside(&call, call.bytes());
}

void FailInKernel(const std::string& what) {
  const Block& b = block();
  const Operation& op = GetOperation(b.operation);
  Fail(NameOf(op.kernel) + ", " + DescribeThread(b.operation, b.running->actor.thread) + ", " + what +
       "; launched at " + PlaceOf(op.issued_at));
}

}  // namespace clamor::simt

namespace simt {
using namespace clamor::simt;

void* Shared(const void* key, size_t bytes, size_t alignment) {
  Block& b = block();
  for (const auto& v : b.variables) {
    if (v.key == key) return v.data;
  }
  const size_t unit = std::max<size_t>(alignment, 16);
  const size_t at = (b.shared_used + unit - 1) / unit * unit;
  size_t total = bytes;
  for (const auto& v : b.variables) total += v.bytes;
  const size_t most = shared_limits.count(GetOperation(b.operation).kernel) ? kMaxShared : kDefaultShared;
  if (total > most) {
    FailInKernel("needs " + std::to_string(total) + " bytes of shared memory; the limit is " +
                 std::to_string(most));
  }
  b.shared_used = at + bytes + kGap;
  std::memset(b.shared.data() + at, 0xff, bytes + kGap);
  std::fill_n(b.cells.begin() + at, bytes, Cell());
  b.variables.push_back({{b.shared.data() + at, bytes, b.cells.data() + at}, key});
  return b.shared.data() + at;
}

void* DynamicShared() {
  if (block().launch->shared_bytes == 0) FailInKernel("has no dynamic shared memory");
  return Shared(nullptr, 0, 16);
}

cudaError_t AllowShared(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kMaxShared) return cudaErrorInvalidValue;
  shared_limits[kernel] = bytes;
  return cudaSuccess;
}

void Barrier(Place place) {
  Block& b = block();
  Thread& t = *b.running;
  if (b.alive < b.size) {
    FailInKernel("reaches __syncthreads at " + DescribePlace(place) +
                 " after other threads of its block ended");
  }
  if (b.at_barrier > 0) {
    for (int i = 0; i < b.size; ++i) {
      const Thread& other = b.threads[i];
      if (other.state == State::kAtBarrier &&
          (other.place.line() != place.line() || other.place.column() != place.column())) {
        FailInKernel("reaches __syncthreads at " + DescribePlace(place) + " while others wait at that of " +
                     DescribePlace(other.place) + " (a divergent barrier)");
      }
      if (other.state == State::kAtBarrier) break;
    }
  }
  t.place = place;
  t.state = State::kAtBarrier;
  if (++b.at_barrier == b.size) {
    ReleaseBarrier();
  } else {
    t.fiber.Pause();
  }
}

int Lane() { return block().running->lane; }

}  // namespace simt
