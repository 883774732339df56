#include "services/edge/connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

constexpr size_t kReadSize = 4096;
constexpr size_t kMaxAhead = 64 << 10;  // of later requests, read while an answer is under way
constexpr size_t kMaxLinger = 1 << 20;  // of a body that was refused
constexpr absl::Duration kLinger = absl::Seconds(2);
constexpr size_t kKeptCapacity = 64 << 10;  // of buffers between answers

std::string NewRequestId() {
  thread_local std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

absl::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

// As TraceContextOf of a gRPC call.
TraceContext TraceContextOf(const http::request<http::string_body>& message) {
  if (message.count("traceparent") != 1) return {};
  std::string state;
  const auto [begin, end] = message.equal_range("tracestate");
  for (auto field = begin; field != end; ++field) {
    absl::StrAppend(&state, state.empty() ? "" : ",", View(field->value()));
  }
  return ParseTraceContext(View(message["traceparent"]), state).value_or(TraceContext());
}

absl::string_view ReasonPhrase(int status) {
  return status == 499 ? "Client Closed Request"
                       : View(http::obsolete_reason(static_cast<http::status>(status)));
}

}  // namespace

size_t Connections::open() const {
  absl::MutexLock lock(&mu_);
  return open_.size();
}

void Connections::Add(Connection* connection) {
  absl::MutexLock lock(&mu_);
  open_.insert(connection);
}

void Connections::Remove(Connection* connection) {
  absl::MutexLock lock(&mu_);
  open_.erase(connection);
}

std::vector<std::shared_ptr<Connection>> Connections::Alive() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::shared_ptr<Connection>> alive;
  for (Connection* connection : open_) {
    if (auto shared = connection->weak_from_this().lock()) alive.push_back(std::move(shared));
  }
  return alive;
}

void Connections::Stop(const absl::Status& why) {
  for (const auto& connection : Alive()) connection->Stop(why);
}

void Connections::Abort() {
  for (const auto& connection : Alive()) connection->Abort();
}

bool Connections::AwaitNone(absl::Duration timeout) const {
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return open_.empty(); };
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&none), timeout);
}

Connection::Connection(asio::ip::tcp::socket socket, const ConnectionOptions& options, const Access& access,
                       const HttpHandler& handler, Connections& all)
    : membership_(all, this),
      options_(options),
      access_(access),
      handler_(handler),
      stream_(std::move(socket)),
      buffer_(options.max_head_bytes + kMaxAhead) {
  Error error;
  const auto endpoint = stream_.socket().remote_endpoint(error);
  if (!error) peer_ = endpoint.address().to_string();
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), error);
}

template <class Method>
auto Connection::Then(Method method) {
  return
      [self = shared_from_this(), method](Error error, size_t bytes) { (self.get()->*method)(error, bytes); };
}

void Connection::Run() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->AwaitRequest(); });
}

void Connection::Stop(const absl::Status& why) {
  asio::post(stream_.get_executor(), [self = shared_from_this(), why] {
    self->stopping_ = true;
    if (!self->answering_) return self->Gone();
    if (self->call_ != nullptr) self->call_->Cancel(why);
  });
}

void Connection::Abort() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->Gone(); });
}

// Reading: idle -> head -> body -> the handler.

void Connection::AwaitRequest() {
  if (buffer_.size() > 0) return ReadHead();
  stream_.expires_after(absl::ToChronoNanoseconds(options_.idle));
  stream_.async_read_some(buffer_.prepare(kReadSize), Then(&Connection::OnFirstBytes));
}

void Connection::OnFirstBytes(Error error, size_t bytes) {
  if (error) return Gone();
  buffer_.commit(bytes);
  ReadHead();
}

void Connection::ReadHead() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(options_.max_head_bytes));
  parser_->body_limit(options_.max_body_bytes);
  stream_.expires_after(absl::ToChronoNanoseconds(options_.head));
  http::async_read_header(stream_, buffer_, *parser_, Then(&Connection::OnHead));
}

