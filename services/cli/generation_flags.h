// Flags that `generate` and `chat` share: where the model runs and how it answers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "services/cli/connection.h"
#include "services/cli/generator.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {

struct GenerationFlags {
  ModelOptions model;
  std::string server;  // of a gateway, in place of model.directory
  ConnectionFlags connection;
  std::string model_name;  // at the gateway
  std::string retrieval;   // of a store, with model.directory
  Request options;
  std::string json_schema;  // a file
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;  // ID:BIAS each
  std::string nodes = "auto";
  std::string tree = "merged";
  bool show_drafts = false;
};

void AddGenerationFlags(CLI::App& verb, GenerationFlags& flags);

// The parsed flags as a question without its prompt; a usage error names the flag.
absl::StatusOr<Question> QuestionWith(const GenerationFlags& flags);

// Loads the model or addresses the gateway. `options`: of the questions to come. `quiet`: nothing on stderr.
absl::StatusOr<std::unique_ptr<Generator>> MakeGenerator(const GenerationFlags& flags, const Request& options,
                                                         bool quiet);

}  // namespace clamor::cli
