// TLS between the processes: who we are, whom we believe. Certificates are PEM files that are read again
// when they change, so that they are rotated without a restart; open connections go on.
//
//     certificate + key    what we show, as a server and, where the other side asks, as a client
//     client_ca            a server lets in only clients with a certificate that it signed (mTLS)
//     ca                   a client believes servers with a certificate that it signed, if the name is right
//
// Versions from 1.2 on. Tested by tests/services/security/tls_test.cc.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"

namespace clamor {

struct TlsOptions {
  std::string certificate, key;  // both or neither; without them a server speaks plaintext
  std::string ca;                // without it a client does
  std::string client_ca;
};

// Whether the files fit together and can be read, so that a mistake shows at the start. INVALID_ARGUMENT or
// NOT_FOUND names the flag and the file. What has expired is logged, not refused: it may be rotated.
absl::Status CheckTls(const TlsOptions& tls);

// Of checked options. What these return may be shared by all ports and channels of a process.
std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const TlsOptions& tls);
std::shared_ptr<grpc::ChannelCredentials> ChannelCredentialsOf(const TlsOptions& tls);

}  // namespace clamor