void Connection::OnHead(Error error, size_t) {
  if (error) return Fail(error);
  stream_.expires_after(absl::ToChronoNanoseconds(options_.body));
  if (!boost::beast::iequals(parser_->get()[http::field::expect], "100-continue")) return ReadBody();
  static constexpr absl::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(stream_, asio::buffer(kContinue.data(), kContinue.size()),
                    [self = shared_from_this()](Error error, size_t) {
                      if (error) return self->Gone();
                      self->ReadBody();
                    });
}

void Connection::ReadBody() { http::async_read(stream_, buffer_, *parser_, Then(&Connection::OnRequest)); }

void Connection::OnRequest(Error error, size_t) {
  if (error) return Fail(error);
  http::request<http::string_body> message = parser_->release();
  parser_.reset();
  const std::string host(View(message[http::field::host]));
  const std::string origin(View(message[http::field::origin]));
  HttpRequest request = {.method = std::string(View(message.method_string())),
                         .path = std::string(View(message.target())),
                         .body = std::move(message.body()),
                         .id = NewRequestId(),
                         .sender = {.authorization = std::string(View(message[http::field::authorization])),
                                    .tenant = std::string(View(message["x-clamor-tenant"])),
                                    .peer = peer_},
                         .trace = TraceContextOf(message)};
  request.path.resize(std::min(request.path.find('?'), request.path.size()));
  request_id_ = request.id;
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  head_only_ = message.method() == http::verb::head;
  answering_ = true;
  const absl::Status allowed = access_.Check(host, origin);
  foreign_origin_ = allowed.ok() && Access::IsForeign(host, origin) ? origin : "";
  Watch();
  if (!allowed.ok()) return SendError(*this, allowed);
  if (message.method() == http::verb::options && !foreign_origin_.empty()) {
    return Send({.status = 204,
                 .fields = {{"Access-Control-Allow-Methods", "GET, POST"},
                            {"Access-Control-Allow-Headers", "*, authorization"},
                            {"Access-Control-Max-Age", "600"}}},
                "");
  }
  call_ = handler_(std::move(request), shared_from_this());
}

// A request that could not be read.
void Connection::Fail(Error error) {
  const bool too_large = error == http::error::body_limit || error == http::error::buffer_overflow;
  const bool malformed = error.category() == make_error_code(http::error::bad_method).category() &&
                         error != http::error::end_of_stream && error != http::error::partial_message;
  if (!too_large && !malformed) return Gone();
  request_id_ = NewRequestId();
  keep_alive_ = false;
  answering_ = true;
  SendError(*this,
            error == http::error::body_limit
                ? Refusal("BODY_TOO_LARGE",
                          absl::StrCat("the body has more than ", options_.max_body_bytes, " bytes"))
                : Refusal("NOT_HTTP", absl::StrCat("the request is not understood: ", error.message())));
}

// Reads ahead, for the client may hang up.
void Connection::Watch() {
  if (buffer_.size() >= kMaxAhead) return;
  watching_ = true;
  stream_.expires_never();
  stream_.async_read_some(buffer_.prepare(kReadSize), Then(&Connection::OnWatched));
}

void Connection::OnWatched(Error error, size_t bytes) {
  watching_ = false;
  buffer_.commit(bytes);
  if (!answering_) return error && error != asio::error::operation_aborted ? Gone() : GoOn();
  if (error) return Gone();
  Watch();
}

// Writing: whoever has something appends it; one write is in flight at a time.

