// A model as the gateway knows it: what its worker told, and its tokenizer. Immutable; any thread.
//
// Tested by tests/services/gateway/streaming_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clamor/v1/generation.pb.h"
#include "clamor/v1/model.pb.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace clamor {

// Whether workers of these models give the same answers, to the bit, so that one can go on where the other
// stopped.
bool AnswerAlike(const v1::ModelInfo& a, const v1::ModelInfo& b);

class ServedModel {
 public:
  // INVALID_ARGUMENT names the file that is not understood, or both fingerprints if they differ.
  static absl::StatusOr<std::shared_ptr<const ServedModel>> Load(const v1::ModelInfo& info,
                                                                 const TokenizerFiles& files);

  const v1::ModelInfo& info() const { return info_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

  // INVALID_ARGUMENT if the model has no chat template, or with what the template objects to.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) const;

 private:
  ServedModel() = default;
  v1::ModelInfo info_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<const ChatTemplate> chat_template_;  // null: none
};

}  // namespace clamor
