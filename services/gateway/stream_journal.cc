#include "services/gateway/stream_journal.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/answer_calls.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {

StreamJournal::StreamJournal(SessionKeeper* keeper, v1::StoredStream stream, GenerationListener* next)
    : keeper_(keeper), next_(next), stream_(std::move(stream)), pending_(AnswersOf(stream_.request())) {}

void StreamJournal::OnStarted(v1::Started started) {
  bool first = false;
  {
    absl::MutexLock lock(&mu_);
    first = !std::exchange(begun_, true);
  }
  if (first) {
    // Where nobody said how long the answer may get, it depends on this worker's memory.
    v1::GenerationOptions& options = *stream_.mutable_request()->mutable_options();
    if (!options.has_max_tokens() && started.max_tokens() > 0) {
      options.set_max_tokens(started.max_tokens());
      options.set_min_tokens(std::min(options.min_tokens(), started.max_tokens()));
    }
    stream_.mutable_model()->set_revision(started.model_revision());
  }
  Add(std::move(started));
  if (first && !keeper_->Run([this] { Write(); }).ok()) Release(false);
}

void StreamJournal::OnDelta(v1::Delta delta) { Add(std::move(delta)); }
void StreamJournal::OnFinished(v1::Finished finished) { Add(std::move(finished)); }

template <class Event>
void StreamJournal::Add(Event event) {
  absl::MutexLock lock(&mu_);
  pending_.Add(std::move(event));
  if (written_) PassOn();
}

void StreamJournal::OnEnded(const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    ended_ = true;
    status_ = status;
    if (begun_ && !written_) return;
  }
  next_->OnEnded(status);
}

void StreamJournal::Write() {
  const absl::Status put = keeper_->store().PutStream(stream_, keeper_->options().stream_ttl);
  if (!put.ok()) {
    spdlog::warn("event=stream_not_kept id={} error=\"{}\"", stream_.request().request_id(),
                 std::string(MessageOf(put)));
  }
  Release(put.ok());
}

void StreamJournal::Release(bool kept) {
  absl::Status end;
  {
    absl::MutexLock lock(&mu_);
    written_ = true;
    kept_ = kept;
    PassOn();
    if (!ended_) return;
    end = status_;
  }
  next_->OnEnded(end);  // which may end this
}

void StreamJournal::PassOn() {
  for (v1::StreamGenerateResponse event; pending_.Pop(&event); event.Clear()) {
    if (event.has_started()) {
      event.mutable_started()->set_resumable(kept_);
      next_->OnStarted(std::move(*event.mutable_started()));
    } else if (event.has_delta()) {
      next_->OnDelta(std::move(*event.mutable_delta()));
    } else {
      next_->OnFinished(std::move(*event.mutable_finished()));
    }
  }
}

void ResumedAnswer::OnStarted(v1::Started started) {
  started.set_resumable(true);
  next_->OnStarted(std::move(started));
}

void ResumedAnswer::OnDelta(v1::Delta delta) {
  const uint64_t tokens = tokens_ + static_cast<uint64_t>(delta.token_ids_size());
  const uint64_t text_bytes = text_bytes_ + delta.text().size();
  if (error_.ok()) error_ = CutText(delta);
  CutTokens(delta);
  tokens_ = tokens;
  text_bytes_ = text_bytes;
  if (error_.ok() && (delta.token_ids_size() > 0 || !delta.text().empty())) next_->OnDelta(std::move(delta));
}

void ResumedAnswer::CutTokens(v1::Delta& delta) const {
  const uint64_t cut = std::min<uint64_t>(std::max(has_.next_token_index(), tokens_) - tokens_,
                                          static_cast<uint64_t>(delta.token_ids_size()));
  const auto count = static_cast<int>(cut);
  delta.set_first_token_index(std::max(tokens_ + cut, has_.next_token_index()));
  delta.mutable_token_ids()->erase(delta.token_ids().begin(), delta.token_ids().begin() + count);
  const int sources = std::min(count, delta.sources_size()),
            logprobs = std::min(count, delta.logprobs_size()),
            text_bytes = std::min(count, delta.text_bytes_size());
  delta.mutable_sources()->erase(delta.sources().begin(), delta.sources().begin() + sources);
  delta.mutable_logprobs()->DeleteSubrange(0, logprobs);
  delta.mutable_text_bytes()->erase(delta.text_bytes().begin(), delta.text_bytes().begin() + text_bytes);
  int trees = 0;  // of forwards whose tokens the client has begun to get
  while (trees < delta.trees_size() && delta.trees(trees).first_token_index() < has_.next_token_index())
    ++trees;
  delta.mutable_trees()->DeleteSubrange(0, trees);
}

absl::Status ResumedAnswer::CutText(v1::Delta& delta) const {
  const std::string& text = delta.text();
  const uint64_t cut =
      std::min<uint64_t>(std::max(has_.next_text_byte(), text_bytes_) - text_bytes_, text.size());
  if (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) {
    return InvalidField("next_text_byte",
                        absl::StrCat("is ", has_.next_text_byte(), ", which is inside a character"));
  }
  delta.set_first_text_byte(std::max(text_bytes_ + cut, has_.next_text_byte()));
  delta.mutable_text()->erase(0, cut);
  return absl::OkStatus();
}

void ResumedAnswer::OnFinished(v1::Finished finished) {
  if (error_.ok() && has_.next_token_index() > tokens_) {
    error_ = InvalidField("next_token_index", absl::StrCat("is ", has_.next_token_index(),
                                                           ", the answer has ", tokens_, " tokens"));
  }
  if (error_.ok() && has_.next_text_byte() > text_bytes_) {
    error_ = InvalidField("next_text_byte", absl::StrCat("is ", has_.next_text_byte(), ", the answer has ",
                                                         text_bytes_, " bytes"));
  }
  if (error_.ok()) next_->OnFinished(std::move(finished));
}

void ResumedAnswer::OnEnded(const absl::Status& status) { next_->OnEnded(status.ok() ? error_ : status); }

}  // namespace clamor
