// The plain HTTP port of a server: /metrics (Prometheus), /healthz (alive: 200), /readyz (200 or 503).
//
// Tested by tests/services/server_test.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/registry.h"

struct mg_context;
struct mg_connection;

namespace clamor {

class MetricsHttp {
 public:
  struct Sources {
    prometheus::Registry* registry;          // must outlive this
    std::function<void()> before_scrape;     // brings gauges up to date; may be empty; called from any thread
    std::function<bool()> ready;             // called from any thread
  };

  // Listens on `address`, HOST:PORT with a numeric host (empty: all) and port (0: a free one). UNAVAILABLE names it.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Start(const std::string& address, Sources sources);
  // Finishes the requests under way.
  ~MetricsHttp();

  int port() const { return port_; }

 private:
  explicit MetricsHttp(Sources sources) : sources_(std::move(sources)) {}
  static int HandleMetrics(mg_connection* connection, void* self);
  static int HandleHealthz(mg_connection* connection, void* self);
  static int HandleReadyz(mg_connection* connection, void* self);

  const Sources sources_;
  mg_context* context_ = nullptr;
  int port_ = 0;
};

}  // namespace clamor
