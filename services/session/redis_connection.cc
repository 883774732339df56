#include "services/session/redis_connection.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

std::string TlsError() {
  char text[256] = "unknown error";
  if (const unsigned long code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof(text));
  ERR_clear_error();
  return text;
}

absl::StatusOr<std::string> ReadPassword(const std::string& file) {
  std::ifstream in(file);
  if (!in) return absl::UnavailableError(absl::StrCat("cannot read --sessions-password-file ", file));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  absl::StripTrailingAsciiWhitespace(&text);
  return text;
}

bool IsAddress(const std::string& host) {
  unsigned char bytes[16];
  return inet_pton(AF_INET, host.c_str(), bytes) == 1 || inet_pton(AF_INET6, host.c_str(), bytes) == 1;
}

// What Redis's own words mean. Those that a later try may not hear again end the connection.
absl::Status ErrorOf(absl::string_view text) {
  if (absl::StartsWith(text, "OOM")) return Refusal("STORE_FULL", absl::StrCat("Redis: ", text));
  for (const absl::string_view passing : {"LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "READONLY",
                                          "CLUSTERDOWN", "MISCONF", "NOAUTH", "WRONGPASS"}) {
    if (absl::StartsWith(text, passing)) return absl::UnavailableError(absl::StrCat("Redis: ", text));
  }
  return absl::InternalError(absl::StrCat("Redis: ", text));
}

}  // namespace

std::string RedisReply::TextOf(const redisReply* reply) {
  if (reply == nullptr) return "";
  switch (reply->type) {
    case REDIS_REPLY_INTEGER:
      return absl::StrCat(reply->integer);
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
      return std::string(reply->str, reply->len);
    default:
      return "";
  }
}

int64_t RedisReply::number(size_t i) const {
  int64_t value = 0;
  return absl::SimpleAtoi(text(i), &value) ? value : 0;
}

std::span<redisReply* const> RedisReply::array(size_t i) const {
  if (i >= size() || reply_->element[i]->type != REDIS_REPLY_ARRAY) return {};
  return {reply_->element[i]->element, reply_->element[i]->elements};
}

RedisConnection::RedisConnection(const RedisOptions& options)
    : options_(options), reader_(redisReaderCreate(), redisReaderFree) {}

RedisConnection::~RedisConnection() {
  if (socket_ >= 0) close(socket_);
}

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Connect(const RedisOptions& options) {
  std::unique_ptr<RedisConnection> connection(new RedisConnection(options));
  CLAMOR_RETURN_IF_ERROR(connection->Open());
  if (options.address.tls) CLAMOR_RETURN_IF_ERROR(connection->StartTls());
  CLAMOR_RETURN_IF_ERROR(connection->LogIn());
  return connection;
}

absl::Status RedisConnection::Broken(absl::string_view why) const {
  return absl::UnavailableError(absl::StrCat(options_.address.ToString(), ": ", why));
}

absl::Status RedisConnection::Open() {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const RedisAddress& address = options_.address;
  if (const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found); error != 0)
    return Broken(gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> all(found, freeaddrinfo);
  const absl::Time deadline = absl::Now() + options_.timeout;
  absl::Status last = Broken("has no address");
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    socket_ = socket(one->ai_family, one->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, one->ai_protocol);
    if (socket_ < 0) return Broken(strerror(errno));
    int error = 0;
    if (connect(socket_, one->ai_addr, one->ai_addrlen) != 0) {
      error = errno;
      socklen_t size = sizeof(error);
      if (error == EINPROGRESS && (last = Wait(POLLOUT, deadline)).ok())
        getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error == 0) {
      const int on = 1;
      setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      return absl::OkStatus();
    }
    if (error != EINPROGRESS) last = Broken(strerror(error));
    close(std::exchange(socket_, -1));
  }
  return last;
}

absl::Status RedisConnection::StartTls() {
  tls_context_.reset(SSL_CTX_new(TLS_client_method()));
  if (tls_context_ == nullptr) return Broken(TlsError());
  SSL_CTX_set_min_proto_version(tls_context_.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(tls_context_.get(), SSL_VERIFY_PEER, nullptr);
  const bool trusts =
      options_.ca_file.empty()
          ? SSL_CTX_set_default_verify_paths(tls_context_.get()) == 1
          : SSL_CTX_load_verify_locations(tls_context_.get(), options_.ca_file.c_str(), nullptr) == 1;
  if (!trusts) return Broken(absl::StrCat("cannot read --sessions-ca ", options_.ca_file, ": ", TlsError()));
  tls_.reset(SSL_new(tls_context_.get()));
  const std::string& host = options_.address.host;
  bool set = tls_ != nullptr && SSL_set_fd(tls_.get(), socket_) == 1;
  if (set && IsAddress(host)) {
    set = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls_.get()), host.c_str()) == 1;
  } else if (set) {
    set = SSL_set1_host(tls_.get(), host.c_str()) == 1 &&
          SSL_set_tlsext_host_name(tls_.get(), host.c_str()) == 1;
  }
  if (!set) return Broken(TlsError());
  const absl::Time deadline = absl::Now() + options_.timeout;
  while (true) {
    ERR_clear_error();
    const int result = SSL_connect(tls_.get());
    if (result == 1) return absl::OkStatus();
    CLAMOR_RETURN_IF_ERROR(WaitForTls(result, deadline));
  }
}

