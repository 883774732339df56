// `clamor chat`: a conversation in the terminal.
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/status_macros.h"
#include "services/cli/answer_printer.h"
#include "services/cli/command.h"
#include "services/cli/generation_flags.h"
#include "services/rpc_error.h"

namespace clamor::cli {
namespace {

constexpr char kHelp[] =
    "/stats  speed of the last answer and of all\n"
    "/reset  forget the conversation\n"
    "/help   this\n"
    "/quit   leave (or Ctrl-D); Ctrl-C stops an answer\n";

struct Flags {
  GenerationFlags generation;
  std::string system;
};

// A line without its end, empty after Ctrl-C, nothing at the end of input.
std::optional<std::string> ReadLine(bool prompt) {
  if (prompt) {
    std::fputs("> ", stderr);
    std::fflush(stderr);
  }
  char* line = nullptr;
  size_t capacity = 0;
  errno = 0;
  const ssize_t size = getline(&line, &capacity, stdin);
  const bool interrupted = size < 0 && errno == EINTR;
  std::string text = size > 0 ? std::string(line, size) : std::string();
  free(line);
  if (interrupted) {
    clearerr(stdin);
    std::fputs("\n(Ctrl-D or /quit leaves)\n", stderr);
    return std::string();
  }
  if (size < 0) return std::nullopt;
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

class Conversation {
 public:
  Conversation(const Flags& flags, Question question, Generator& generator)
      : flags_(flags), question_(std::move(question)), generator_(generator) {
    Reset();
  }

  // False: leave.
  bool Command(const std::string& line) {
    if (line == "/quit" || line == "/exit") return false;
    if (line == "/reset") {
      Reset();
      std::fputs("forgotten\n", stderr);
    } else if (line == "/stats") {
      PrintStats();
    } else {
      std::fputs(kHelp, stderr);
    }
    return true;
  }

  // A failed question is taken back, so that the conversation can go on.
  absl::Status Say(const std::string& text) {
    messages_.push_back({"user", text});
    AnswerPrinter printer(flags_.generation.show_drafts);
    Interrupted() = false;
    question_.prompt = messages_;
    auto answer = generator_.Generate(question_, [&printer](const Delta& delta) { printer.Print(delta); });
    Interrupted() = false;
    if (!answer.ok()) {
      messages_.pop_back();
      return answer.status();
    }
    std::printf("\n");
    std::fflush(stdout);
    messages_.push_back({"assistant", answer->text});
    tokens_ += static_cast<int64_t>(answer->token_ids.size());
    forwards_ += answer->stats.forwards;
    seconds_ += answer->stats.decode_seconds;
    last_ = *std::move(answer);
    return absl::OkStatus();
  }

 private:
  void Reset() {
    messages_.clear();
    if (!flags_.system.empty()) messages_.push_back({"system", flags_.system});
  }

  void PrintStats() const {
    if (!last_.has_value()) {
      std::fputs("no answer yet\n", stderr);
      return;
    }
    std::fprintf(stderr, "last: %s\nall:  %lld tokens in %.2f s: %.1f tokens/s, %.2f tokens per forward\n",
                 last_->SpeedLine().c_str(), static_cast<long long>(tokens_), seconds_,
                 seconds_ > 0 ? tokens_ / seconds_ : 0.0, forwards_ > 0 ? double(tokens_) / forwards_ : 0.0);
  }

  const Flags& flags_;
  Question question_;  // the prompt is the conversation so far
  Generator& generator_;
  std::vector<ChatMessage> messages_;
  std::optional<Answer> last_;
  int64_t tokens_ = 0, forwards_ = 0;
  double seconds_ = 0;
};

absl::Status Chat(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(Question question, QuestionWith(flags.generation));
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Generator> generator,
                          MakeGenerator(flags.generation, question.options, false));
  const bool terminal = isatty(STDIN_FILENO);
  if (terminal) std::fputs("/help lists commands\n", stderr);
  Interrupted();  // from here on Ctrl-C is ours
  Conversation conversation(flags, std::move(question), *generator);
  while (std::optional<std::string> line = ReadLine(terminal)) {
    Interrupted() = false;
    if (line->empty()) continue;
    if (line->front() == '/') {
      if (!conversation.Command(*line)) break;
      continue;
    }
    const absl::Status said = conversation.Say(*line);
    if (said.ok()) continue;
    if (!terminal) return said;
    std::fprintf(stderr, "clamor: %s\n", OneLine(MessageOf(said)).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddChat(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("chat", "Talk to a model in the terminal");
  AddGenerationFlags(*verb, flags->generation);
  verb->add_option("--system", flags->system, "The system message")->group("Prompt");
  verb->callback([flags, &run] { run = [flags] { return Chat(*flags); }; });
}

}  // namespace clamor::cli
