// One request while it runs: its text so far, its pages, its drafter. Only Engine changes one.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "model/kv_cache.h"
#include "model/spec/answer_grammar.h"
#include "model/spec/answer_text.h"
#include "model/spec/logit_edits.h"
#include "model/spec/merged_drafter.h"
#include "services/worker/request.h"

namespace clamor {

struct Sequence {
  Sequence(uint64_t handle, Request request, TokenSink* sink, const Tokenizer* tokenizer)
      : handle(handle),
        request(std::move(request)),
        sink(sink),
        text(tokenizer, this->request.stop, this->request.min_tokens) {}

  uint64_t handle;
  Request request;
  TokenSink* sink;  // outlives the sequence
  AnswerText text;
  AnswerEnds ends;        // what may end the answer beside its text
  LogitEdits edits;       // of the answer so far
  AnswerGrammar grammar;  // likewise

  std::vector<int32_t> tokens;  // prompt, emitted before, emitted here; the last is the root of the next tree
  int64_t committed = 0;        // tokens[0, committed) have their keys and values in the cache
  int32_t max_tokens = 0;       // of the whole answer, resolved
  int64_t text_bytes = 0;       // of the answer, as sent
  KvLease pages;

  std::shared_ptr<DraftKnowledge> knowledge;  // of the tenant; the drafter uses it
  std::unique_ptr<Drafter> drafter;           // null: plain decoding
  DraftTree tree;                             // of the running step
  Accepted accepted;                          // of the running step

  int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt_ids.size()); }
  int64_t answer_tokens() const { return static_cast<int64_t>(tokens.size()) - prompt_tokens(); }
  bool was_admitted() const { return admitted != absl::Time(); }                 // though it may wait again
  bool begun() const { return was_admitted() || !request.emitted_ids.empty(); }  // here or elsewhere
  // The token after a row hangs on that row's logits alone, as they are: a device may draw it.
  bool draws_plainly() const {
    return !request.sampling.greedy() && !request.sampling.filters() && edits.empty() && grammar.empty();
  }
  // Known tokens before the newest that the model has not read.
  int64_t unread() const { return static_cast<int64_t>(tokens.size()) - 1 - committed; }

  GenerationStats stats;
  int32_t cached_tokens = 0;  // of the prompt, when it was admitted
  absl::Time queued, admitted, first_step_done = absl::InfiniteFuture();
};

}  // namespace clamor
