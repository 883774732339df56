#include <iostream>
#include <string>
#include <vector>

#include "services/edge/edge_flags.h"
#include "services/flags.h"
#include "services/gateway/gateway.h"
#include "services/log.h"

int main(int argc, char** argv) {
  clamor::BlockTerminationSignals();
  clamor::ServerOptions server_options{.name = "clamor-gateway",
                                       .listen = "127.0.0.1:7700",
                                       .http = "127.0.0.1:7701",
                                       .sends_clients_away = true};
  std::vector<std::string> workers;
  clamor::GatewayLimits limits;
  limits.api.listen = "127.0.0.1:7702";
  double max_request_seconds = absl::ToDoubleSeconds(limits.max_request_time);
  double failover_wait = absl::ToDoubleSeconds(limits.fleet.failover_wait);
  double hang_after = absl::ToDoubleSeconds(limits.fleet.hang_after);
  CLI::App app("Answers clients: checks, routes and relays generations to workers.", server_options.name);
  clamor::AddServerFlags(app, server_options);
  int32_t max_waiting = limits.admission.queue[static_cast<size_t>(clamor::Rank::kNormal)];
  double promote_after = absl::ToDoubleSeconds(limits.admission.promote_after);
  app.add_option("--workers", workers,
                 "Workers, as HOST:PORT,... or dns:///NAME:PORT for all addresses of a name")
      ->delimiter(',');
  app.add_option("--workers-file", limits.discovery.file,
                 "File of such entries, one a line; read again when it changes");
  app.add_option("--max-waiting", max_waiting,
                 "Requests of normal, and as many of high priority, that wait at the gate; of low a quarter")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20))
      ->group("Admission");
  app.add_option("--promote-after", promote_after,
                 "Seconds of waiting after which a request counts as one of the next priority")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e6))
      ->group("Admission");
  app.add_option("--max-request-seconds", max_request_seconds, "Longest that a generation may take")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e6));
  app.add_option("--max-pending-bytes", limits.max_pending_bytes, "A client that lets more wait is cut off")
      ->capture_default_str();
  double cadence = 0;
  app.add_option(
         "--pad-chunks", limits.evenness.pad_bytes,
         "Messages of streams are filled up to multiples of so many bytes, so that their sizes do not "
         "tell how many tokens they bring; 0: they are not")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 14))
      ->group("Security");
  app.add_option("--cadence", cadence,
                 "Seconds between two messages of a stream, whatever the model does; needs --pad-chunks; "
                 "0: they come when they come")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0))
      ->group("Security");
  app.add_option("--failover-wait", failover_wait,
                 "Seconds that a stream whose worker was lost waits for one that can go on with it")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("--hang-after", hang_after,
                 "Seconds without an answer or a step of its engine after which a worker is taken for hung")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app.add_option("--api-keys", limits.api_keys,
                 "File of callers and tenants (services/security/key_file.h); read again when it changes")
      ->group("Security");
  app.add_option("--audit-log", limits.audit_log, "File for what auditors ask about; the log if not given")
      ->group("Security");
  app.add_option("--trace-sample", server_options.tracing.sample,
                 "Share of the requests that is recorded where a caller has not decided it")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0))
      ->group("Tracing");
  clamor::edge::AddEdgeFlags(app, limits.api);
  clamor::StoreOptions& store = limits.sessions.store;
  double session_ttl = absl::ToDoubleSeconds(limits.sessions.session_ttl);
  double resume_ttl = absl::ToDoubleSeconds(limits.sessions.stream_ttl);
  app.add_option(
      "--sessions", store.location,
      "Where sessions and resumable streams are kept: a folder, redis://HOST:PORT/DB or rediss://...");
  app.add_option("--sessions-password-file", store.password_file, "File with the password of Redis");
  app.add_option("--sessions-ca", store.ca_file, "File of the certificates that rediss:// trusts");
  app.add_option("--max-sessions", store.max_sessions, "Sessions that a tenant may have")
      ->capture_default_str()
      ->check(CLI::Range(1, 100'000'000));
  app.add_option("--session-ttl", session_ttl, "Seconds without a new turn after which a session goes")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 3e8));
  app.add_option("--resume-ttl", resume_ttl, "Seconds for which a stream may be resumed; 0: never")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3e8));
  if (auto exit_status = clamor::ParseFlags(app, argc, argv)) return *exit_status;
  if (workers.empty() && limits.discovery.file.empty()) {
    std::cerr << server_options.name << ": --workers or --workers-file is required\n";
    return 2;
  }
  limits.admission.queue = {(max_waiting + 3) / 4, max_waiting, max_waiting};
  limits.admission.promote_after = absl::Seconds(promote_after);
  limits.max_request_time = absl::Seconds(max_request_seconds);
  limits.evenness.cadence = absl::Seconds(cadence);
  limits.fleet.tls = server_options.tls;
  limits.sessions.session_ttl = absl::Seconds(session_ttl);
  limits.sessions.stream_ttl = absl::Seconds(resume_ttl);
  limits.fleet.failover_wait = absl::Seconds(failover_wait);
  limits.fleet.hang_after = absl::Seconds(hang_after);
  clamor::StartLogging(server_options.name);
  auto gateway = clamor::Gateway::Start(server_options, workers, limits);
  if (!gateway.ok()) {
    std::cerr << server_options.name << ": " << gateway.status().message() << "\n";
    return 1;
  }
  (*gateway)->Run();
  return 0;
}
