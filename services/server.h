// What the three servers share: a gRPC port with TLS, health, reflection and limits, an HTTP port with
// metrics, and an orderly end. A main is then: BlockTerminationSignals, flags, parts, Server::Start, Run.
//
// Threads: SetReady and Stop may be called from any thread.
// Tested by tests/services/server_test.cc.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpc/grpc.h"
#include "grpcpp/server.h"
#include "prometheus/registry.h"
#include "services/metrics_http.h"
#include "services/security/tls.h"
#include "services/tracing/tracer.h"

namespace clamor {

struct ServerOptions {
  std::string name;       // of the binary
  std::string listen;     // HOST:PORT of gRPC
  std::string http;       // HOST:PORT of metrics
  std::string health;     // HOST:PORT of plaintext gRPC health, for probes; empty: none
  std::string port_file;  // gets the bound addresses; empty: none
  std::string api;        // HOST:PORT of another port that is bound already, for that file
  TlsOptions tls;
  TraceOptions tracing;       // of the tracer that the services share
  double grace_seconds = 30;  // for running calls after SIGTERM
  // Whether a drain begins with HTTP/2's GOAWAY and the end of the listening port: for clients who have other
  // servers to go to. Who keeps its connection would be refused on it until the grace time ends.
  bool sends_clients_away = false;
  int max_concurrent_streams = 1024;  // per connection
  int max_message_bytes = 16 << 20;   // received
};

// One gRPC service. `name` is its full name, for health; `service` must outlive the server.
struct ServicePart {
  std::string name;
  grpc::Service* service;
};

// Keeps SIGTERM and SIGINT for Server::Run. Call first in main, before any thread exists: threads inherit it.
void BlockTerminationSignals();

class Server {
 public:
  // Binds the ports, writes the port file and answers from now on, not ready yet. UNAVAILABLE names the flag
  // and the address that cannot be bound; other codes name the port file or a file of TLS.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       std::span<const ServicePart> services,
                                                       prometheus::Registry* registry,
                                                       std::function<void()> before_scrape = nullptr);
  ~Server();

  // What /readyz and grpc.health.v1 (for "" and every service) say. Ignored once draining.
  void SetReady(bool ready);

  // Serves until SIGTERM, SIGINT or Stop; then: not ready, `on_drain` (from which the services refuse new
  // work), running calls get the grace time, the rest is cancelled. A second signal ends the grace time.
  // Health watches and reflection do not hold it up.
  void Run(const std::function<void()>& on_drain);
  void Stop();

  // While it lives it counts as a running call, for what does not come by gRPC. Not longer than the server.
  std::shared_ptr<void> Hold();

  // Cancels what runs, waits until it is gone and closes both ports: after it no service and no hook is
  // called again. Run ends with it, the destructor begins with it.
  void Close();

  const std::string& grpc_address() const { return grpc_address_; }  // HOST:PORT as bound
  const std::string& http_address() const { return http_address_; }
  const std::string& health_address() const { return health_address_; }  // empty: there is none

 private:
  class CallCounter;
  explicit Server(const ServerOptions& options);
  absl::Status StartHealthPort();
  void SendClientsAway();
  template <class Change>
  void ForEachHealth(Change change);        // of both ports
  bool PollSignal(double timeout_seconds);  // true if a signal came; false after a wake-up or the timeout

  const ServerOptions options_;
  std::string grpc_address_, http_address_, health_address_;
  int signal_fd_, wake_fd_;
  std::vector<std::string> service_names_;
  std::unique_ptr<CallCounter> calls_;
  std::unique_ptr<grpc::Server> grpc_, health_;
  grpc_completion_queue* away_ =
      nullptr;  // where gRPC tells, once clients were sent away, that all calls have ended
  std::unique_ptr<MetricsHttp> http_;
  std::atomic<bool> ready_ = false;
  std::atomic<bool> draining_ = false;
  std::atomic<bool> stop_ = false;
};

}  // namespace clamor
