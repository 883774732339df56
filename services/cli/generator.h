// One answer to one prompt, computed in this process or by a gateway: generate and chat do not know which.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "services/cli/connection.h"
#include "services/cli/prompt.h"
#include "services/worker/loaded_model.h"
#include "services/worker/request.h"

namespace clamor::cli {

struct Question {
  Prompt prompt;
  Request options;               // its ids, tenant and prompt are not read
  std::string json_schema;       // what options.grammar was made from; empty: none
  std::optional<uint64_t> seed;  // unset: drawn, and told in the answer
};

struct Answer {
  std::string model;
  std::vector<int32_t> token_ids;
  std::vector<Source> sources;                         // [token_ids]
  std::optional<std::vector<TokenLogprobs>> logprobs;  // [token_ids] if the question asks for them
  std::string text;
  std::string finish_reason;  // stop, length or cancelled
  std::string matched_stop;
  uint64_t seed = 0;
  int64_t prompt_tokens = 0;
  GenerationStats stats;

  double tokens_per_second() const;  // while decoding
  double tokens_per_forward() const;
  void Add(const Delta& delta);           // goes on with it
  nlohmann::ordered_json ToJson() const;  // the object of `clamor generate --output json`
  std::string SpeedLine() const;          // "64 tokens in 0.52 s: 123.1 tokens/s, 2.31 tokens per forward"
};

class Generator {
 public:
  virtual ~Generator() = default;

  // Calls `on_delta` on the calling thread for what comes, and returns the whole. Stops early (finish_reason
  // "cancelled") once Interrupted() is set.
  virtual absl::StatusOr<Answer> Generate(const Question& question,
                                          absl::FunctionRef<void(const Delta&)> on_delta) = 0;
};

// `retrieval`: HOST:PORT of a store to take drafts from, or empty. `nodes`: that questions will ask for;
// kAuto measures the machine first.
absl::StatusOr<std::unique_ptr<Generator>> MakeLocalGenerator(LoadedModel model, const std::string& retrieval,
                                                              int32_t nodes);

// `server`: HOST:PORT of a gateway; `model`: as it names it, empty if it serves one.
absl::StatusOr<std::unique_ptr<Generator>> MakeGatewayGenerator(const std::string& server,
                                                                const ConnectionFlags& connection,
                                                                const std::string& model);

}  // namespace clamor::cli
