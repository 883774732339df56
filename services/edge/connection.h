// One connection of a client: HTTP/1.1 requests, one after the other, and their answers.
//
// While an answer is under way the connection is read as well: a client that hangs up is noticed at once.
// Everything has a limit: head, body, what is read ahead, the time for each of them, and the time that a
// client may take to read. Threads: its executor's; HttpReply's methods and Stop may be called from any.
// Tested by tests/services/edge/edge_test.cc.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/edge/access.h"
#include "services/edge/edge_options.h"
#include "services/edge/http_reply.h"

namespace clamor::edge {

class Connection;

// All connections that are open. Threads: any.
class Connections {
 public:
  size_t open() const;
  // Each ends: idle ones at once, others with the answer that is under way, whose calls are cancelled with
  // `why`.
  void Stop(const absl::Status& why);
  // Each ends at once.
  void Abort();
  // Whether none is left within that time.
  bool AwaitNone(absl::Duration timeout) const;

 private:
  friend class Connection;
  void Add(Connection* connection);
  void Remove(Connection* connection);
  std::vector<std::shared_ptr<Connection>> Alive() const;

  mutable absl::Mutex mu_;
  std::set<Connection*> open_ ABSL_GUARDED_BY(mu_);
};

class Connection final : public HttpReply, public std::enable_shared_from_this<Connection> {
 public:
  // The references must outlive the connection. The socket's executor is a strand.
  Connection(boost::asio::ip::tcp::socket socket, const ConnectionOptions& options, const Access& access,
             const HttpHandler& handler, Connections& all);

  void Run();  // once
  void Stop(const absl::Status& why);
  void Abort();

  void Send(const Head& head, absl::string_view body) override;
  void Begin(const Head& head) override;
  size_t Write(absl::string_view bytes) override;
  void End() override;

 private:
  using Error = boost::beast::error_code;
  template <class Method>
  auto Then(Method method);  // a handler that keeps the connection alive

  void AwaitRequest();
  void OnFirstBytes(Error error, size_t bytes);
  void ReadHead();
  void OnHead(Error error, size_t);
  void ReadBody();
  void OnRequest(Error error, size_t);
  void Fail(Error error);
  void Refuse(const absl::Status& why);
  void Watch();
  void OnWatched(Error error, size_t bytes);
  std::string HeadText(const Head& head, absl::string_view framing) const;
  size_t Append(absl::string_view bytes, bool last);
  void Flush();
  void OnFlushed(Error error, size_t);
  void Done();
  void GoOn();
  void Gone();
  void Linger();
  void OnLingered(Error error, size_t bytes);

  // Ends when everything else of the connection has.
  class Membership {
   public:
    Membership(Connections& all, Connection* connection) : all_(all), connection_(connection) {
      all_.Add(connection_);
    }
    ~Membership() { all_.Remove(connection_); }

   private:
    Connections& all_;
    Connection* const connection_;
  };

  const Membership membership_;
  const ConnectionOptions& options_;
  const Access& access_;
  const HttpHandler& handler_;
  boost::beast::tcp_stream stream_;
  std::string peer_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  std::string scratch_;  // what nobody reads any more
  size_t lingered_ = 0;

  // Of the request that is being answered; constant meanwhile.
  std::string request_id_, foreign_origin_;
  bool head_only_ = false, chunked_ = true;
  bool keep_alive_ = false;

  // The executor's.
  std::shared_ptr<RunningCall> call_;
  bool answering_ = false;  // a request was read and its answer not sent yet
  bool watching_ = false;   // a read is under way that notices the client's end
  bool flushing_ = false;   // a write is under way
  bool stopping_ = false;
  std::string in_flight_;  // being written

  absl::Mutex mu_;
  std::string out_ ABSL_GUARDED_BY(mu_);    // to be written next
  bool last_ ABSL_GUARDED_BY(mu_) = false;  // nothing comes after it
  bool flush_due_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace clamor::edge
