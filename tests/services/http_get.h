// One HTTP GET, for tests.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace clamor::testing {

struct HttpReply {
  int status = 0;  // 0: no answer
  std::string body;
};

// `address` is HOST:PORT with a numeric IPv4 host.
inline HttpReply HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &peer.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  HttpReply reply;
  if (connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)) == 0) {
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    std::string text;
    if (write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;)
        text.append(buffer, static_cast<size_t>(n));
    }
    if (text.size() > 12) reply.status = std::atoi(text.c_str() + 9);
    const size_t end = text.find("\r\n\r\n");
    if (end != std::string::npos) reply.body = text.substr(end + 4);
  }
  close(fd);
  return reply;
}

}  // namespace clamor::testing
