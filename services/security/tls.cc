#include "services/security/tls.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "kernels/status_macros.h"
#include "services/keep_grpc.h"
#include "services/log.h"

namespace clamor {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

constexpr unsigned kReadEverySeconds = 1;

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

absl::Status Bad(const char* flag, const std::string& path, const char* problem) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": \"", path, "\" ", problem));
}

// The first certificate of a file; logs if its time is over.
absl::Status CheckCertificate(const char* flag, const std::string& path) {
  std::unique_ptr<std::FILE, Closer> file(std::fopen(path.c_str(), "r"));
  if (file == nullptr) return absl::NotFoundError(absl::StrCat(flag, ": \"", path, "\" cannot be read"));
  std::unique_ptr<X509, Closer> certificate(PEM_read_X509(file.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) return Bad(flag, path, "has no PEM certificate");
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    spdlog::warn("event=certificate_expired flag={} path={}", flag, Quoted(path));
  }
  return absl::OkStatus();
}

absl::Status CheckPair(const TlsOptions& tls) {
  std::unique_ptr<SSL_CTX, Closer> context(SSL_CTX_new(TLS_method()));
  if (SSL_CTX_use_certificate_chain_file(context.get(), tls.certificate.c_str()) != 1) {
    return Bad("--tls-cert", tls.certificate, "is no PEM certificate chain");
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), tls.key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(context.get()) != 1) {
    return Bad("--tls-key", tls.key, "is not the PEM key of the certificate of --tls-cert");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTls(const TlsOptions& tls) {
  if (!tls.certificate.empty()) {
    CLAMOR_RETURN_IF_ERROR(CheckCertificate("--tls-cert", tls.certificate));
    CLAMOR_RETURN_IF_ERROR(CheckPair(tls));
  }
  if (!tls.ca.empty()) CLAMOR_RETURN_IF_ERROR(CheckCertificate("--tls-ca", tls.ca));
  if (!tls.client_ca.empty()) CLAMOR_RETURN_IF_ERROR(CheckCertificate("--tls-client-ca", tls.client_ca));
  return absl::OkStatus();
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const TlsOptions& tls) {
  KeepGrpc();
  if (tls.certificate.empty()) return grpc::InsecureServerCredentials();
  grpc::experimental::TlsServerCredentialsOptions options(std::make_shared<FileWatcherCertificateProvider>(
      tls.key, tls.certificate, tls.client_ca, kReadEverySeconds));
  options.watch_identity_key_cert_pairs();
  if (!tls.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> ChannelCredentialsOf(const TlsOptions& tls) {
  KeepGrpc();
  if (tls.ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(
      std::make_shared<FileWatcherCertificateProvider>(tls.key, tls.certificate, tls.ca, kReadEverySeconds));
  options.watch_root_certs();
  if (!tls.certificate.empty()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace clamor
