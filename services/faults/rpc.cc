// Faults of messages, and the RPC and the flag that set them.
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "clamor/v1/faults.grpc.pb.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_interceptor.h"
#include "services/faults/active.h"
#include "services/faults/faults.h"

namespace clamor::faults {
namespace {

using grpc::experimental::InterceptionHookPoints;

class Service final : public v1::FaultService::CallbackService {
  grpc::ServerUnaryReactor* SetFaults(grpc::CallbackServerContext* context,
                                      const v1::SetFaultsRequest* request,
                                      v1::SetFaultsResponse* response) override {
    *response = Set(*request);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// Another bit each time, so that in time all parts of messages are met.
void Corrupt(grpc::ByteBuffer* message) {
  static std::atomic<size_t> turned = 0;
  std::vector<grpc::Slice> slices;
  if (message == nullptr || !message->Dump(&slices).ok()) return;
  std::string bytes;
  for (const grpc::Slice& slice : slices)
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  if (bytes.empty()) return;
  const size_t bit = turned.fetch_add(1) * 1009 % (8 * bytes.size());
  bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
  const grpc::Slice whole(bytes);
  grpc::ByteBuffer(&whole, 1).Swap(message);
}

// The socket whose other end is `peer`, as gRPC names it: ipv4:HOST:PORT.
void Drop(absl::string_view peer) {
  int port = 0;
  if (!absl::SimpleAtoi(peer.substr(peer.rfind(':') + 1), &port)) return;
  rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  for (int fd = 0; fd < static_cast<int>(std::min<rlim_t>(files.rlim_cur, 65536)); ++fd) {
    sockaddr_storage address;
    socklen_t size = sizeof(address);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) continue;
    const bool v4 = address.ss_family == AF_INET, v6 = address.ss_family == AF_INET6;
    const in_port_t other = v4   ? reinterpret_cast<const sockaddr_in*>(&address)->sin_port
                            : v6 ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                                 : 0;
    if (ntohs(other) == port) shutdown(fd, SHUT_RDWR);
  }
}

// Lives as long as one call.
class Messages final : public grpc::experimental::Interceptor {
 public:
  explicit Messages(grpc::experimental::ServerRpcInfo* info) : info_(info), method_(info->method()) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* batch) override {
    const bool sends = batch->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE);
    const auto fault = sends ? Pass(method_) : std::nullopt;
    if (!fault) return batch->Proceed();
    if (fault->kind() == v1::FAULT_KIND_CORRUPT) Corrupt(batch->GetSerializedSendMessage());
    if (fault->kind() == v1::FAULT_KIND_DROP) Drop(info_->server_context()->peer());
    const bool waits = fault->kind() == v1::FAULT_KIND_HANG || fault->kind() == v1::FAULT_KIND_SLOW;
    if (!waits) {
      Suffer(*fault);
      return batch->Proceed();
    }
    // gRPC's own threads are there for the other calls.
    std::thread([fault = *fault, batch] {
      Suffer(fault);
      batch->Proceed();
    }).detach();
  }

 private:
  grpc::experimental::ServerRpcInfo* const info_;
  const std::string method_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new Messages(info);
  }
};

}  // namespace

void AddFlag(CLI::App& app) {
  static std::string text;
  app.add_option("--faults", text, "What goes wrong from the start: text of a clamor.v1.SetFaultsRequest")
      ->check(SetText, "TEXT");
}

void AddTo(grpc::ServerBuilder& builder, Interceptors& interceptors) {
  static Service service;
  builder.RegisterService(&service);
  interceptors.push_back(std::make_unique<Factory>());
}

}  // namespace clamor::faults
