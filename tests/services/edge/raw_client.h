// A client of HTTP/1.1 that sends whatever bytes a test wants to.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace clamor::edge::testing {

struct RawResponse {
  int status = 0;                             // 0: the connection ended before there was one
  std::map<std::string, std::string> fields;  // names in lower case
  std::string body;
  bool complete = false;  // ended as its head said
};

class RawClient {
 public:
  // `address` is 127.0.0.1:PORT. A small `receive_buffer` makes a slow reader.
  explicit RawClient(const std::string& address, int receive_buffer = 0) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    const timeval timeout = {.tv_sec = 30, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.substr(address.rfind(':') + 1).c_str())));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~RawClient() { Close(); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  void Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;  // the server has closed: the answer will tell
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  void Request(const std::string& method, const std::string& path, const std::string& body,
               const std::string& fields = "") {
    Send(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: localhost\r\n", fields,
                      body.empty() ? "" : absl::StrCat("Content-Length: ", body.size(), "\r\n"), "\r\n",
                      body));
  }

  // The next answer on this connection, chunks joined.
  RawResponse Read() {
    RawResponse response;
    while (pending_.find("\r\n\r\n") == std::string::npos) {
      if (!Receive()) return response;
    }
    const size_t end = pending_.find("\r\n\r\n");
    const std::vector<std::string> lines = absl::StrSplit(pending_.substr(0, end), "\r\n");
    pending_.erase(0, end + 4);
    response.status = std::atoi(lines[0].substr(9, 3).c_str());
    for (size_t i = 1; i < lines.size(); ++i) {
      const size_t colon = lines[i].find(':');
      response.fields[absl::AsciiStrToLower(lines[i].substr(0, colon))] =
          std::string(absl::StripAsciiWhitespace(lines[i].substr(colon + 1)));
    }
    if (response.status == 100) return Read();
    if (response.fields.contains("content-length")) {
      const size_t size = static_cast<size_t>(std::atol(response.fields["content-length"].c_str()));
      response.complete = Take(size, &response.body);
    } else if (response.fields.contains("transfer-encoding")) {
      response.complete = TakeChunks(&response.body);
    } else if (response.status != 204) {
      while (Receive()) {
      }
      response.body.swap(pending_);
      response.complete = true;
    }
    return response;
  }
  // Everything that is still to come was read and the server has closed.
  bool ReadEnd() {
    while (pending_.empty() && Receive()) {
    }
    return pending_.empty() && ended_;
  }

 private:
  bool Receive() {
    char buffer[16384];
    const ssize_t size = recv(fd_, buffer, sizeof(buffer), 0);
    if (size == 0) ended_ = true;
    if (size <= 0) return false;
    pending_.append(buffer, static_cast<size_t>(size));
    return true;
  }
  bool Take(size_t size, std::string* to) {
    while (pending_.size() < size) {
      if (!Receive()) return false;
    }
    to->append(pending_, 0, size);
    pending_.erase(0, size);
    return true;
  }
  bool TakeChunks(std::string* body) {
    for (;;) {
      while (pending_.find("\r\n") == std::string::npos) {
        if (!Receive()) return false;
      }
      const size_t size = std::strtoul(pending_.c_str(), nullptr, 16);
      pending_.erase(0, pending_.find("\r\n") + 2);
      std::string end;
      if (!Take(size, body) || !Take(2, &end) || end != "\r\n") return false;
      if (size == 0) return true;
    }
  }

  int fd_;
  std::string pending_;
  bool ended_ = false;
};

}  // namespace clamor::edge::testing
