#include "services/gateway/request_limits.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"
#include "services/tenant.h"

namespace clamor {
namespace {

constexpr size_t kMaxModelName = 256;
constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int kMaxMessages = 1024;
constexpr int kMaxNodes = 128;
constexpr float kMaxTemperature = 100;
constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};

absl::Status CheckSampling(const v1::SamplingParameters& sampling) {
  auto reject = [](const char* field, float value, const char* range) {
    return InvalidField(absl::StrCat("options.sampling.", field),
                        absl::StrCat("is ", value, ", must be ", range));
  };
  // Written so that NaN fails.
  if (!(sampling.temperature() >= 0 && sampling.temperature() <= kMaxTemperature)) {
    return reject("temperature", sampling.temperature(), "0 to 100");
  }
  if (sampling.has_top_p() && !(sampling.top_p() > 0 && sampling.top_p() <= 1)) {
    return reject("top_p", sampling.top_p(), "above 0 and at most 1");
  }
  if (!(sampling.min_p() >= 0 && sampling.min_p() <= 1)) return reject("min_p", sampling.min_p(), "0 to 1");
  constexpr uint32_t kMaxTopK = std::numeric_limits<int32_t>::max();
  if (sampling.top_k() > kMaxTopK) {
    return InvalidField("options.sampling.top_k",
                        absl::StrCat("is ", sampling.top_k(), ", must be at most ", kMaxTopK));
  }
  return absl::OkStatus();
}

absl::Status CheckEnum(const char* field, bool valid, int value) {
  return valid ? absl::OkStatus() : InvalidField(field, absl::StrCat("is ", value, ", which has no meaning"));
}

}  // namespace

absl::Status CheckModelName(const std::string& name) {
  if (name.size() <= kMaxModelName) return absl::OkStatus();
  return InvalidField("model", absl::StrCat("has ", name.size(), " bytes, limit ", kMaxModelName));
}

absl::Status CheckOptions(const v1::GenerationOptions& options) {
  constexpr uint32_t kMaxTokens = std::numeric_limits<int32_t>::max();
  if (options.has_max_tokens() && (options.max_tokens() == 0 || options.max_tokens() > kMaxTokens)) {
    return InvalidField("options.max_tokens",
                        absl::StrCat("is ", options.max_tokens(), ", must be 1 to ", kMaxTokens));
  }
  CLAMOR_RETURN_IF_ERROR(CheckSampling(options.sampling()));
  if (options.stop_size() > kMaxStops) {
    return InvalidField("options.stop",
                        absl::StrCat("has ", options.stop_size(), " strings, limit ", kMaxStops));
  }
  for (int i = 0; i < options.stop_size(); ++i) {
    const size_t bytes = options.stop(i).size();
    if (bytes == 0 || bytes > kMaxStopBytes) {
      return InvalidField(absl::StrCat("options.stop[", i, "]"),
                          absl::StrCat("has ", bytes, " bytes, must have 1 to ", kMaxStopBytes));
    }
  }
  const v1::SpeculationOptions& speculation = options.speculation();
  if (speculation.has_nodes() && (speculation.nodes() < -1 || speculation.nodes() > kMaxNodes)) {
    return InvalidField("options.speculation.nodes",
                        absl::StrCat("is ", speculation.nodes(), ", must be -1 to ", kMaxNodes));
  }
  CLAMOR_RETURN_IF_ERROR(
      CheckEnum("options.speculation.tree", v1::DraftTree_IsValid(speculation.tree()), speculation.tree()));
  return CheckEnum("options.draft_scope", v1::DraftScope_IsValid(options.draft_scope()),
                   options.draft_scope());
}

absl::Status CheckMessages(const std::string& path,
                           const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  if (messages.empty() || messages.size() > kMaxMessages) {
    return InvalidField(path,
                        absl::StrCat("has ", messages.size(), " messages, must have 1 to ", kMaxMessages));
  }
  for (int i = 0; i < messages.size(); ++i) {
    if (std::find(kRoles.begin(), kRoles.end(), messages[i].role()) == kRoles.end()) {
      return InvalidField(absl::StrCat(path, "[", i, "].role"), "must be system, user, assistant or tool");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> CheckIds(const std::string& path,
                                              const google::protobuf::RepeatedField<uint32_t>& ids,
                                              uint32_t vocab_size) {
  auto wrong = std::find_if(ids.begin(), ids.end(), [&](uint32_t id) { return id >= vocab_size; });
  if (wrong != ids.end()) {
    return InvalidField(absl::StrCat(path, "[", wrong - ids.begin(), "]"),
                        absl::StrCat("is ", *wrong, ", must be below the vocabulary size ", vocab_size));
  }
  return std::vector<int32_t>(ids.begin(), ids.end());
}

absl::Status CheckContext(size_t prompt_tokens, const v1::GenerationOptions& options,
                          const v1::ModelInfo& model) {
  const uint64_t answer = options.has_max_tokens() ? options.max_tokens() : 1;
  if (prompt_tokens + answer <= model.max_context_tokens()) return absl::OkStatus();
  return Refusal("CONTEXT_TOO_LONG",
                 absl::StrCat("prompt of ", prompt_tokens, " tokens and max_tokens of ", answer,
                              " exceed the context of ", model.max_context_tokens()));
}

absl::StatusOr<std::string> TenantOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto it = metadata.find({kTenantMetadata.data(), kTenantMetadata.size()});
  if (it == metadata.end()) return std::string(kDefaultTenant);
  std::string tenant(it->second.data(), it->second.size());
  CLAMOR_RETURN_IF_ERROR(CheckTenant(kTenantMetadata, tenant));
  return tenant;
}

}  // namespace clamor