absl::Status RedisConnection::LogIn() {
  if (!options_.password_file.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(const std::string password, ReadPassword(options_.password_file));
    std::vector<std::string> words = {"AUTH"};
    if (!options_.address.user.empty()) words.push_back(options_.address.user);
    words.push_back(password);
    CLAMOR_RETURN_IF_ERROR(Command(words).status());
  }
  const std::vector<std::string> select = {"SELECT", absl::StrCat(options_.address.database)};
  return Command(select).status();
}

absl::Status RedisConnection::Wait(short events, absl::Time deadline) const {
  pollfd waiting{.fd = socket_, .events = events, .revents = 0};
  while (true) {
    const int64_t left = absl::ToInt64Milliseconds(absl::Ceil(deadline - absl::Now(), absl::Milliseconds(1)));
    const int ready = poll(&waiting, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    if (ready > 0) return absl::OkStatus();
    if (ready == 0) return Broken(absl::StrCat("no answer within ", absl::FormatDuration(options_.timeout)));
    if (errno != EINTR) return Broken(strerror(errno));
  }
}

absl::Status RedisConnection::WaitForTls(int result, absl::Time deadline) const {
  switch (SSL_get_error(tls_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Wait(POLLIN, deadline);
    case SSL_ERROR_WANT_WRITE:
      return Wait(POLLOUT, deadline);
    case SSL_ERROR_ZERO_RETURN:
      return Broken("closed the connection");
    default: {
      const long verified = SSL_get_verify_result(tls_.get());
      const std::string error = TlsError();
      return Broken(verified == X509_V_OK
                        ? absl::StrCat("TLS: ", error)
                        : absl::StrCat("its certificate: ", X509_verify_cert_error_string(verified)));
    }
  }
}

absl::Status RedisConnection::Send(absl::string_view bytes, absl::Time deadline) {
  while (!bytes.empty()) {
    if (tls_ != nullptr) {
      ERR_clear_error();
      const int sent = SSL_write(tls_.get(), bytes.data(), static_cast<int>(bytes.size()));
      if (sent <= 0) {
        CLAMOR_RETURN_IF_ERROR(WaitForTls(sent, deadline));
      } else {
        bytes.remove_prefix(static_cast<size_t>(sent));
      }
      continue;
    }
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      CLAMOR_RETURN_IF_ERROR(Wait(POLLOUT, deadline));
    } else if (errno != EINTR) {
      return Broken(strerror(errno));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> RedisConnection::Receive(char* bytes, size_t size, absl::Time deadline) {
  while (true) {
    if (tls_ != nullptr) {
      ERR_clear_error();
      const int got = SSL_read(tls_.get(), bytes, static_cast<int>(size));
      if (got > 0) return static_cast<size_t>(got);
      CLAMOR_RETURN_IF_ERROR(WaitForTls(got, deadline));
      continue;
    }
    const ssize_t got = recv(socket_, bytes, size, 0);
    if (got > 0) return static_cast<size_t>(got);
    if (got == 0) return Broken("closed the connection");
    if (errno == EAGAIN) {
      CLAMOR_RETURN_IF_ERROR(Wait(POLLIN, deadline));
    } else if (errno != EINTR) {
      return Broken(strerror(errno));
    }
  }
}

absl::StatusOr<RedisReply> RedisConnection::Command(std::span<const std::string> words) {
  std::vector<const char*> parts;
  std::vector<size_t> sizes;
  for (const std::string& word : words) {
    parts.push_back(word.data());
    sizes.push_back(word.size());
  }
  char* formatted = nullptr;
  const int size =
      redisFormatCommandArgv(&formatted, static_cast<int>(parts.size()), parts.data(), sizes.data());
  if (size < 0) return absl::InternalError("a command for Redis cannot be written");
  const absl::Time deadline = absl::Now() + options_.timeout;
  const absl::Status sent = Send({formatted, static_cast<size_t>(size)}, deadline);
  redisFreeCommand(formatted);
  CLAMOR_RETURN_IF_ERROR(sent);

  char bytes[16 << 10];
  void* reply = nullptr;
  while (true) {
    if (redisReaderGetReply(reader_.get(), &reply) != REDIS_OK) return Broken(reader_->errstr);
    if (reply != nullptr) break;
    CLAMOR_ASSIGN_OR_RETURN(const size_t got, Receive(bytes, sizeof(bytes), deadline));
    if (redisReaderFeed(reader_.get(), bytes, got) != REDIS_OK) return Broken(reader_->errstr);
  }
  RedisReply owned(static_cast<redisReply*>(reply));
  if (static_cast<redisReply*>(reply)->type == REDIS_REPLY_ERROR) return ErrorOf(owned.text());
  return owned;
}

}  // namespace clamor
