// How a verb of `clamor` is declared and how it fails. One file per verb: <verb>.cc defines Add<Verb>.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {

// Adds one sub-command to `app`. Parsing it leaves what is to be done in `run`, which main then calls.
using Run = std::function<absl::Status()>;
void AddGenerate(CLI::App& app, Run& run);
void AddChat(CLI::App& app, Run& run);
void AddScore(CLI::App& app, Run& run);
void AddTokenize(CLI::App& app, Run& run);
void AddDetokenize(CLI::App& app, Run& run);
void AddTrain(CLI::App& app, Run& run);
void AddReport(CLI::App& app, Run& run);
void AddIngest(CLI::App& app, Run& run);
void AddServe(CLI::App& app, Run& run);
void AddEval(CLI::App& app, Run& run);
void AddBench(CLI::App& app, Run& run);
void AddStatus(CLI::App& app, Run& run);
void AddCheckpoint(CLI::App& app, Run& run);
// `app` is the whole command: they tell of its verbs, and it must live as long as `run`.
void AddCompletion(CLI::App& app, Run& run);
void AddMan(CLI::App& app, Run& run);

// A wrong command line: `message` names the flag. Everything else that fails is a failure of the work itself.
absl::Status UsageError(absl::string_view message);

// 0: done, 1: failed, 2: wrong usage.
int ExitCode(const absl::Status& status);

// `text` with line breaks made spaces: an error is one line.
std::string OneLine(absl::string_view text);

// --model, --weights, --packed-weights, --kv, --device, --threads and --context, in the group "Model". The
// model flag is returned.
CLI::Option* AddModelFlags(CLI::App& verb, ModelOptions& options);

// LoadModel with progress on stderr (if it is a terminal) and, unless `quiet`, a closing line.
absl::StatusOr<LoadedModel> LoadModelWithProgress(const ModelOptions& options, bool quiet);

// Set by Ctrl-C from the first call on; whoever handles it clears it. The second Ctrl-C before that ends the
// process.
std::atomic<bool>& Interrupted();

}  // namespace clamor::cli
