#include "tests/simt/streams.h"

#include <algorithm>
#include <utility>

#include "tests/simt/report.h"
#include "tests/simt/schedule.h"

namespace clamor::simt {
namespace {

struct Queued {
  OperationId id;
  std::function<void(OperationId)> run;
  std::vector<OperationId> after;
};

struct Device {
  std::vector<Queued> queue;  // in the order of asking
  Clock host;                 // what the host knows to be done
  std::vector<Capture*> captures;
  uint32_t seed = 0;
  uint32_t choices = 0;
  bool broken = false;
};
Device& device() {
  static Device* const device = new Device;
  return *device;
}

bool Ready(const Queued& q) {
  return std::all_of(q.after.begin(), q.after.end(), [](OperationId id) { return GetOperation(id).done; });
}

// One of those that may run.
void RunOne() {
  Device& d = device();
  std::vector<size_t> ready;
  for (size_t i = 0; i < d.queue.size(); ++i) {
    if (Ready(d.queue[i])) ready.push_back(i);
  }
  std::mt19937 random = RandomFor(0x5eed0000u + d.choices++);
  Shuffle(ready, random);
  const Queued q = std::move(d.queue[ready.front()]);
  d.queue.erase(d.queue.begin() + ready.front());
  if (q.run != nullptr) q.run(q.id);
  GetOperation(q.id).done = true;
}

void HostLearns(const Clock& seen) {
  device().host.Join(seen);
  ForgetUses(device().host);
}

}  // namespace

void SetSeed(uint32_t seed) { device().seed = seed; }
void BreakDevice() { device().broken = true; }
uint32_t Seed() { return device().seed; }

OperationId Enqueue(int lane, const Work& work, const std::vector<OperationId>& after) {
  Operation operation = work.operation;
  operation.lane = lane;
  operation.done = false;
  operation.seen = device().host;
  Queued queued = {.id = 0, .run = work.run, .after = after};
  if (const OperationId before = LastOnLane(lane); before != 0) queued.after.push_back(before);
  for (const OperationId id : after) operation.seen.Join(GetOperation(id).seen);
  queued.id = AddOperation(std::move(operation));
  if (work.pinned) {
    Buffer& buffer = *work.pinned->buffer;
    buffer.uses.push_back({queued.id, work.pinned->writes});
    ForgetUses(device().host);  // closes the buffer to the host
  }
  device().queue.push_back(std::move(queued));
  return LastOperation();
}

void Submit(CUstream_st* stream, Work work) {
  if (stream->capture == nullptr) {
    Enqueue(stream->lane, work, {});
    return;
  }
  Graph& graph = stream->capture->graph;
  graph.nodes.push_back({std::make_shared<const Work>(std::move(work)), stream->branch, stream->after});
  stream->after = {static_cast<int>(graph.nodes.size()) - 1};
}

void WaitFor(OperationId id) {
  if (id == 0) return;
  DeviceAtWork at_work;
  while (!GetOperation(id).done) RunOne();
  HostLearns(GetOperation(id).seen);
}

void WaitForAll() {
  DeviceAtWork at_work;
  while (!device().queue.empty()) RunOne();
  HostLearns(AllOperations());
}

bool HostKnows(OperationId id) {
  if (id == 0) return true;
  const Operation& op = GetOperation(id);
  return device().host.at(op.lane) >= op.seen.at(op.lane);
}

void CheckStream(const CUstream_st* stream, const char* call, const void* return_address) {
  if (stream == nullptr) {
    Fail(std::string(call) + " at " + PlaceOf(return_address) +
         " uses the legacy default stream, which waits for all others; give it a stream");
  }
}

void CheckNotCapturing(const CUstream_st* stream, const char* call, const void* return_address) {
  const Capture* capture = stream != nullptr ? stream->capture.get()
                           : AnyCapture()    ? device().captures.front()
                                             : nullptr;
  if (capture == nullptr) return;
  Fail(std::string(call) + " at " + PlaceOf(return_address) + " inside the capture of a graph, begun at " +
       PlaceOf(capture->begun_at));
}

bool AnyCapture() { return !device().captures.empty(); }

}  // namespace clamor::simt

using namespace clamor::simt;

