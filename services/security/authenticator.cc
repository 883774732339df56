#include "services/security/authenticator.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "grpc/grpc_security_constants.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"
#include "services/tenant.h"

namespace clamor {
namespace {

constexpr size_t kMaxKeyBytes = 1024;
// For those who run the service, not for those who use it.
constexpr absl::string_view kOperatorMethods[] = {"DeleteTenant", "GetUsage", "SetWorkerHold"};

bool Allows(const Grant& grant, absl::string_view method) {
  if (grant.everything) return true;
  if (!grant.methods.empty()) {
    return std::find(grant.methods.begin(), grant.methods.end(), method) != grant.methods.end();
  }
  return std::find(std::begin(kOperatorMethods), std::end(kOperatorMethods), method) ==
         std::end(kOperatorMethods);
}

absl::StatusOr<std::string> ClaimedTenant(const Credentials& credentials) {
  if (credentials.tenant.empty()) return std::string(kDefaultTenant);
  CLAMOR_RETURN_IF_ERROR(CheckTenant(kTenantMetadata, credentials.tenant));
  return credentials.tenant;
}

std::string MetadataOf(const grpc::ServerContextBase& context, absl::string_view key) {
  const auto& metadata = context.client_metadata();
  const auto it = metadata.find({key.data(), key.size()});
  return it == metadata.end() ? std::string() : std::string(it->second.data(), it->second.size());
}

}  // namespace

Credentials CredentialsOf(const grpc::ServerContextBase& context) {
  Credentials credentials{.authorization = MetadataOf(context, "authorization"),
                          .tenant = MetadataOf(context, kTenantMetadata),
                          .peer = context.peer()};
  const auto authenticated = context.auth_context();
  if (authenticated == nullptr || !authenticated->IsPeerAuthenticated()) return credentials;
  for (const char* property : {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
    for (const grpc::string_ref& name : authenticated->FindPropertyValues(property)) {
      credentials.certificate_names.emplace_back(name.data(), name.size());
    }
  }
  return credentials;
}

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Open(const std::string& key_file,
                                                                   AuditLog* audit) {
  auto authenticator = std::make_unique<Authenticator>();
  authenticator->audit_ = audit;
  CLAMOR_ASSIGN_OR_RETURN(
      authenticator->file_,
      WatchedFile::Open("--api-keys", key_file, [a = authenticator.get()](absl::string_view content) {
        CLAMOR_ASSIGN_OR_RETURN(KeyFile keys, ParseKeyFile(content));
        a->audit_->Record("keys_read", {{"keys", absl::StrCat(keys.keys.size())},
                                        {"certificates", absl::StrCat(keys.certificates.size())},
                                        {"quotas", absl::StrCat(keys.quotas.size())}});
        absl::MutexLock lock(&a->mu_);
        a->keys_ = std::make_shared<const KeyFile>(std::move(keys));
        return absl::OkStatus();
      }));
  return authenticator;
}

absl::StatusOr<Identity> Authenticator::Identify(const Credentials& credentials,
                                                 absl::string_view method) const {
  if (keys() == nullptr) {
    CLAMOR_ASSIGN_OR_RETURN(std::string tenant, ClaimedTenant(credentials));
    return Identity{.tenant = std::move(tenant)};
  }
  absl::StatusOr<Grant> grant = GrantOf(credentials);
  absl::Status status = grant.status();
  if (grant.ok() && !Allows(*grant, method)) {
    status = Refusal("NOT_ALLOWED", absl::StrCat(method, " is not for this caller"));
  } else if (grant.ok() && !credentials.tenant.empty() && credentials.tenant != grant->tenant) {
    status = Refusal("NOT_ALLOWED",
                     absl::StrCat(kTenantMetadata, " is not the tenant of these credentials; leave it out"));
  }
  if (status.ok()) return Identity{.tenant = std::move(grant->tenant)};
  audit_->Record("refused", {{"method", method},
                             {"reason", ReasonOf(status)},
                             {"tenant", grant.ok() ? absl::string_view(grant->tenant) : "-"},
                             {"peer", credentials.peer}});
  return status;
}

absl::StatusOr<Grant> Authenticator::GrantOf(const Credentials& credentials) const {
  const std::shared_ptr<const KeyFile> keys = this->keys();
  if (credentials.authorization.empty()) {
    for (const std::string& name : credentials.certificate_names) {
      const auto it = keys->certificates.find(name);
      if (it != keys->certificates.end()) return it->second;
    }
    return Refusal("UNAUTHENTICATED", credentials.certificate_names.empty()
                                          ? "no credentials: send the metadata `authorization: Bearer KEY`"
                                          : "no key, and the certificate is of nobody who is known here");
  }
  absl::string_view key = credentials.authorization;
  if (!absl::StartsWithIgnoreCase(key, "bearer ")) {
    return Refusal("UNAUTHENTICATED", "the authorization is not of the form `Bearer KEY`");
  }
  key.remove_prefix(7);
  const Sha256 hash = Sha256Of(key.substr(0, kMaxKeyBytes + 1));  // longer ones are nobody's
  // All are looked at, and each to its end: the time tells nothing of where they differ.
  const KeyFile::Key* found = nullptr;
  for (const KeyFile::Key& known : keys->keys) {
    if (CRYPTO_memcmp(known.hash.data(), hash.data(), hash.size()) == 0) found = &known;
  }
  if (found == nullptr) return Refusal("UNAUTHENTICATED", "the key is not known");
  return found->grant;
}

Quota Authenticator::QuotaOf(absl::string_view tenant) const {
  const std::shared_ptr<const KeyFile> keys = this->keys();
  if (keys == nullptr) return {};
  auto it = keys->quotas.find(tenant);
  if (it == keys->quotas.end()) it = keys->quotas.find("*");
  return it == keys->quotas.end() ? Quota() : it->second;
}

std::shared_ptr<const KeyFile> Authenticator::keys() const {
  absl::MutexLock lock(&mu_);
  return keys_;
}

}  // namespace clamor