std::string Connection::HeadText(const Head& head, absl::string_view framing) const {
  std::string text = absl::StrCat(
      "HTTP/1.1 ", head.status, " ", ReasonPhrase(head.status),
      "\r\nDate: ", absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()),
      "\r\nConnection: ", keep_alive_ ? "keep-alive" : "close", "\r\nX-Request-Id: ", request_id_,
      "\r\nX-Content-Type-Options: nosniff\r\n");
  if (!head.content_type.empty()) absl::StrAppend(&text, "Content-Type: ", head.content_type, "\r\n");
  for (const auto& [name, value] : head.fields) absl::StrAppend(&text, name, ": ", value, "\r\n");
  if (!foreign_origin_.empty()) {
    absl::StrAppend(&text, "Access-Control-Allow-Origin: ", foreign_origin_,
                    "\r\nAccess-Control-Expose-Headers: x-request-id, retry-after\r\nVary: Origin\r\n");
  }
  absl::StrAppend(&text, framing, "\r\n");
  return text;
}

void Connection::Send(const Head& head, absl::string_view body) {
  const std::string framing = head.status == 204 ? "" : absl::StrCat("Content-Length: ", body.size(), "\r\n");
  Append(absl::StrCat(HeadText(head, framing), head_only_ ? "" : body), /*last=*/true);
}

void Connection::Begin(const Head& head) {
  if (!chunked_) keep_alive_ = false;  // the end of the connection is that of the answer
  Append(HeadText(head, chunked_ ? "Transfer-Encoding: chunked\r\n" : ""), /*last=*/false);
}

size_t Connection::Write(absl::string_view bytes) {
  if (!chunked_) return Append(bytes, /*last=*/false);
  return Append(absl::StrCat(absl::Hex(bytes.size()), "\r\n", bytes, "\r\n"), /*last=*/false);
}

void Connection::End() { Append(chunked_ ? "0\r\n\r\n" : "", /*last=*/true); }

size_t Connection::Append(absl::string_view bytes, bool last) {
  absl::MutexLock lock(&mu_);
  if (gone_) return 0;
  out_.append(bytes.data(), bytes.size());
  last_ |= last;
  if (!std::exchange(flush_due_, true))
    asio::post(stream_.get_executor(), [self = shared_from_this()] { self->Flush(); });
  return out_.size();
}

void Connection::Flush() {
  if (flushing_) return;  // OnFlushed comes back here
  bool last;
  {
    absl::MutexLock lock(&mu_);
    flush_due_ = false;
    if (gone_) return;
    in_flight_.swap(out_);
    last = last_;
  }
  if (in_flight_.empty()) {
    if (last) Done();
    return;
  }
  flushing_ = true;
  stream_.expires_after(absl::ToChronoNanoseconds(options_.write));
  asio::async_write(stream_, asio::buffer(in_flight_), Then(&Connection::OnFlushed));
}

void Connection::OnFlushed(Error error, size_t) {
  flushing_ = false;
  in_flight_.clear();
  if (in_flight_.capacity() > kKeptCapacity) in_flight_.shrink_to_fit();
  if (error) return Gone();
  Flush();
}

// The answer was sent.
void Connection::Done() {
  {
    absl::MutexLock lock(&mu_);
    last_ = false;
  }
  answering_ = false;
  call_.reset();
  if (watching_) return stream_.cancel();  // OnWatched goes on
  GoOn();
}

void Connection::GoOn() {
  if (keep_alive_ && !stopping_) return AwaitRequest();
  Linger();
}

// Nothing more comes or goes; what runs is cancelled.
void Connection::Gone() {
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(gone_, true)) return;
    out_.clear();
  }
  stream_.close();
  if (call_ != nullptr) call_->Cancel(absl::CancelledError("the client went away"));
  call_.reset();
}

// Closed at once, a connection with unread bytes would be reset before the client has read the answer.
void Connection::Linger() {
  Error ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  scratch_.resize(kReadSize);
  stream_.expires_after(absl::ToChronoNanoseconds(kLinger));
  stream_.async_read_some(asio::buffer(scratch_), Then(&Connection::OnLingered));
}

void Connection::OnLingered(Error error, size_t bytes) {
  lingered_ += bytes;
  if (error || lingered_ > kMaxLinger) return Gone();
  stream_.async_read_some(asio::buffer(scratch_), Then(&Connection::OnLingered));
}

}  // namespace clamor::edge
