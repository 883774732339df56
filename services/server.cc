#include "services/server.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/server_interceptor.h"
#include "kernels/status_macros.h"
#include "services/faults/faults.h"
#include "services/log.h"

namespace clamor {
namespace {

sigset_t TerminationSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

std::string HostOf(const std::string& address) {
  std::string host = address.substr(0, std::min(address.rfind(':'), address.size()));
  return host.empty() ? "0.0.0.0" : host;
}

// ":PORT" is all addresses.
std::string WithHost(const std::string& address) {
  return absl::StartsWith(address, ":") ? absl::StrCat(HostOf(address), address) : address;
}

absl::Status WritePortFile(const std::string& path, const std::string& grpc_address,
                           const std::string& http_address, const std::string& health_address,
                           const std::string& api_address) {
  const std::string partial = absl::StrCat(path, ".partial");
  std::ofstream out(partial, std::ios::trunc);
  out << "grpc=" << grpc_address << "\nhttp=" << http_address << "\n";
  if (!health_address.empty()) out << "health=" << health_address << "\n";
  if (!api_address.empty()) out << "api=" << api_address << "\n";
  out.close();
  if (!out || std::rename(partial.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("--port-file: cannot write \"", path, "\""));
  }
  return absl::OkStatus();
}

}  // namespace

void BlockTerminationSignals() {
  sigset_t signals = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

// Counts running calls of our own services, and writes to `wake_fd` whenever none is left.
class Server::CallCounter {
 public:
  explicit CallCounter(int wake_fd) : wake_fd_(wake_fd) {}
  int running() const { return running_; }
  void Begin() { ++running_; }
  void End() {
    if (--running_ == 0) eventfd_write(wake_fd_, 1);
  }

  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> Factories() {
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> factories;
    factories.push_back(std::make_unique<Factory>(this));
    return factories;
  }

 private:
  // Lives as long as one call.
  class Ticket final : public grpc::experimental::Interceptor {
   public:
    explicit Ticket(CallCounter* counter) : counter_(counter) { counter_->Begin(); }
    ~Ticket() override { counter_->End(); }
    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override { methods->Proceed(); }

   private:
    CallCounter* const counter_;
  };
  class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
   public:
    explicit Factory(CallCounter* counter) : counter_(counter) {}
    grpc::experimental::Interceptor* CreateServerInterceptor(
        grpc::experimental::ServerRpcInfo* info) override {
      return absl::StartsWith(info->method(), "/clamor.") ? new Ticket(counter_) : nullptr;
    }

   private:
    CallCounter* const counter_;
  };

  const int wake_fd_;
  std::atomic<int> running_ = 0;
};

Server::Server(const ServerOptions& options) : options_(options) {
  sigset_t signals = TerminationSignals();
  signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  calls_ = std::make_unique<CallCounter>(wake_fd_);
}

Server::~Server() {
  Close();
  close(signal_fd_);
  close(wake_fd_);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      std::span<const ServicePart> services,
                                                      prometheus::Registry* registry,
                                                      std::function<void()> before_scrape) {
  CLAMOR_RETURN_IF_ERROR(CheckTls(options.tls));
#ifdef NDEBUG
  // Abseil as distributions build it looks for cycles at every mutex, gRPC's too, under one lock of the
  // process: some per cent of what it costs to relay a token.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  std::unique_ptr<Server> server(new Server(options));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int grpc_port = 0;
  builder.AddListeningPort(WithHost(options.listen), ServerCredentialsOf(options.tls), &grpc_port);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                             0);  // a second server on this port is a mistake, not a replica
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  for (const ServicePart& part : services) {
    builder.RegisterService(part.service);
    server->service_names_.push_back(part.name);
  }
  faults::Interceptors interceptors = server->calls_->Factories();
  faults::AddTo(builder, interceptors);
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  server->grpc_ = builder.BuildAndStart();
  if (server->grpc_ == nullptr || grpc_port == 0) {
    return absl::UnavailableError(absl::StrCat("--listen: cannot listen on \"", options.listen, "\""));
  }
  CLAMOR_RETURN_IF_ERROR(server->StartHealthPort());
  for (const std::string& name : server->service_names_) {
    server->ForEachHealth([&name](auto* health) { health->SetServingStatus(name, false); });
  }
  server->SetReady(false);
  CLAMOR_ASSIGN_OR_RETURN(
      server->http_,
      MetricsHttp::Start(options.http, {.registry = registry,
                                        .before_scrape = std::move(before_scrape),
                                        .ready = [s = server.get()] { return s->ready_ && !s->draining_; }}));
  server->grpc_address_ = absl::StrCat(HostOf(options.listen), ":", grpc_port);
  server->http_address_ = absl::StrCat(HostOf(options.http), ":", server->http_->port());
  if (!options.port_file.empty()) {
    CLAMOR_RETURN_IF_ERROR(WritePortFile(options.port_file, server->grpc_address_, server->http_address_,
                                         server->health_address_, options.api));
  }
  spdlog::info("event=listening grpc={} http={} tls={} client_certificates={}", server->grpc_address_,
               server->http_address_, !options.tls.certificate.empty(), !options.tls.client_ca.empty());
  return server;
}

