// clamor-worker: decodes for a gateway. README.md has the life of a request.
#include <cstdio>
#include <thread>

#include "kernels/cpu_target.h"
#include "services/log.h"
#include "services/server.h"
#include "services/worker/worker.h"
#include "services/worker/worker_flags.h"
#include "services/worker/worker_metrics.h"
#include "services/worker/worker_service.h"

namespace clamor {
namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "clamor-worker: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  WorkerFlags flags;
  if (const std::optional<int> done = ParseWorkerFlags(argc, argv, flags)) return *done;
  StartLogging(flags.server.name);
  if (absl::Status target = kernels::SetCpuTargetFromEnvironment(); !target.ok()) return Fail(target);
  if (flags.worker.name.empty()) flags.worker.name = ModelName(flags.worker.model.directory);

  prometheus::Registry registry;
  WorkerMetrics metrics(registry, flags.worker.name, CLAMOR_VERSION);
  if (absl::Status tls = CheckTls(flags.server.tls); !tls.ok()) return Fail(tls);
  Tracer tracer(flags.server.tracing, flags.server.name, flags.server.tls, &registry);
  flags.worker.tracer = &tracer;
  absl::StatusOr<std::unique_ptr<Worker>> worker = absl::UnavailableError("not loaded");
  std::unique_ptr<Server> server;
  WorkerService service([&server] { server->SetReady(false); });
  const ServicePart parts[] = {{"clamor.v1.WorkerService", &service}};
  auto started = Server::Start(flags.server, parts, &registry, [&] { service.UpdateMetrics(); });
  if (!started.ok()) return Fail(started.status());
  server = *std::move(started);

  std::thread loader([&] {  // the ports answer meanwhile: alive, not ready
    worker = Worker::Load(flags.worker, &metrics);
    if (!worker.ok()) return server->Stop();
    service.Serve(worker->get());
    server->SetReady(!service.draining());
    spdlog::info("event=ready model={}", Quoted(DescribeLoad((*worker)->model())));
  });
  server->Run([&] { service.StartDraining(); });
  loader.join();
  server.reset();
  return worker.ok() ? 0 : Fail(worker.status());
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
