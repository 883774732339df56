// A real redis-server of a test's own, on a free port of loopback, in a temporary folder.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace clamor::testing {

// A folder that goes when it does.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "clamor-session-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Waits until `condition` holds; false after twenty seconds.
template <class Condition>
bool Soon(Condition condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

// Whether any file under `folder` holds `text`.
inline bool OnDisk(const std::string& folder, const std::string& text) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    if (bytes.find(text) != bytes.npos) return true;
  }
  return false;
}

class RedisServer {
 public:
  // Whether there is a redis-server on this machine.
  static bool Installed() { return system("redis-server --version >/dev/null 2>&1") == 0; }
  static constexpr char kMissing[] = "NOT TESTED against Redis: install Debian's redis-server";

  explicit RedisServer(const std::vector<std::string>& flags = {}) : flags_(flags), port_(FreePort()) {
    Start();
  }
  ~RedisServer() { Kill(); }

  // As a power cut would leave it, but for what the system has written.
  void Kill() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    process_ = 0;
  }
  void Pause() const { kill(process_, SIGSTOP); }
  void Resume() const { kill(process_, SIGCONT); }

  // With what it had acknowledged; returns when it takes connections.
  void Start() {
    std::vector<std::string> words = {
        "redis-server", "--port", absl::StrCat(port_), "--bind", "127.0.0.1",     "--dir",  folder_.path(),
        "--save",       "",       "--appendonly",      "yes",    "--appendfsync", "always", "--logfile",
        folder_ / "log"};
    words.insert(words.end(), flags_.begin(), flags_.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    process_ = fork();
    if (process_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
    Soon([this] { return Connects(port_); });
  }

  int port() const { return port_; }
  std::string url() const { return absl::StrCat("redis://127.0.0.1:", port_, "/3"); }
  const TempFolder& folder() const { return folder_; }

  static int FreePort() {
    sockaddr_in address = Loopback(0);
    const int probe = socket(AF_INET, SOCK_STREAM, 0);
    bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    socklen_t size = sizeof(address);
    getsockname(probe, reinterpret_cast<sockaddr*>(&address), &size);
    close(probe);
    return ntohs(address.sin_port);
  }

 private:
  static sockaddr_in Loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }
  static bool Connects(int port) {
    const sockaddr_in address = Loopback(port);
    const int probe = socket(AF_INET, SOCK_STREAM, 0);
    const bool connected = connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    close(probe);
    return connected;
  }

  const std::vector<std::string> flags_;
  const TempFolder folder_;
  const int port_;
  pid_t process_ = 0;
};

}  // namespace clamor::testing
