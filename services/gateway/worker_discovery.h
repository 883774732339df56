// Finds the workers of a gateway and follows them as they come and go:
//
//     HOST:PORT              one worker
//     dns:///NAME:PORT       every address that NAME has, such as a headless Service's; asked every few
//     seconds
//     --workers-file FILE    such entries, one a line; read again when it changes
//
// A name that cannot be resolved for a while keeps the addresses that it had.
// Tested by tests/services/gateway/worker_discovery_test.cc.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/gateway/fleet.h"
#include "services/watched_file.h"

namespace clamor {

struct WorkerDiscoveryOptions {
  std::string file;  // empty: none
  absl::Duration every = absl::Seconds(2);
  // The addresses of a name, HOST:PORT; empty: getaddrinfo.
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string& name, const std::string& port)>
      resolve = nullptr;
};

// One entry; INVALID_ARGUMENT if it is none.
struct WorkerEntry {
  bool is_name = false;
  std::string host, port;
};
absl::StatusOr<WorkerEntry> ParseWorkerEntry(absl::string_view text);

class WorkerDiscovery {
 public:
  // Resolves once, then follows. `fleet` must outlive this; nobody else may call its SetWorkers. An error
  // names the flag and the entry.
  static absl::StatusOr<std::unique_ptr<WorkerDiscovery>> Start(const std::vector<std::string>& entries,
                                                                const WorkerDiscoveryOptions& options,
                                                                Fleet* fleet);
  ~WorkerDiscovery();

 private:
  WorkerDiscovery(const WorkerDiscoveryOptions& options, Fleet* fleet) : options_(options), fleet_(fleet) {}
  absl::Status Take(absl::string_view file);
  void Resolve();
  void Run();

  const WorkerDiscoveryOptions options_;
  Fleet* const fleet_;
  std::vector<WorkerEntry> listed_;                             // of the command line
  std::map<std::string, std::vector<WorkerAddress>> resolved_;  // by name and port; Resolve's own

  absl::Mutex mu_;
  std::vector<WorkerEntry> of_file_ ABSL_GUARDED_BY(mu_);
  bool changed_ ABSL_GUARDED_BY(mu_) = false, stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<WatchedFile> file_;
  std::thread thread_;
};

}  // namespace clamor
