// The plain HTTP port of a server: GET of /metrics (Prometheus), /healthz (alive: 200), /readyz (200 or 503).
//
// One thread; each connection has one request and five seconds, and at most 64 are open at once.
// Tested by tests/services/server_test.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/registry.h"

namespace clamor {

class MetricsHttp {
 public:
  struct Sources {
    prometheus::Registry* registry;  // must outlive this
    std::function<void()>
        before_scrape;            // brings gauges up to date; may be empty; called from the port's thread
    std::function<bool()> ready;  // likewise
  };

  // Listens on `address`, HOST:PORT with a numeric host (empty: all) and port (0: a free one). UNAVAILABLE
  // names it.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Start(const std::string& address, Sources sources);
  // Closes what is open.
  ~MetricsHttp();

  int port() const;

 private:
  struct Rep;
  explicit MetricsHttp(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace clamor
