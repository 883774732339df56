// One request over HTTP and where its answer goes, without a word about sockets.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "services/edge/generation_core.h"

namespace clamor::edge {

struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  std::string body;
  std::string id;  // made here, for logs and the answer's x-request-id
  Sender sender;
  TraceContext trace = {};  // of traceparent and tracestate
};

// Where the answer goes: either Send, or Begin, any number of Write and End. Threads: any, one call at a
// time. If the client has gone nothing happens.
class HttpReply {
 public:
  struct Head {
    int status = 200;
    std::string content_type;
    std::vector<std::pair<std::string, std::string>> fields = {};
  };
  virtual ~HttpReply() = default;
  virtual void Send(const Head& head, absl::string_view body) = 0;
  virtual void Begin(const Head& head) = 0;
  // Returns how many bytes wait to be sent, these included.
  virtual size_t Write(absl::string_view bytes) = 0;
  virtual void End() = 0;
};

// Sends the error in OpenAI's shape.
void SendError(HttpReply& reply, const absl::Status& status);

// Work that goes on after its request was read. Lives until its answer has been sent.
class RunningCall {
 public:
  virtual ~RunningCall() = default;
  virtual void Cancel(const absl::Status& why) = 0;  // any thread
};

// Answers a request, at once or by the call that it returns. Threads: any.
using HttpHandler =
    std::function<std::shared_ptr<RunningCall>(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

}  // namespace clamor::edge