// A server of its own, with no service but health (and what every server has, reflection).
absl::Status Server::StartHealthPort() {
  if (options_.health.empty()) return absl::OkStatus();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(WithHost(options_.health), grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(4096);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 64);
  health_ = builder.BuildAndStart();
  if (health_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("--health: cannot listen on \"", options_.health, "\""));
  }
  health_address_ = absl::StrCat(HostOf(options_.health), ":", port);
  return absl::OkStatus();
}

template <class Change>
void Server::ForEachHealth(Change change) {
  change(grpc_->GetHealthCheckService());
  if (health_ != nullptr) change(health_->GetHealthCheckService());
}

void Server::SetReady(bool ready) {
  if (draining_) return;
  ready_ = ready;
  ForEachHealth([ready](auto* health) { health->SetServingStatus(ready); });
}

// What Shutdown with a deadline begins with: but that one cannot be cut short, and waits for health watches.
void Server::SendClientsAway() {
  away_ = grpc_completion_queue_create_for_next(nullptr);
  grpc_server_shutdown_and_notify(grpc_->c_server(), away_, nullptr);
}

void Server::Close() {
  http_.reset();
  if (grpc_ != nullptr) grpc_->Shutdown(std::chrono::system_clock::now());
  if (grpc_completion_queue* away = std::exchange(away_, nullptr)) {
    grpc_completion_queue_next(away, gpr_inf_future(GPR_CLOCK_REALTIME), nullptr);
    grpc_completion_queue_shutdown(away);
    grpc_completion_queue_destroy(away);
  }
  if (health_ != nullptr) health_->Shutdown(std::chrono::system_clock::now());
}

std::shared_ptr<void> Server::Hold() {
  calls_->Begin();
  return std::shared_ptr<void>(nullptr, [calls = calls_.get()](void*) { calls->End(); });
}

void Server::Stop() {
  stop_ = true;
  eventfd_write(wake_fd_, 1);
}

bool Server::PollSignal(double timeout_seconds) {
  pollfd fds[] = {{.fd = signal_fd_, .events = POLLIN, .revents = 0},
                  {.fd = wake_fd_, .events = POLLIN, .revents = 0}};
  poll(fds, 2, timeout_seconds < 0 ? -1 : static_cast<int>(timeout_seconds * 1000) + 1);
  eventfd_t wakes;
  eventfd_read(wake_fd_, &wakes);
  signalfd_siginfo info;
  return read(signal_fd_, &info, sizeof(info)) == sizeof(info);
}

void Server::Run(const std::function<void()>& on_drain) {
  while (!stop_ && !PollSignal(-1)) {
  }
  draining_ = true;
  // NOT_SERVING from here on, whatever SetReady says.
  ForEachHealth([](auto* health) { health->Shutdown(); });
  on_drain();
  if (options_.sends_clients_away) SendClientsAway();
  const absl::Time deadline = absl::Now() + absl::Seconds(options_.grace_seconds);
  spdlog::info("event=draining calls={} grace_seconds={}", calls_->running(), options_.grace_seconds);
  while (calls_->running() > 0 && absl::Now() < deadline) {
    if (PollSignal(absl::ToDoubleSeconds(deadline - absl::Now()))) break;
  }
  const int cut = calls_->running();
  Close();
  spdlog::info("event=stopped calls_cut={}", cut);
}

}  // namespace clamor
