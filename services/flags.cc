#include "services/flags.h"

#include <cstdlib>
#include <iostream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/faults/faults.h"
#include "services/man_page.h"

namespace clamor {
namespace {

// CLI11's way to say yes is an empty string.
std::string CheckHostPort(const std::string& value) {
  const size_t colon = value.rfind(':');
  uint32_t port = 0;
  const bool valid = colon != value.npos && colon > 0 && value.find('/') == value.npos &&
                     absl::SimpleAtoi(value.substr(colon + 1), &port) && port > 0 && port <= 65535;
  return valid || value.empty() ? "" : absl::StrCat("\"", value, "\" is not HOST:PORT");
}

}  // namespace

void AddServerFlags(CLI::App& app, ServerOptions& options) {
  const std::string group = "Server";
  app.add_option("--listen", options.listen, "HOST:PORT of gRPC; port 0 takes a free one")
      ->capture_default_str()
      ->group(group);
  app.add_option("--http", options.http, "HOST:PORT of /metrics, /healthz and /readyz")
      ->capture_default_str()
      ->group(group);
  app.add_option("--health", options.health,
                 "HOST:PORT of grpc.health.v1 without TLS, for probes; no other service is there")
      ->group(group);
  app.add_option("--port-file", options.port_file,
                 "File that gets the bound addresses, as grpc=HOST:PORT and http=HOST:PORT")
      ->group(group);
  app.add_option("--grace", options.grace_seconds, "Seconds that running requests get after SIGTERM")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0))
      ->group(group);
  app.add_option("--max-streams", options.max_concurrent_streams, "Calls at once on one connection")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20))
      ->group(group);
  AddTlsFlags(app, TlsSide::kServer, options.tls);
  faults::AddFlag(app);
  app.add_option("--otlp-endpoint", options.tracing.endpoint,
                 "HOST:PORT of a collector that gets the spans of recorded traces by OTLP over gRPC")
      ->check(CheckHostPort)
      ->group("Tracing");
  app.add_flag("--otlp-tls", options.tracing.tls, "Reach it by TLS, as --tls-ca and --tls-cert say")
      ->needs("--tls-ca")
      ->group("Tracing");
  const char* config = std::getenv("CLAMOR_CONFIG");
  app.set_config("--config", config == nullptr ? "" : config, "File of flags, one `flag=value` a line",
                 config != nullptr)
      ->group(group);
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_flag_callback(
         "--man", [&app] { throw CLI::CallForVersion(ManPage(app), 0); },  // shown likewise: as it is
         "Print the manual page, to be read by `man -l -`")
      ->configurable(false);
  app.set_version_flag("--version", absl::StrCat(options.name, " ", CLAMOR_VERSION));
}

void AddTlsFlags(CLI::App& app, TlsSide side, TlsOptions& tls) {
  const std::string group = "Security";
  CLI::Option* certificate =
      app.add_option("--tls-cert", tls.certificate, "PEM file of our certificate chain")->group(group);
  CLI::Option* key = app.add_option("--tls-key", tls.key, "PEM file of its key")->group(group);
  certificate->needs(key);
  key->needs(certificate);
  app.add_option("--tls-ca", tls.ca, "PEM file of the authority whose servers we connect to, by TLS")
      ->group(group);
  if (side == TlsSide::kClient) return;
  app.add_option("--tls-client-ca", tls.client_ca,
                 "PEM file of the authority that must have signed a client's certificate")
      ->needs(certificate)
      ->group(group);
}

std::optional<int> ParseFlags(CLI::App& app, int argc, char** argv) {
  for (CLI::Option* option : app.get_options()) {
    std::string name = option->get_name();  // "--port-file"
    if (name == "--help" || name == "--version" || name == "--man" || name == "--config") continue;
    option->envname(
        absl::StrCat("CLAMOR_", absl::AsciiStrToUpper(absl::StrReplaceAll(name.substr(2), {{"-", "_"}}))));
  }
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::cerr << app.get_name() << ": " << error.what() << "\n";
    return 2;
  }
}

}  // namespace clamor
