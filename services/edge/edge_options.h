// What may be chosen of the HTTP edge.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace clamor::edge {

struct ConnectionOptions {
  size_t max_head_bytes = 16 << 10;
  size_t max_body_bytes = 4 << 20;
  absl::Duration idle = absl::Seconds(75);   // between two requests
  absl::Duration head = absl::Seconds(10);   // for the head of a request to arrive
  absl::Duration body = absl::Seconds(30);   // and for its body
  absl::Duration write = absl::Seconds(30);  // for a client to take what was sent
};

struct EdgeOptions {
  std::string listen;  // HOST:PORT with a numeric host; port 0 takes a free one
  bool page = true;    // at /
  int threads = 4;
  size_t max_connections = 4096;
  size_t max_pending_bytes = 1 << 20;  // of an answer whose client reads too slowly
  size_t pad_bytes = 0;                // events of a stream are filled up to multiples of it; 0: they are not
  std::vector<std::string> hosts;      // see Access
  std::vector<std::string> origins;
  ConnectionOptions connection;
};

}  // namespace clamor::edge
