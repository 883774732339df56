#include "services/cli/connection.h"

#include <cstdlib>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/support/client_interceptor.h"
#include "kernels/status_macros.h"
#include "services/flags.h"
#include "services/rpc_error.h"

namespace clamor::cli {
namespace {

namespace intercept = grpc::experimental;

// Sends the key with every call. gRPC's own call credentials would not do it without TLS, which a server on
// this machine may do without.
class KeySender final : public intercept::Interceptor {
 public:
  explicit KeySender(std::string authorization) : authorization_(std::move(authorization)) {}
  void Intercept(intercept::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(intercept::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", authorization_);
    }
    methods->Proceed();
  }

 private:
  const std::string authorization_;
};

class KeySenders final : public intercept::ClientInterceptorFactoryInterface {
 public:
  explicit KeySenders(const std::string& key) : authorization_(absl::StrCat("Bearer ", key)) {}
  intercept::Interceptor* CreateClientInterceptor(intercept::ClientRpcInfo*) override {
    return new KeySender(authorization_);
  }

 private:
  const std::string authorization_;
};

// Empty: there is none.
absl::StatusOr<std::string> ReadKey(const ConnectionFlags& flags) {
  std::string key;
  if (flags.api_key_file.empty()) {
    const char* value = std::getenv("CLAMOR_API_KEY");
    if (value != nullptr) key = value;
  } else {
    std::ifstream in(flags.api_key_file);
    if (!in || !std::getline(in, key)) {
      return absl::NotFoundError(absl::StrCat("--api-key-file: cannot read ", flags.api_key_file));
    }
  }
  absl::StripAsciiWhitespace(&key);
  for (const char c : key) {
    if (absl::ascii_isgraph(c)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(flags.api_key_file.empty() ? "CLAMOR_API_KEY" : "--api-key-file",
                     ": the key has a character that no key has"));
  }
  return key;
}

}  // namespace

void AddConnectionFlags(CLI::App& verb, ConnectionFlags& flags) {
  verb.add_option("--api-key-file", flags.api_key_file,
                  "File with the key that --server wants; CLAMOR_API_KEY if not given")
      ->group("Security");
  AddTlsFlags(verb, TlsSide::kClient, flags.tls);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& server,
                                                       const ConnectionFlags& flags,
                                                       const grpc::ChannelArguments& arguments) {
  CLAMOR_RETURN_IF_ERROR(CheckTls(flags.tls));
  CLAMOR_ASSIGN_OR_RETURN(const std::string key, ReadKey(flags));
  std::vector<std::unique_ptr<intercept::ClientInterceptorFactoryInterface>> senders;
  if (!key.empty()) senders.push_back(std::make_unique<KeySenders>(key));
  return intercept::CreateCustomChannelWithInterceptors(server, ChannelCredentialsOf(flags.tls), arguments,
                                                        std::move(senders));
}

absl::Status ServerStatus(const grpc::Status& grpc_status) {
  if (grpc_status.ok()) return absl::OkStatus();
  const absl::Status status = FromGrpc(grpc_status);
  const absl::string_view reason = ReasonOf(status);
  return absl::Status(status.code(), absl::StrCat("--server: ", MessageOf(status), " (",
                                                  absl::StatusCodeToString(status.code()),
                                                  reason.empty() ? "" : ", ", reason, ")"));
}

}  // namespace clamor::cli
