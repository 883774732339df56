// What a client's request may ask. Structural checks need no model; the others are made against one. After
// them nobody checks again. INVALID_ARGUMENT names the field by its path in the request.
// Tested by tests/services/gateway/request_limits_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clamor/v1/generation.pb.h"
#include "services/gateway/served_model.h"

namespace clamor {

absl::Status CheckModelName(const std::string& name);
absl::Status CheckOptions(const v1::GenerationOptions& options);
absl::Status CheckMessages(const std::string& path,
                           const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages);

// Token ids of a request as the model's: each below its vocabulary size.
absl::StatusOr<std::vector<int32_t>> CheckIds(const std::string& path,
                                              const google::protobuf::RepeatedField<uint32_t>& ids,
                                              uint32_t vocab_size);
// Token ids of the options, likewise.
absl::Status CheckOptionIds(const v1::GenerationOptions& options, uint32_t vocab_size);
// Prompt and answer fit into the context; else "[CONTEXT_TOO_LONG]" with both numbers.
absl::Status CheckContext(size_t prompt_tokens, const v1::GenerationOptions& options,
                          const v1::ModelInfo& model);

}  // namespace clamor
