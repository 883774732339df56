#include "services/cli/command.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace clamor::cli {
namespace {

constexpr char kUsagePayload[] = "clamor/usage";

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set in a signal handler");

extern "C" void OnInterrupt(int) {
  if (interrupted.exchange(true)) _exit(130);
}

}  // namespace

absl::Status UsageError(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  return status.GetPayload(kUsagePayload).has_value() ? 2 : 1;
}

std::string OneLine(absl::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return line;
}

CLI::Option* AddModelFlags(CLI::App& verb, ModelOptions& options) {
  CLI::Option* model =
      verb.add_option("--model", options.directory, "Hugging Face model directory")->group("Model");
  verb.add_option("--weights", options.weights,
                  "How matrices are held: stored, fp32, bf16, fp16, int8 or int4")
      ->capture_default_str()
      ->group("Model");
  verb.add_option(
          "--packed-weights", options.packed_weights,
          "File of weights as --weights holds them: read if it is there, else written for the next start")
      ->group("Model");
  verb.add_option("--kv", options.kv, "How keys and values are held: fp32, bf16 or int8")
      ->capture_default_str()
      ->group("Model");
  verb.add_option("--device", options.device, "auto, cpu or cuda")->capture_default_str()->group("Model");
  verb.add_option("--threads", options.threads, "Threads of the forward pass; 0: one per physical core")
      ->check(CLI::Range(0, 1024))
      ->group("Model");
  verb.add_option("--context", options.context, "Cap on prompt and answer together; 0: the model's own")
      ->check(CLI::NonNegativeNumber)
      ->group("Model");
  return model;
}

absl::StatusOr<LoadedModel> LoadModelWithProgress(const ModelOptions& options, bool quiet) {
  const bool terminal = !quiet && isatty(STDERR_FILENO);
  int shown = -1;
  auto model = LoadModel(options, [&](uint64_t done, uint64_t total) {
    const int percent = total > 0 ? static_cast<int>(100 * done / total) : 100;
    if (!terminal || percent == shown) return;
    shown = percent;
    std::fprintf(stderr, "\rloading %s: %d%%", options.directory.c_str(), percent);
  });
  if (terminal && shown >= 0) std::fprintf(stderr, "\r\033[K");
  if (model.ok() && !quiet) std::fprintf(stderr, "loaded %s\n", DescribeLoad(*model).c_str());
  return model;
}

std::atomic<bool>& Interrupted() {
  static const bool installed = [] {
    struct sigaction action = {};
    action.sa_handler = OnInterrupt;  // without SA_RESTART: a read of the terminal returns
    sigemptyset(&action.sa_mask);
    return sigaction(SIGINT, &action, nullptr) == 0;
  }();
  (void)installed;
  return interrupted;
}

}  // namespace clamor::cli
