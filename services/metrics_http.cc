#include "services/metrics_http.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace clamor {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr std::chrono::seconds kTimeout(5);
constexpr int kMaxConnections = 64;

http::response<http::string_body> Answer(const http::request<http::empty_body>& request,
                                         const MetricsHttp::Sources& sources) {
  http::response<http::string_body> response(http::status::ok, request.version());
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  response.keep_alive(false);
  if (request.method() != http::verb::get) {
    response.result(http::status::method_not_allowed);
  } else if (request.target() == "/metrics") {
    if (sources.before_scrape) sources.before_scrape();
    response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    response.body() = prometheus::TextSerializer().Serialize(sources.registry->Collect());
  } else if (request.target() == "/healthz") {
    response.body() = "ok\n";
  } else if (request.target() == "/readyz") {
    const bool ready = sources.ready();
    response.result(ready ? http::status::ok : http::status::service_unavailable);
    response.body() = ready ? "ready\n" : "not ready\n";
  } else {
    response.result(http::status::not_found);
  }
  response.prepare_payload();
  return response;
}

// One request and its answer; kept alive by the handlers that wait for it.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const MetricsHttp::Sources& sources, int* open)
      : stream_(std::move(socket)), sources_(sources), open_(open) {
    ++*open_;
  }
  ~Connection() { --*open_; }

  void Run() {
    stream_.expires_after(kTimeout);
    http::async_read(stream_, buffer_, request_,
                     [self = shared_from_this()](beast::error_code error, size_t) {
                       if (!error) self->Write();
                     });
  }

 private:
  void Write() {
    response_ = Answer(request_, sources_);
    http::async_write(stream_, response_, [self = shared_from_this()](beast::error_code, size_t) {
      beast::error_code ignored;
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    });
  }

  beast::tcp_stream stream_;
  const MetricsHttp::Sources& sources_;
  int* const open_;
  beast::flat_buffer buffer_{16 << 10};  // longer headers are refused
  http::request<http::empty_body> request_;
  http::response<http::string_body> response_;
};

}  // namespace

struct MetricsHttp::Rep {
  explicit Rep(Sources s) : sources(std::move(s)) {}

  void Accept() {
    acceptor.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error && open < kMaxConnections)
        std::make_shared<Connection>(std::move(socket), sources, &open)->Run();
      Accept();
    });
  }

  const Sources sources;
  int open = 0;  // connections
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  int port = 0;
  std::thread thread;  // runs io; nothing else touches what is above once it has started
};

MetricsHttp::MetricsHttp(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Start(const std::string& address, Sources sources) {
  auto failed = [&](const std::string& why) {
    return absl::UnavailableError(absl::StrCat("--http: cannot listen on \"", address, "\": ", why));
  };
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return failed("not HOST:PORT");
  }
  beast::error_code error;
  const std::string host = colon == 0 ? "0.0.0.0" : address.substr(0, colon);
  const auto ip = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error) return failed("the host must be numeric");
  auto rep = std::make_unique<Rep>(std::move(sources));
  const tcp::endpoint endpoint(ip, static_cast<uint16_t>(port));
  rep->acceptor.open(endpoint.protocol(), error);
  if (!error) rep->acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) rep->acceptor.bind(endpoint, error);
  if (!error) rep->acceptor.listen(kMaxConnections, error);
  if (error) return failed(error.message());
  rep->port = rep->acceptor.local_endpoint(error).port();
  rep->Accept();
  rep->thread = std::thread([rep = rep.get()] { rep->io.run(); });
  return std::unique_ptr<MetricsHttp>(new MetricsHttp(std::move(rep)));
}

MetricsHttp::~MetricsHttp() {
  rep_->io.stop();
  rep_->thread.join();
}

int MetricsHttp::port() const { return rep_->port; }

}  // namespace clamor
