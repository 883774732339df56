// What the edge asks of the gateway around it: the same checks, workers and answers that gRPC's clients get.
//
// Threads: all methods, any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clamor/v1/generation.pb.h"
#include "clamor/v1/model.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "services/generation_listener.h"
#include "services/tracing/trace_context.h"

namespace clamor::edge {

// What a request's headers and its connection say of who sent it.
struct Sender {
  std::string authorization;  // "Bearer KEY"; empty: none
  std::string tenant;         // of x-clamor-tenant; empty: none
  std::string peer;           // address
};

// Who asks for a generation, and under which id it stands in logs. `method` is a literal, for metrics.
struct Caller {
  const char* method;
  std::string tenant;
  std::string request_id;
  bool streams = false;     // the answer is wanted as it comes
  TraceContext trace = {};  // where the sender stands in one
};

// A generation that has passed all checks of the gateway. REQUIRES of its destructor: Start was not called,
// or the listener's OnEnded was.
class Generation {
 public:
  virtual ~Generation() = default;
  // Once. From here on the listener hears of it, maybe before this returns.
  virtual void Start() = 0;
  // It ends with `why`; nothing happens if it has ended. Never calls the listener itself.
  virtual void Cancel(const absl::Status& why) = 0;

  virtual const std::string& model() const = 0;
  virtual std::shared_ptr<const Tokenizer> tokenizer() const = 0;  // of the model
};

class GenerationCore {
 public:
  virtual ~GenerationCore() = default;

  // Whether Identify wants a key.
  virtual bool authenticates() const = 0;
  // The tenant of the sender of something like `rpc`, such as "StreamChat": the one who may do that may do
  // this.
  virtual absl::StatusOr<std::string> Identify(const Sender& sender, const char* rpc) = 0;

  // A generation that waits for its Start, or why it is refused. `listener` must outlive it.
  virtual absl::StatusOr<std::unique_ptr<Generation>> Prepare(const Caller& caller,
                                                              const v1::ChatRequest& request,
                                                              GenerationListener* listener) = 0;
  virtual absl::StatusOr<std::unique_ptr<Generation>> Prepare(const Caller& caller,
                                                              const v1::GenerateRequest& request,
                                                              GenerationListener* listener) = 0;
  // A request that was refused before Prepare, for metrics and the log.
  virtual void CountRefusal(const Caller& caller, const absl::Status& why) = 0;

  virtual v1::ListModelsResponse ListModels() = 0;

  // Keeps the server from stopping, within its grace, as long as it lives.
  virtual std::shared_ptr<void> Hold() = 0;
};

}  // namespace clamor::edge
