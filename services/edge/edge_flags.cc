#include "services/edge/edge_flags.h"

namespace clamor::edge {

void AddEdgeFlags(CLI::App& app, EdgeOptions& options) {
  const std::string group = "OpenAI API";
  app.add_option("--api", options.listen, "HOST:PORT of the OpenAI API and the page; empty: none")
      ->capture_default_str()
      ->group(group);
  app.add_flag("--page,!--no-page", options.page, "Serve the playground at / of --api (default: true)")
      ->group(group);
  app.add_option("--api-hosts", options.hosts,
                 "Names that requests may call this server by, * for all (default: of loopback's names if "
                 "--api is on loopback, else all)")
      ->delimiter(',')
      ->group(group);
  app.add_option("--api-origins", options.origins,
                 "Other sites whose pages may call, such as https://example.org; * for all (default: none)")
      ->delimiter(',')
      ->group(group);
  app.add_option("--api-max-connections", options.max_connections, "Connections at once; more are refused")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20))
      ->group(group);
  app.add_option("--api-max-body-bytes", options.connection.max_body_bytes, "Longest request")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30))
      ->group(group);
}

}  // namespace clamor::edge
