// The gateway's events as OpenAI's objects: pure translation, chunk by chunk or as a whole.
//
// Not thread-safe. Tested by tests/services/edge/openai_answer_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "clamor/v1/generation.pb.h"
#include "clamor/v1/model.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "services/edge/openai_request.h"

namespace clamor::edge {

enum class ApiKind { kChat, kCompletion };

struct AnswerHead {
  ApiKind kind;
  std::string request_id;
  std::string model;
  absl::Time created;
  uint32_t answers = 1;
};

// Texts below are JSON, valid UTF-8 whatever the model said. Events carry the index of their answer, which is
// below `answers`, and those of one come in order.
class OpenAiAnswer {
 public:
  // `tokenizer` is the model's.
  OpenAiAnswer(AnswerHead head, const ReplyForm& form, std::shared_ptr<const Tokenizer> tokenizer);

  // Chunks of a stream; empty if the event has nothing to show.
  std::string Chunk(const v1::Started& started);
  std::string Chunk(const v1::Delta& delta);
  std::string Chunk(const v1::Finished& finished);
  // The last one; empty if the request does not ask for it.
  std::string UsageChunk();

  // Or the answer in one: all events are gathered first.
  void Gather(v1::Started started);
  void Gather(v1::Delta delta);
  void Gather(v1::Finished finished);
  std::string Whole();

 private:
  using Json = nlohmann::ordered_json;
  using Ids = google::protobuf::RepeatedField<uint32_t>;
  using Sources = google::protobuf::RepeatedField<int>;
  using Likelihoods = google::protobuf::RepeatedPtrField<v1::TokenLogprobs>;

  // One answer as far as it has come.
  struct Answer {
    std::optional<StreamDecoder> decoder;  // of the tokens that are shown one by one
    uint64_t seed = 0;
    uint64_t shown_text = 0;  // bytes of the tokens that had log-probabilities
    v1::Answer whole;         // unless it is streamed
  };

  bool chat() const { return head_.kind == ApiKind::kChat; }
  void Note(const v1::Started& started);
  Json Head(bool chunk) const;
  std::string ChunkOf(uint32_t index, Json choice, const char* finish_reason) const;
  Json Usage() const;
  Json TokenText(uint32_t id) const;
  Json TokenWithBytes(uint32_t id, float logprob) const;
  Json Logprobs(uint32_t choice, const Ids& ids, const Likelihoods& logprobs);
  Json ChatLogprobs(const Ids& ids, const Likelihoods& logprobs) const;
  Json CompletionLogprobs(Answer& answer, const Ids& ids, const Likelihoods& logprobs) const;
  Json Tokens(uint32_t choice, const Ids& ids, const Sources& sources);
  Json Tree(const v1::TracedTree& tree) const;
  Json Stats(const v1::Finished& finished) const;

  const AnswerHead head_;
  const ReplyForm form_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Answer> answers_;
  std::string revision_;
  uint32_t prompt_tokens_ = 0, cached_tokens_ = 0, completion_tokens_ = 0;
};

// {"object": "list", "data": [...]}, and one of them.
std::string ModelList(const v1::ListModelsResponse& models, absl::Time created);
std::string ModelObject(const v1::ModelInfo& model, absl::Time created);

}  // namespace clamor::edge
