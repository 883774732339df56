// How much each tenant has used since the gateway started.
//
// Threads: any. Tested by tests/services/gateway/prefix_memory_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace clamor {

class TenantUsage {
 public:
  static constexpr size_t kTenants = 65536;  // of those that come later the numbers go to `kOthers`
  static constexpr char kOthers[] = "";

  struct Numbers {
    uint64_t requests = 0, prompt_tokens = 0, completion_tokens = 0;
    friend bool operator==(const Numbers&, const Numbers&) = default;
  };

  // A request that has ended. One that brought no token counts without its prompt.
  void Add(const std::string& tenant, uint64_t prompt_tokens, uint64_t completion_tokens);
  void Forget(const std::string& tenant);
  // By tenant, those after `after` in the order of their names, at most `limit`.
  std::map<std::string, Numbers> Get(const std::string& after, size_t limit) const;

 private:
  mutable absl::Mutex mu_;
  std::map<std::string, Numbers> tenants_ ABSL_GUARDED_BY(mu_);
};

}  // namespace clamor
