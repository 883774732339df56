#include "services/worker/retrieval_drafter.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"

namespace clamor {
namespace {

constexpr uint32_t kLongestMatch = 1u << 20;

// The trie in our own terms, or nothing if the service broke its contract: links must point back, counts be
// at least 1 and at most their totals, ids be in the vocabulary.
std::optional<ContinuationTrie> Parse(const v1::ContinuationTrie& message, int32_t vocab_size) {
  const int size = message.tokens_size();
  if (size > RetrievalDrafterOptions::kMaxNodes) return std::nullopt;
  if (message.parents_size() != size || message.counts_size() != size) return std::nullopt;
  if (message.match_length() > kLongestMatch) return std::nullopt;
  const bool evidence = message.totals_size() > 0;
  if (evidence && (message.totals_size() != size || message.match_lengths_size() != size))
    return std::nullopt;
  ContinuationTrie trie;
  trie.match_length = static_cast<int32_t>(message.match_length());
  trie.occurrences = message.occurrences();
  trie.nodes.reserve(size);
  for (int i = 0; i < size; ++i) {
    const uint32_t token = message.tokens(i), parent_plus_one = message.parents(i), count = message.counts(i);
    if (token >= static_cast<uint32_t>(vocab_size) || parent_plus_one > static_cast<uint32_t>(i) ||
        count < 1) {
      return std::nullopt;
    }
    ContinuationTrie::Node node = {static_cast<int32_t>(token), static_cast<int32_t>(parent_plus_one) - 1,
                                   count};
    if (evidence) {
      if (message.totals(i) < count || message.match_lengths(i) > kLongestMatch) return std::nullopt;
      node.total = message.totals(i);
      node.match_length = static_cast<int32_t>(message.match_lengths(i));
    }
    trie.nodes.push_back(node);
  }
  return trie;
}

}  // namespace

std::string_view LookupOutcomeName(LookupOutcome outcome) {
  constexpr std::string_view kNames[kLookupOutcomes] = {"ok",      "timeout",      "error",
                                                        "invalid", "breaker_open", "dropped"};
  return kNames[static_cast<size_t>(outcome)];
}

std::shared_ptr<grpc::Channel> MakeRetrievalChannel(const std::string& target, const TlsOptions& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 250);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 250);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A machine that vanished without a word is noticed, and the follower asked instead: deadlines alone would
  // leave the connection as it is.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // We ask again ourselves. gRPC's own retries can lose a call that meets a server in the moment in which it
  // closes: in 1.51 it then never ends, not even at its deadline.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel(target, ChannelCredentialsOf(tls), arguments);
}

// One Lookup on its way.
struct RetrievalDrafter::Call {
  struct Question {
    uint64_t sequence;
    uint64_t epoch;
    int64_t position;
  };
  v1::LookupRequest request;
  std::vector<Question> questions;  // in the order of the request
  absl::Time started;
};

RetrievalDrafter::RetrievalDrafter(const std::shared_ptr<grpc::ChannelInterface>& channel,
                                   const RetrievalDrafterOptions& options, Observer observer,
                                   const std::shared_ptr<grpc::ChannelInterface>& follower,
                                   HedgedLookup::Observer on_hedge)
    : options_(options),
      observer_(std::move(observer)),
      lookups_(channel, follower, options.timeout, std::move(on_hedge)),
      breaker_(options.breaker),
      sender_([this] { SendLoop(); }) {}

RetrievalDrafter::~RetrievalDrafter() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  sender_.join();
  lookups_.Cancel();
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(
      +[](std::vector<Call*>* calls) { return calls->empty(); }, &outstanding_));
}

void RetrievalDrafter::Ask(uint64_t sequence, std::span<const std::string_view> tenants,
                           std::span<const int32_t> context, int64_t position) {
  const size_t sent = std::min<size_t>(context.size(), options_.max_match);
  std::optional<LookupOutcome> refused;
  {
    absl::MutexLock lock(&mu_);
    Slot& slot = slots_[sequence];
    if (slot.epoch == 0) slot.epoch = ++last_epoch_;
    if (!slot.queued && queue_.size() >= RetrievalDrafterOptions::kMaxQueries) {
      refused = LookupOutcome::kDropped;
    } else if (!breaker_.Allow(absl::Now())) {
      refused = LookupOutcome::kBreakerOpen;
    } else {
      slot.tenants.assign(tenants.begin(), tenants.end());
      slot.context.assign(context.end() - sent, context.end());
      slot.position = position;
      if (!slot.queued) queue_.push_back(sequence);
      slot.queued = true;
    }
  }
  if (refused.has_value()) Observe(*refused, 0);
}

std::optional<ContinuationSource::Answer> RetrievalDrafter::Take(uint64_t sequence) {
  absl::MutexLock lock(&mu_);
  const auto slot = slots_.find(sequence);
  if (slot == slots_.end()) return std::nullopt;
  return std::exchange(slot->second.answer, std::nullopt);
}

