// Who a caller is. Every call of a client passes Identify; nothing else turns credentials into a tenant.
//
// Without a file of keys everybody is who they say they are. With one the tenant follows from the credentials
// alone: an API key (`authorization: Bearer KEY`), else the client's certificate.
// Threads: any. Tested by tests/services/security/authenticator_test.cc.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/server_context.h"
#include "services/security/audit_log.h"
#include "services/security/key_file.h"
#include "services/watched_file.h"

namespace clamor {

// What a call shows of its caller, over gRPC as over HTTP.
struct Credentials {
  std::string authorization;                   // that header's value; empty: there is none
  std::string tenant;                          // of x-clamor-tenant; empty: there is none
  std::vector<std::string> certificate_names;  // DNS names, URIs and CN of a certificate that was verified
  std::string peer;                            // its address, for the audit log
};
Credentials CredentialsOf(const grpc::ServerContextBase& context);

struct Identity {
  std::string tenant;
};

class Authenticator {
 public:
  // Everybody may call everything.
  Authenticator() = default;
  // Reads `key_file` now and whenever it changes. `audit` must outlive this. An error names the flag, the
  // file and the line.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Open(const std::string& key_file, AuditLog* audit);

  // Whether callers must show who they are.
  bool wants_credentials() const { return file_ != nullptr; }

  // Of a call of `method`, an RPC's name such as "StreamGenerate". UNAUTHENTICATED "[UNAUTHENTICATED]" if the
  // caller shows no credentials or none that is known; PERMISSION_DENIED "[NOT_ALLOWED]" if the method is not
  // for it, or if it says to be another tenant than its own; INVALID_ARGUMENT if that is no tenant's name.
  absl::StatusOr<Identity> Identify(const Credentials& credentials, absl::string_view method) const;

  // What the tenant may ask.
  Quota QuotaOf(absl::string_view tenant) const;

 private:
  absl::StatusOr<Grant> GrantOf(const Credentials& credentials) const;
  std::shared_ptr<const KeyFile> keys() const;  // null: everybody is let in

  AuditLog* audit_ = nullptr;
  mutable absl::Mutex mu_;
  std::shared_ptr<const KeyFile> keys_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<WatchedFile> file_;  // last: its thread sets keys_
};

}  // namespace clamor
