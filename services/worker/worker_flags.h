// The command line of clamor-worker.
#pragma once

#include <optional>
#include <string>

#include "services/server.h"
#include "services/worker/worker.h"

namespace clamor {

struct WorkerFlags {
  ServerOptions server{.name = "clamor-worker", .listen = "127.0.0.1:7710", .http = "127.0.0.1:7711"};
  WorkerOptions worker;
};

// As ParseFlags of services/flags.h.
std::optional<int> ParseWorkerFlags(int argc, char** argv, WorkerFlags& flags);

}  // namespace clamor
