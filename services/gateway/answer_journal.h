// What is kept of an answer so that another worker can go on with it to the byte: the request as it was
// admitted, seed included, and the ids that came. As large as prompt and answer are, which the model's
// context bounds.
//
// Not thread-safe. Tested by tests/services/gateway/answer_journal_test.cc.
#pragma once

#include <cstdint>
#include <vector>

#include "clamor/v1/worker.pb.h"
#include "services/gateway/worker_call.h"

namespace clamor {

class AnswerJournal {
 public:
  // REQUIRES: the seed is set unless the request is greedy; else the rest would be drawn with another.
  // `revision`: of the model that must answer; empty: the first worker's.
  explicit AnswerJournal(v1::WorkerServiceStreamGenerateRequest request, std::string revision = "")
      : request_(std::move(request)), revision_(std::move(revision)) {}

  // What a worker sent, in order.
  void Add(const v1::Started& started);
  void Add(const v1::Delta& delta);

  // Makes request() that of the rest. REQUIRES: no call uses it.
  void GoOn();
  // Adds to the counts of the worker that went on, which knows of its own part alone, those of the workers
  // before it. The draft nodes that these had rejected are not known; their timings are not added.
  void Complete(v1::Finished* finished) const;

  // What the worker that has the answer was asked, and what it goes on with.
  const v1::WorkerServiceStreamGenerateRequest& request() const { return request_; }
  AnswerStart start() const { return {.text_bytes = text_bytes_, .revision = revision_}; }
  bool begun() const { return begun_; }  // a worker has admitted it
  uint64_t tokens() const { return static_cast<uint64_t>(request_.emitted_ids_size()) + fresh_ids_.size(); }

 private:
  v1::WorkerServiceStreamGenerateRequest request_;
  std::vector<uint32_t> fresh_ids_;  // since the last GoOn
  v1::SpeculationStats fresh_;       // likewise, as far as deltas tell
  v1::SpeculationStats before_;      // up to then
  uint64_t text_bytes_ = 0;
  bool begun_ = false, moved_ = false;
  std::string revision_;                         // of the first worker's model
  uint32_t cached_tokens_ = 0, max_tokens_ = 0;  // likewise of the first worker; 0: it did not say
};

}  // namespace clamor