bool RetrievalDrafter::Await(absl::Time deadline) {
  absl::MutexLock lock(&mu_);
  awaited_ = true;
  const bool quiet = mu_.AwaitWithDeadline(absl::Condition(this, &RetrievalDrafter::IsQuiet), deadline);
  awaited_ = false;
  return quiet;
}

void RetrievalDrafter::Forget(uint64_t sequence) {
  absl::MutexLock lock(&mu_);
  slots_.erase(sequence);  // what is left of it in queue_ is skipped
}

bool RetrievalDrafter::MaySend() const {
  return stopping_ ||
         (!queue_.empty() && outstanding_.size() < static_cast<size_t>(options_.max_outstanding));
}

void RetrievalDrafter::SendLoop() {
  while (true) {
    std::unique_ptr<Call> call;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &RetrievalDrafter::MaySend));
      // The engine asks for its sequences one after the other: let it finish, so that they travel together.
      mu_.AwaitWithTimeout(absl::Condition(this, &RetrievalDrafter::IsToldToSend), options_.gather);
      if (stopping_) return;
      call = Gather();
    }
    if (call != nullptr) Start(std::move(call));
  }
}

std::unique_ptr<RetrievalDrafter::Call> RetrievalDrafter::Gather() {
  auto call = std::make_unique<Call>();
  size_t left = queue_.size();
  for (const uint64_t sequence : std::exchange(queue_, {})) {
    --left;
    const auto found = slots_.find(sequence);
    if (found == slots_.end() || !found->second.queued) continue;
    Slot& slot = found->second;
    slot.queued = false;
    for (const std::string& tenant : slot.tenants) {
      const bool is_own = &tenant == &slot.tenants.front();
      if (!is_own && call->questions.size() + left >= RetrievalDrafterOptions::kMaxQueries) break;
      AddQuery(slot, tenant, *call->request.add_queries());
      call->questions.push_back({sequence, slot.epoch, slot.position});
    }
  }
  if (call->questions.empty() || !breaker_.Allow(absl::Now())) return nullptr;
  breaker_.OnStart();
  outstanding_.push_back(call.get());
  return call;
}

void RetrievalDrafter::AddQuery(const Slot& slot, const std::string& tenant, v1::LookupQuery& query) const {
  query.mutable_namespace_()->set_tenant(tenant);
  query.mutable_namespace_()->set_tokenizer_fingerprint(options_.tokenizer_fingerprint);
  query.mutable_context()->Assign(slot.context.begin(), slot.context.end());
  query.set_max_match(options_.max_match);
  query.set_min_match(1);  // little evidence, but the drafter knows how little
  query.set_max_nodes(std::min(options_.max_nodes, RetrievalDrafterOptions::kMaxNodes));
}

void RetrievalDrafter::Start(std::unique_ptr<Call> call) {
  Call* const raw = call.release();  // OnReply takes it back
  raw->started = absl::Now();
  lookups_.Start(std::move(raw->request),
                 [this, raw](const grpc::Status& status, v1::LookupResponse& response) {
                   OnReply(raw, status, response);
                 });
}

void RetrievalDrafter::OnReply(Call* raw, const grpc::Status& status, const v1::LookupResponse& response) {
  const std::unique_ptr<Call> call(raw);
  const absl::Time now = absl::Now();
  LookupOutcome outcome = LookupOutcome::kOk;
  std::vector<ContinuationTrie> tries;
  if (!status.ok()) {
    outcome = status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ? LookupOutcome::kTimeout
                                                                         : LookupOutcome::kError;
  } else if (static_cast<size_t>(response.tries_size()) != call->questions.size()) {
    outcome = LookupOutcome::kInvalid;
  } else {
    for (const v1::ContinuationTrie& message : response.tries()) {
      std::optional<ContinuationTrie> trie = Parse(message, options_.vocab_size);
      if (!trie.has_value()) {
        outcome = LookupOutcome::kInvalid;
        break;
      }
      tries.push_back(*std::move(trie));
    }
  }
  Observe(outcome, absl::ToDoubleSeconds(now - call->started));

  absl::MutexLock lock(&mu_);
  if (outcome == LookupOutcome::kOk) {
    breaker_.OnSuccess();
    for (size_t i = 0; i < tries.size(); ++i) {
      const Call::Question& question = call->questions[i];
      const auto slot = slots_.find(question.sequence);
      if (slot == slots_.end() || slot->second.epoch != question.epoch) continue;
      // Calls may overtake one another: an answer older than the one at hand is of no use.
      // And of two tenants' answers to one question the longer match is of more.
      const std::optional<Answer>& known = slot->second.answer;
      if (known && known->position > question.position) continue;
      if (known && known->position == question.position && known->trie.match_length >= tries[i].match_length)
        continue;
      slot->second.answer = Answer{question.position, std::move(tries[i])};
    }
  } else {
    breaker_.OnFailure(now);
  }
  outstanding_.erase(std::find(outstanding_.begin(), outstanding_.end(), raw));
}

void RetrievalDrafter::Observe(LookupOutcome outcome, double seconds) const {
  if (observer_) observer_(outcome, seconds);
}

}  // namespace clamor
