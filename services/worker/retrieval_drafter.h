// Continuations from the shared store (source S), asked of the retrieval service one step ahead.
//
// Questions of one step are gathered and sent as one Lookup with a short deadline; an answer serves the next
// step. Nothing but Await, which has a deadline of its own, waits on the network: a slow, dead or lying
// service costs drafts, never time or correctness. After some failures in a row a breaker stops calls and
// lets single ones through until the service is back.
//
// Threads: the engine's thread calls; gRPC's threads and one sender thread answer.
// Tested by tests/services/worker/retrieval_drafter_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "grpcpp/channel.h"
#include "model/spec/continuation_source.h"
#include "services/circuit_breaker.h"
#include "services/security/tls.h"
#include "services/worker/hedged_lookup.h"

namespace clamor {

struct RetrievalDrafterOptions {
  std::string tokenizer_fingerprint;
  int32_t vocab_size = 0;  // an answer with another id is refused
  absl::Duration timeout = absl::Milliseconds(20);
  absl::Duration gather = absl::Microseconds(100);  // after a step's first question, before it is sent
  int32_t max_outstanding = 4;  // calls under way; questions wait, the newest of each sequence
  int32_t max_match = 32;       // tokens of context sent
  int32_t max_nodes = 64;       // of an answer, at most kMaxNodes
  CircuitBreakerOptions breaker;

  static constexpr int32_t kMaxNodes = 256;
  static constexpr int32_t kMaxQueries = 256;  // of a Lookup
};

// How a question ended: label `outcome` of clamor_worker_retrieval_requests_total.
enum class LookupOutcome : uint8_t { kOk, kTimeout, kError, kInvalid, kBreakerOpen, kDropped };
inline constexpr size_t kLookupOutcomes = 6;
std::string_view LookupOutcomeName(
    LookupOutcome outcome);  // "ok", "timeout", "error", "invalid", "breaker_open", "dropped"

// A channel that looks for a lost server every quarter second to two seconds.
std::shared_ptr<grpc::Channel> MakeRetrievalChannel(const std::string& target, const TlsOptions& tls = {});

class RetrievalDrafter final : public ContinuationSource {
 public:
  // Told of every call that ended (`seconds` it took) and every question that was not sent (0). From any
  // thread.
  using Observer = std::function<void(LookupOutcome outcome, double seconds)>;

  // `follower`: to a server with the same documents, which is asked where `channel`'s is slow or fails
  // (hedged_lookup.h); null: there is none.
  RetrievalDrafter(const std::shared_ptr<grpc::ChannelInterface>& channel,
                   const RetrievalDrafterOptions& options, Observer observer,
                   const std::shared_ptr<grpc::ChannelInterface>& follower = nullptr,
                   HedgedLookup::Observer on_hedge = nullptr);
  // Cancels what is under way and waits for it.
  ~RetrievalDrafter() override;

  void Ask(uint64_t sequence, std::span<const std::string_view> tenants, std::span<const int32_t> context,
           int64_t position) override;
  std::optional<Answer> Take(uint64_t sequence) override;
  bool Await(absl::Time deadline) override;
  void Forget(uint64_t sequence) override;

 private:
  // What is known of a sequence.
  struct Slot {
    uint64_t epoch = 0;  // differs between sequences of one number: no answer goes to the wrong one
    bool queued = false;
    std::vector<std::string> tenants;
    std::vector<int32_t> context;
    int64_t position = 0;
    std::optional<Answer> answer;
  };
  struct Call;

  void SendLoop();
  // What is queued as one call; null if nothing is, or the breaker says no.
  std::unique_ptr<Call> Gather() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddQuery(const Slot& slot, const std::string& tenant, v1::LookupQuery& query) const;
  bool IsQuiet() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return queue_.empty() && outstanding_.empty(); }
  bool IsToldToSend() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || awaited_; }
  bool MaySend() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Start(std::unique_ptr<Call> call);
  void OnReply(Call* call, const grpc::Status& status, const v1::LookupResponse& response);
  void Observe(LookupOutcome outcome, double seconds) const;

  const RetrievalDrafterOptions options_;
  const Observer observer_;
  HedgedLookup lookups_;

  absl::Mutex mu_;
  absl::flat_hash_map<uint64_t, Slot> slots_ ABSL_GUARDED_BY(mu_);
  std::vector<uint64_t> queue_ ABSL_GUARDED_BY(mu_);  // sequences whose slot is queued, each once
  std::vector<Call*> outstanding_ ABSL_GUARDED_BY(mu_);
  CircuitBreaker breaker_ ABSL_GUARDED_BY(mu_);
  uint64_t last_epoch_ ABSL_GUARDED_BY(mu_) = 0;
  bool awaited_ ABSL_GUARDED_BY(mu_) = false;  // all of the step's questions are there
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::thread sender_;
};

}  // namespace clamor
