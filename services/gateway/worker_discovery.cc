#include "services/gateway/worker_discovery.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/status_macros.h"
#include "services/log.h"

namespace clamor {
namespace {

constexpr size_t kMaxWorkers = 1024;

absl::StatusOr<std::vector<std::string>> ResolveByDns(const std::string& name, const std::string& port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(name.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(gai_strerror(error));
  }
  std::vector<std::string> addresses;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    char host[NI_MAXHOST], service[NI_MAXSERV];
    if (getnameinfo(info->ai_addr, info->ai_addrlen, host, sizeof(host), service, sizeof(service),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
      continue;
    }
    const bool v6 = info->ai_family == AF_INET6;
    addresses.push_back(absl::StrCat(v6 ? "[" : "", host, v6 ? "]" : "", ":", service));
  }
  freeaddrinfo(found);
  return addresses;
}

}  // namespace

absl::StatusOr<WorkerEntry> ParseWorkerEntry(absl::string_view text) {
  WorkerEntry entry;
  absl::string_view rest = text;
  entry.is_name = absl::ConsumePrefix(&rest, "dns:///") || absl::ConsumePrefix(&rest, "dns:");
  const size_t colon = rest.rfind(':');
  uint32_t port = 0;
  if (colon == rest.npos || colon == 0 || !absl::SimpleAtoi(rest.substr(colon + 1), &port) || port == 0 ||
      port > 65535 || absl::StrContains(rest, '/')) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is neither HOST:PORT nor dns:///NAME:PORT"));
  }
  entry.host = std::string(rest.substr(0, colon));
  entry.port = absl::StrCat(port);
  return entry;
}

absl::StatusOr<std::unique_ptr<WorkerDiscovery>> WorkerDiscovery::Start(
    const std::vector<std::string>& entries, const WorkerDiscoveryOptions& options, Fleet* fleet) {
  std::unique_ptr<WorkerDiscovery> discovery(new WorkerDiscovery(options, fleet));
  bool follows = !options.file.empty();
  for (const std::string& text : entries) {
    auto entry = ParseWorkerEntry(text);
    if (!entry.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--workers: ", entry.status().message()));
    }
    follows |= entry->is_name;
    discovery->listed_.push_back(*std::move(entry));
  }
  if (!options.file.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(
        discovery->file_,
        WatchedFile::Open("--workers-file", options.file,
                          [d = discovery.get()](absl::string_view content) { return d->Take(content); }));
  }
  discovery->Resolve();
  if (follows) discovery->thread_ = std::thread([d = discovery.get()] { d->Run(); });
  return discovery;
}

WorkerDiscovery::~WorkerDiscovery() {
  file_.reset();
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status WorkerDiscovery::Take(absl::string_view file) {
  std::vector<WorkerEntry> entries;
  for (absl::string_view line : absl::StrSplit(file, '\n')) {
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    CLAMOR_ASSIGN_OR_RETURN(WorkerEntry entry, ParseWorkerEntry(line));
    entries.push_back(std::move(entry));
  }
  absl::MutexLock lock(&mu_);
  of_file_ = std::move(entries);
  changed_ = true;
  return absl::OkStatus();
}

void WorkerDiscovery::Resolve() {
  std::vector<WorkerEntry> entries = listed_;
  {
    absl::MutexLock lock(&mu_);
    entries.insert(entries.end(), of_file_.begin(), of_file_.end());
  }
  std::vector<WorkerAddress> workers;
  const auto add = [&workers](const WorkerAddress& worker) {
    if (std::find(workers.begin(), workers.end(), worker) == workers.end()) workers.push_back(worker);
  };
  for (const WorkerEntry& entry : entries) {
    const std::string name = absl::StrCat(entry.host, ":", entry.port);
    if (!entry.is_name) {
      add({.address = name});
      continue;
    }
    auto addresses = (options_.resolve ? options_.resolve : ResolveByDns)(entry.host, entry.port);
    std::vector<WorkerAddress>& known = resolved_[name];
    if (addresses.ok()) {
      known.clear();
      for (std::string& address : *addresses) {
        known.push_back({.address = std::move(address), .tls_name = entry.host});
      }
    } else {
      spdlog::warn("event=workers_not_resolved name={} error={} kept={}", Quoted(name),
                   Quoted(std::string(addresses.status().message())), known.size());
    }
    std::sort(known.begin(), known.end());
    std::for_each(known.begin(), known.end(), add);
  }
  if (workers.size() > kMaxWorkers) {
    spdlog::warn("event=too_many_workers found={} limit={}", workers.size(), kMaxWorkers);
    workers.resize(kMaxWorkers);
  }
  fleet_->SetWorkers(std::move(workers));
}

void WorkerDiscovery::Run() {
  const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return changed_ || stopping_; };
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&wanted), options_.every);
      if (stopping_) return;
      changed_ = false;
    }
    Resolve();
  }
}

}  // namespace clamor
