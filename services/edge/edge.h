// The HTTP edge: OpenAI's API over the gateway's core, and the page. README.md lists paths and fields.
//
// Asynchronous: a few threads serve all connections; none waits for an answer.
// Tested by tests/services/edge/edge_test.cc.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/edge/edge_options.h"
#include "services/edge/generation_core.h"

namespace clamor::edge {

class Edge {
 public:
  // Binds the port: connections wait until Serve. UNAVAILABLE names the flag and the address.
  static absl::StatusOr<std::unique_ptr<Edge>> Bind(const EdgeOptions& options);
  // Close, if it was not called.
  ~Edge();

  // Answers from now on; once. `core` must live until Close has returned.
  void Serve(GenerationCore* core);

  // Cancels what runs, lets its clients hear of it, and closes the port: after it the core is not called
  // again.
  void Close();

  const std::string& address() const { return address_; }  // HOST:PORT as bound

 private:
  struct Rep;
  explicit Edge(std::unique_ptr<Rep> rep, std::string address);
  std::unique_ptr<Rep> rep_;  // null: closed
  const std::string address_;
};

}  // namespace clamor::edge