namespace {

// Has `stream` take part in the capture, as a further branch.
void JoinCapture(CUstream_st* stream, const std::shared_ptr<Capture>& capture) {
  stream->capture = capture;
  stream->branch = static_cast<int>(capture->streams.size());
  stream->after.clear();
  capture->streams.push_back(stream);
}

void AddTo(std::vector<int>& nodes, const std::vector<int>& more) {
  nodes.insert(nodes.end(), more.begin(), more.end());
}

}  // namespace

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
  *stream = new CUstream_st{NewLane()};
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  CheckNotCapturing(stream, "cudaStreamDestroy", __builtin_return_address(0));
  WaitFor(LastOnLane(stream->lane));
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  CheckStream(stream, "cudaStreamSynchronize", __builtin_return_address(0));
  CheckNotCapturing(stream, "cudaStreamSynchronize", __builtin_return_address(0));
  WaitFor(LastOnLane(stream->lane));
  return device().broken ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  CheckNotCapturing(nullptr, "cudaDeviceSynchronize", __builtin_return_address(0));
  WaitForAll();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (flags != cudaEventDisableTiming) return cudaErrorInvalidValue;
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  CheckStream(stream, "cudaEventRecord", __builtin_return_address(0));
  event->capture = stream->capture;
  event->after = stream->after;
  if (stream->capture != nullptr) return cudaSuccess;
  Operation mark = {.what = "cudaEventRecord", .issued_at = __builtin_return_address(0)};
  event->operation = Enqueue(stream->lane, {.operation = mark, .run = nullptr}, {});
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const void* const from = __builtin_return_address(0);
  CheckStream(stream, "cudaStreamWaitEvent", from);
  if (event->capture != nullptr) {
    if (stream->capture == nullptr) JoinCapture(stream, event->capture);
    AddTo(stream->after, event->after);
    return cudaSuccess;
  }
  if (event->operation == 0) {
    Fail("cudaStreamWaitEvent at " + PlaceOf(from) +
         " waits for an event that was never recorded: it waits for "
         "nothing");
  }
  CheckNotCapturing(stream, "cudaStreamWaitEvent for an event from outside", from);
  Operation wait = {.what = "cudaStreamWaitEvent", .issued_at = from};
  Enqueue(stream->lane, {.operation = wait, .run = nullptr}, {event->operation});
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture != nullptr) {
    Fail("cudaEventSynchronize at " + PlaceOf(__builtin_return_address(0)) +
         " waits for an event that was recorded in the capture of a graph");
  }
  WaitFor(event->operation);
  return device().broken ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->operation != 0 && !GetOperation(event->operation).done) {
    // A caller that asks again and again gets its answer.
    DeviceAtWork at_work;
    RunOne();
    return cudaErrorNotReady;
  }
  WaitFor(event->operation);
  return device().broken ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const void* const from = __builtin_return_address(0);
  CheckStream(stream, "cudaStreamBeginCapture", from);
  CheckNotCapturing(stream, "cudaStreamBeginCapture", from);
  auto capture = std::make_shared<Capture>();
  capture->origin = stream;
  capture->begun_at = from;
  JoinCapture(stream, capture);
  device().captures.push_back(capture.get());
  return cudaSuccess;
}

struct CUgraph_st {
  Graph graph;
};
struct CUgraphExec_st {
  Graph graph;
};

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const void* const from = __builtin_return_address(0);
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr || capture->origin != stream) {
    Fail("cudaStreamEndCapture at " + PlaceOf(from) + " on a stream that began no capture");
  }
  const Graph& g = capture->graph;
  // What the last node of the origin comes after; all branches must be among it.
  std::vector<bool> joined(g.nodes.size());
  std::vector<int> rest = stream->after;
  while (!rest.empty()) {
    const int node = rest.back();
    rest.pop_back();
    if (!joined[node]) AddTo(rest, g.nodes[node].after);
    joined[node] = true;
  }
  for (size_t i = 0; i < joined.size(); ++i) {
    if (joined[i]) continue;
    const Operation& op = g.nodes[i].work->operation;
    Fail("cudaStreamEndCapture at " + PlaceOf(from) + ": nothing joined " +
         (op.kernel != nullptr ? NameOf(op.kernel) : op.what) + " of " + PlaceOf(op.issued_at) +
         " to the stream that began the capture");
  }
  for (CUstream_st* member : capture->streams) {
    member->capture = nullptr;
    member->after.clear();
  }
  std::erase(device().captures, capture.get());
  *graph = new CUgraph_st{g};
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  CheckNotCapturing(nullptr, "cudaGraphInstantiate", __builtin_return_address(0));
  *exec = new CUgraphExec_st{graph->graph};
  return cudaSuccess;
}

// Branches other than the first run on lanes of their own, new ones for each replay.
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const void* const from = __builtin_return_address(0);
  CheckStream(stream, "cudaGraphLaunch", from);
  CheckNotCapturing(stream, "cudaGraphLaunch", from);
  const OperationId before = LastOnLane(stream->lane);
  std::vector<int> lanes = {stream->lane};
  std::vector<OperationId> ids;
  for (const Graph::Node& node : exec->graph.nodes) {
    while (static_cast<int>(lanes.size()) <= node.branch) lanes.push_back(NewLane());
    std::vector<OperationId> after;
    for (const int earlier : node.after) after.push_back(ids[earlier]);
    if (node.after.empty() && before != 0) after.push_back(before);
    ids.push_back(Enqueue(lanes[node.branch], *node.work, after));
  }
  if (lanes.size() > 1) {  // branches end where the origin's last node joined them, or here
    Operation join = {.what = "cudaGraphLaunch", .issued_at = from};
    Enqueue(stream->lane, {.operation = join, .run = nullptr}, ids);
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  WaitForAll();
  delete exec;
  return cudaSuccess;
}
