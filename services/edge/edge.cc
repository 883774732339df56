#include "services/edge/edge.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/write.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/edge/access.h"
#include "services/edge/api_error.h"
#include "services/edge/connection.h"
#include "services/edge/routes.h"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Error = boost::beast::error_code;

constexpr absl::Duration kFarewell = absl::Seconds(2);  // for clients to hear why their answer ends

// To a client for whom there is no room: written if the socket takes it at once.
std::string TooManyConnections(size_t limit) {
  const ApiError error = ToApiError(
      Refusal("TOO_MANY_CONNECTIONS", absl::StrCat(limit, " connections are open, the limit is ", limit)));
  return absl::StrCat(
      "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
      "Content-Type: application/json\r\nContent-Length: ",
      error.body.size(), "\r\n\r\n", error.body);
}

}  // namespace

struct Edge::Rep {
  explicit Rep(const EdgeOptions& o, bool loopback)
      : options(o), access(o.hosts, o.origins, loopback), no_room(TooManyConnections(o.max_connections)) {}

  void Accept() {
    acceptor.async_accept(asio::make_strand(io), [this](Error error, tcp::socket socket) {
      if (error == asio::error::operation_aborted || !acceptor.is_open()) return;
      if (!error && connections.open() < options.max_connections) {
        std::make_shared<Connection>(std::move(socket), options.connection, access, handler, connections)
            ->Run();
      } else if (!error) {
        socket.non_blocking(true, error);
        socket.write_some(asio::buffer(no_room), error);
      }
      Accept();
    });
  }

  const EdgeOptions options;
  const Access access;
  const std::string no_room;
  HttpHandler handler;
  Connections connections;
  asio::io_context io;
  tcp::acceptor acceptor{asio::make_strand(io)};
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work{io.get_executor()};
  std::vector<std::thread> threads;
};

Edge::Edge(std::unique_ptr<Rep> rep, std::string address)
    : rep_(std::move(rep)), address_(std::move(address)) {}

absl::StatusOr<std::unique_ptr<Edge>> Edge::Bind(const EdgeOptions& options) {
  const auto failed = [&](const std::string& why) {
    return absl::UnavailableError(absl::StrCat("--api: cannot listen on \"", options.listen, "\": ", why));
  };
  const size_t colon = options.listen.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(options.listen.substr(colon + 1), &port) ||
      port > 65535) {
    return failed("not HOST:PORT");
  }
  std::string host = colon == 0 ? "0.0.0.0" : options.listen.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  const bool bracketed = host.front() == '[' && host.back() == ']';
  Error error;
  const auto ip = asio::ip::make_address(bracketed ? host.substr(1, host.size() - 2) : host, error);
  if (error) return failed("the host must be numeric");
  auto rep = std::make_unique<Rep>(options, ip.is_loopback());
  const tcp::endpoint endpoint(ip, static_cast<uint16_t>(port));
  rep->acceptor.open(endpoint.protocol(), error);
  if (!error) rep->acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) rep->acceptor.bind(endpoint, error);
  if (!error) rep->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return failed(error.message());
  const std::string address = absl::StrCat(host, ":", rep->acceptor.local_endpoint(error).port());
  return std::unique_ptr<Edge>(new Edge(std::move(rep), address));
}

void Edge::Serve(GenerationCore* core) {
  rep_->handler = Routes(core, {.page = rep_->options.page,
                                .max_pending_bytes = rep_->options.max_pending_bytes,
                                .pad_bytes = rep_->options.pad_bytes,
                                .started = absl::Now()});
  rep_->Accept();
  for (int i = 0; i < rep_->options.threads; ++i) {
    rep_->threads.emplace_back([rep = rep_.get()] { rep->io.run(); });
  }
}

void Edge::Close() {
  if (rep_ == nullptr) return;
  asio::post(rep_->acceptor.get_executor(), [rep = rep_.get()] {
    Error ignored;
    rep->acceptor.close(ignored);
  });
  rep_->connections.Stop(Refusal("DRAINING", "the gateway stops"));
  if (!rep_->threads.empty() && !rep_->connections.AwaitNone(kFarewell)) {
    rep_->connections.Abort();
    rep_->connections.AwaitNone(absl::InfiniteDuration());  // their calls end, for they are cancelled
  }
  rep_->work.reset();
  rep_->io.stop();
  for (std::thread& thread : rep_->threads) thread.join();
  rep_.reset();
}

Edge::~Edge() { Close(); }

}  // namespace clamor::edge
