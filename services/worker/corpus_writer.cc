#include "services/worker/corpus_writer.h"

#include <openssl/evp.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

// The service is not there or busy: later it may take the same documents.
bool WorthRepeating(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:  // what a server that dies in the middle leaves
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string DocumentId(std::span<const int32_t> tokens) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(tokens.data(), tokens.size_bytes(), digest, &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), 16));
}

std::string_view CorpusOutcomeName(CorpusOutcome outcome) {
  constexpr std::string_view kNames[kCorpusOutcomes] = {"stored", "unchanged", "refused", "dropped"};
  return kNames[static_cast<size_t>(outcome)];
}

CorpusWriter::CorpusWriter(const std::shared_ptr<grpc::ChannelInterface>& channel,
                           const CorpusWriterOptions& options, Observer observer)
    : options_(options),
      observer_(std::move(observer)),
      stub_(v1::RetrievalService::NewStub(channel)),
      thread_([this] { Loop(); }) {}

CorpusWriter::~CorpusWriter() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    if (under_way_ != nullptr) under_way_->TryCancel();
  }
  thread_.join();
}

void CorpusWriter::Add(const std::string& tenant, std::vector<int32_t> tokens, const TracePlace& trace) {
  if (tokens.empty()) return;
  {
    absl::MutexLock lock(&mu_);
    if (queue_.size() < options_.max_queued_documents &&
        queued_tokens_ + tokens.size() <= options_.max_queued_tokens) {
      queued_tokens_ += tokens.size();
      queue_.push_back({tenant, std::move(tokens), trace});
      return;
    }
  }
  Observe(CorpusOutcome::kDropped);
}

bool CorpusWriter::Flush(absl::Time deadline) {
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithDeadline(absl::Condition(this, &CorpusWriter::Idle), deadline);
}

void CorpusWriter::Forget(const std::string& tenant, std::function<void()> then) {
  size_t dropped = 0;
  {
    absl::MutexLock lock(&mu_);
    dropped = std::erase_if(queue_, [&](const Entry& entry) {
      if (entry.tenant != tenant) return false;
      queued_tokens_ -= entry.tokens.size();
      return true;
    });
    if (busy_) after_batch_.push_back(std::exchange(then, nullptr));
  }
  for (size_t i = 0; i < dropped; ++i) Observe(CorpusOutcome::kDropped);
  if (then) then();
}

void CorpusWriter::EndBatch() {
  std::vector<std::function<void()>> after;
  {
    absl::MutexLock lock(&mu_);
    busy_ = false;
    after.swap(after_batch_);
  }
  for (const auto& then : after) then();
}

void CorpusWriter::Loop() {
  while (true) {
    std::vector<Entry> batch;
    EndBatch();
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &CorpusWriter::HasWork));
      if (stopping_) break;
      batch = TakeBatch();
      busy_ = true;
    }
    Write(batch);
  }
  EndBatch();
  absl::MutexLock lock(&mu_);
  for (size_t i = 0; i < queue_.size(); ++i) Observe(CorpusOutcome::kDropped);
  queue_.clear();
}

std::vector<CorpusWriter::Entry> CorpusWriter::TakeBatch() {
  std::vector<Entry> batch;
  while (!queue_.empty() && batch.size() < static_cast<size_t>(options_.batch_documents)) {
    queued_tokens_ -= queue_.front().tokens.size();
    batch.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  return batch;
}

void CorpusWriter::Write(std::span<const Entry> batch) {
  for (absl::Duration backoff = options_.min_backoff;;
       backoff = std::min(2 * backoff, options_.max_backoff)) {
    const grpc::Status status = Append(batch);
    if (status.ok()) return;
    if (!WorthRepeating(status)) {
      // One of them is refused for good: the others need not be.
      if (batch.size() == 1) return Observe(CorpusOutcome::kRefused);
      for (const Entry& entry : batch) Write({&entry, 1});
      return;
    }
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), backoff)) {
      for (size_t i = 0; i < batch.size(); ++i) Observe(CorpusOutcome::kDropped);
      return;
    }
  }
}

grpc::Status CorpusWriter::Append(std::span<const Entry> batch) {
  v1::AppendRequest request;
  std::vector<Span> spans;
  for (const Entry& entry : batch) {
    spans.push_back(entry.trace.Start("append", Span::Kind::kClient));
    v1::Document& document = *request.add_documents();
    document.mutable_namespace_()->set_tenant(entry.tenant);
    document.mutable_namespace_()->set_tokenizer_fingerprint(options_.tokenizer_fingerprint);
    document.set_id(DocumentId(entry.tokens));
    document.mutable_tokens()->Assign(entry.tokens.begin(), entry.tokens.end());
  }
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + options_.timeout));
  // A call stands in one trace: documents of several that travel together, in that of the first recorded.
  const auto traced =
      std::find_if(spans.begin(), spans.end(), [](const Span& span) { return span.context().sampled; });
  if (traced != spans.end()) AddTraceContext(traced->context(), &context);
  {
    absl::MutexLock lock(&mu_);
    under_way_ = &context;
    if (stopping_) context.TryCancel();
  }
  v1::AppendResponse response;
  const grpc::Status status = stub_->Append(&context, request, &response);
  {
    absl::MutexLock lock(&mu_);
    under_way_ = nullptr;
  }
  for (Span& span : spans) {
    if (!status.ok()) span.Fail(FromGrpc(status));
    span.End();
  }
  if (status.ok()) {
    for (size_t i = 0; i < batch.size(); ++i) {
      const bool known = static_cast<int>(i) < response.outcomes_size() &&
                         response.outcomes(static_cast<int>(i)) == v1::APPEND_OUTCOME_UNCHANGED;
      Observe(known ? CorpusOutcome::kUnchanged : CorpusOutcome::kStored);
    }
  }
  return status;
}

void CorpusWriter::Observe(CorpusOutcome outcome) const {
  if (observer_) observer_(outcome);
}

}  // namespace clamor
