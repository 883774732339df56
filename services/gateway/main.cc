#include <iostream>
#include <string>
#include <vector>

#include "services/flags.h"
#include "services/gateway/gateway.h"
#include "services/log.h"

int main(int argc, char** argv) {
  clamor::BlockTerminationSignals();
  clamor::ServerOptions server_options{
      .name = "clamor-gateway", .listen = "127.0.0.1:7700", .http = "127.0.0.1:7701"};
  std::vector<std::string> workers;
  clamor::GatewayLimits limits;
  double max_request_seconds = absl::ToDoubleSeconds(limits.max_request_time);
  CLI::App app("Answers clients: checks, routes and relays generations to workers.", server_options.name);
  clamor::AddServerFlags(app, server_options);
  app.add_option("--workers", workers, "Workers, as HOST:PORT,HOST:PORT,...")->required()->delimiter(',');
  app.add_option("--max-request-seconds", max_request_seconds, "Longest that a generation may take")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e6));
  app.add_option("--max-pending-bytes", limits.max_pending_bytes, "A client that lets more wait is cut off")
      ->capture_default_str();
  if (auto exit_status = clamor::ParseFlags(app, argc, argv)) return *exit_status;
  limits.max_request_time = absl::Seconds(max_request_seconds);
  clamor::StartLogging(server_options.name);
  auto gateway = clamor::Gateway::Start(server_options, workers, limits);
  if (!gateway.ok()) {
    std::cerr << server_options.name << ": " << gateway.status().message() << "\n";
    return 1;
  }
  (*gateway)->Run();
  return 0;
}
