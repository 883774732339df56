#include "services/gateway/answer_journal.h"

#include <algorithm>

namespace clamor {
namespace {

void Count(v1::DraftSource source, v1::SpeculationStats& stats) {
  v1::AcceptedBySource& accepted = *stats.mutable_accepted();
  switch (source) {
    case v1::DRAFT_SOURCE_JACOBI:
      return accepted.set_jacobi(accepted.jacobi() + 1);
    case v1::DRAFT_SOURCE_CONTEXT:
      return accepted.set_context(accepted.context() + 1);
    case v1::DRAFT_SOURCE_STORE:
      return accepted.set_store(accepted.store() + 1);
    case v1::DRAFT_SOURCE_ADJACENCY:
      return accepted.set_adjacency(accepted.adjacency() + 1);
    case v1::DRAFT_SOURCE_RECYCLED:
      return accepted.set_recycled(accepted.recycled() + 1);
    case v1::DRAFT_SOURCE_NOISE:
      return accepted.set_noise(accepted.noise() + 1);
    default:  // the model's own: the last token of every forward, but maybe of the one that ends the answer
      return stats.set_forwards(stats.forwards() + 1);
  }
}

void Add(const v1::SpeculationStats& from, v1::SpeculationStats& to) {
  to.set_forwards(to.forwards() + from.forwards());
  to.set_draft_nodes(to.draft_nodes() + from.draft_nodes());
  const v1::AcceptedBySource& more = from.accepted();
  v1::AcceptedBySource& accepted = *to.mutable_accepted();
  accepted.set_jacobi(accepted.jacobi() + more.jacobi());
  accepted.set_context(accepted.context() + more.context());
  accepted.set_store(accepted.store() + more.store());
  accepted.set_adjacency(accepted.adjacency() + more.adjacency());
  accepted.set_recycled(accepted.recycled() + more.recycled());
  accepted.set_noise(accepted.noise() + more.noise());
}

}  // namespace

void AnswerJournal::Add(const v1::Started& started) {
  if (begun_) return;
  begun_ = true;
  revision_ = started.model_revision();
  cached_tokens_ = started.cached_tokens();
  max_tokens_ = started.max_tokens();
}

void AnswerJournal::Add(const v1::Delta& delta) {
  fresh_ids_.insert(fresh_ids_.end(), delta.token_ids().begin(), delta.token_ids().end());
  text_bytes_ += delta.text().size();
  for (const int source : delta.sources()) {
    Count(static_cast<v1::DraftSource>(source), fresh_);
    if (source != v1::DRAFT_SOURCE_UNSPECIFIED) fresh_.set_draft_nodes(fresh_.draft_nodes() + 1);
  }
}

void AnswerJournal::GoOn() {
  request_.mutable_emitted_ids()->Add(fresh_ids_.begin(), fresh_ids_.end());
  request_.set_follows(request_.follows() || begun_);
  // Where nobody said how long the answer may get, it depended on the first worker's memory: the next one may
  // have more.
  v1::GenerationOptions& options = *request_.mutable_options();
  if (!options.has_max_tokens() && max_tokens_ > 0) {
    options.set_max_tokens(max_tokens_);
    options.set_min_tokens(std::min(options.min_tokens(), max_tokens_));
  }
  fresh_ids_.clear();
  moved_ = true;
  clamor::Add(fresh_, before_);
  fresh_.Clear();
}

void AnswerJournal::Complete(v1::Finished* finished) const {
  if (!moved_) return;
  v1::Usage& usage = *finished->mutable_usage();
  usage.set_completion_tokens(usage.completion_tokens() + static_cast<uint32_t>(request_.emitted_ids_size()));
  usage.set_cached_tokens(cached_tokens_);
  clamor::Add(before_, *finished->mutable_speculation());
}

}  // namespace clamor
