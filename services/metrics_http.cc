#include "services/metrics_http.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "civetweb.h"
#include "prometheus/text_serializer.h"

namespace clamor {
namespace {

int Reply(mg_connection* connection, int status, const char* content_type, const std::string& body) {
  mg_printf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status,
            status == 200 ? "OK" : "Service Unavailable", content_type, body.size());
  mg_write(connection, body.data(), body.size());
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Start(const std::string& address, Sources sources) {
  mg_init_library(0);  // counted; the destructor gives it back
  std::unique_ptr<MetricsHttp> http(new MetricsHttp(std::move(sources)));
  const std::string listen = absl::StartsWith(address, ":") ? address.substr(1) : address;
  const char* options[] = {"listening_ports",    listen.c_str(), "num_threads", "4",
                           "request_timeout_ms", "5000",         nullptr};
  mg_callbacks callbacks = {};
  callbacks.log_message = [](const mg_connection*, const char*) { return 1; };  // it would write to stderr in its own form
  http->context_ = mg_start(&callbacks, nullptr, options);
  if (http->context_ == nullptr) return absl::UnavailableError(absl::StrCat("--http: cannot listen on \"", address, "\""));
  mg_server_port port = {};
  mg_get_server_ports(http->context_, 1, &port);
  http->port_ = port.port;
  mg_set_request_handler(http->context_, "/metrics$", HandleMetrics, http.get());
  mg_set_request_handler(http->context_, "/healthz$", HandleHealthz, http.get());
  mg_set_request_handler(http->context_, "/readyz$", HandleReadyz, http.get());
  return http;
}

MetricsHttp::~MetricsHttp() {
  if (context_ != nullptr) mg_stop(context_);
  mg_exit_library();
}

int MetricsHttp::HandleMetrics(mg_connection* connection, void* self) {
  const Sources& sources = static_cast<MetricsHttp*>(self)->sources_;
  if (sources.before_scrape) sources.before_scrape();
  return Reply(connection, 200, "text/plain; version=0.0.4; charset=utf-8",
               prometheus::TextSerializer().Serialize(sources.registry->Collect()));
}

int MetricsHttp::HandleHealthz(mg_connection* connection, void*) {
  return Reply(connection, 200, "text/plain", "ok\n");
}

int MetricsHttp::HandleReadyz(mg_connection* connection, void* self) {
  const bool ready = static_cast<MetricsHttp*>(self)->sources_.ready();
  return Reply(connection, ready ? 200 : 503, "text/plain", ready ? "ready\n" : "not ready\n");
}

}  // namespace clamor
