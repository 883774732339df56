#include "model/train/training_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <system_error>
#include <tuple>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"

namespace clamor {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int64_t kMaxStep = int64_t{1}
                             << 53;  // a whole number in a double, as every reader of JSON has them
constexpr size_t kMaxSpeeds = 16;
constexpr size_t kMaxNameBytes = 32;

absl::Status Errno(int error, const std::string& path) {
  const std::string message = absl::StrCat(path, ": ", std::system_category().message(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(message);
  return absl::ErrnoToStatus(error, path);
}

// Bytes written before an error; errno is set if that is not all.
size_t WriteAll(int fd, std::string_view bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = write(fd, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

std::string_view CutSample(std::string_view text) { return CutUtf8(text, kMaxSampleBytes); }

// Splits the chunks of a file into lines, one line in memory. A line over the limit is an empty one here.
class LineSplitter {
 public:
  explicit LineSplitter(absl::FunctionRef<void(std::string_view)> visit) : visit_(visit) {}

  void Add(std::string_view bytes) {
    while (!bytes.empty()) {
      const size_t end = bytes.find('\n');
      const std::string_view part = bytes.substr(0, end);
      too_long_ |= line_.size() + part.size() > static_cast<size_t>(kMaxLogLineBytes);
      if (!too_long_) line_.append(part);
      if (end == std::string_view::npos) return;
      visit_(too_long_ ? std::string_view() : line_);
      line_.clear();
      too_long_ = false;
      bytes.remove_prefix(end + 1);
    }
  }
  bool in_line() const { return too_long_ || !line_.empty(); }

 private:
  absl::FunctionRef<void(std::string_view)> visit_;
  std::string line_;
  bool too_long_ = false;
};

// Calls `visit` with every complete line. Returns whether a torn one followed them.
absl::StatusOr<bool> ForEachLine(const std::string& path, absl::FunctionRef<void(std::string_view)> visit) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO is refused, not waited for
  if (fd < 0) return Errno(errno, path);
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  struct stat info;
  if (fstat(fd, &info) != 0) return Errno(errno, path);
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  LineSplitter lines(visit);
  constexpr size_t kChunk = 64 << 10;
  const auto buffer = std::make_unique<char[]>(kChunk);
  for (int64_t total = 0;;) {
    const ssize_t count = read(fd, buffer.get(), kChunk);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Errno(errno, path);
    if (count == 0) return lines.in_line();
    total += count;
    if (total > kMaxLogBytes) {
      return absl::ResourceExhaustedError(absl::StrCat(path, ": has ", std::max<int64_t>(total, info.st_size),
                                                       " bytes, limit is ", kMaxLogBytes));
    }
    lines.Add({buffer.get(), static_cast<size_t>(count)});
  }
}

// A line as an object with a valid "step"; otherwise null.
json ParseEvent(std::string_view line) {
  absl::StatusOr<json> event = ParseJson(line, "");
  if (!event.ok() || !event->is_object()) return {};
  const auto step = event->find("step");
  if (step == event->end() || !step->is_number_integer()) return {};
  if (step->get<int64_t>() < 0 || step->get<int64_t>() > kMaxStep) return {};
  return *std::move(event);
}

double NumberOr(const json& object, const char* key, double absent) {
  const auto value = object.find(key);
  return value != object.end() && value->is_number() ? value->get<double>() : absent;
}

int64_t CountOr0(const json& object, const char* key) {
  const auto value = object.find(key);
  if (value == object.end() || !value->is_number_integer()) return 0;
  return std::clamp<int64_t>(value->get<int64_t>(), 0, kMaxStep);
}

std::string TextOrEmpty(const json& object, const char* key) {
  const auto value = object.find(key);
  return value != object.end() && value->is_string() ? value->get<std::string>() : std::string();
}

json ObjectOrEmpty(const json& object, const char* key) {
  const auto value = object.find(key);
  return value != object.end() && value->is_object() ? *value : json::object();
}

LoggedStart ReadStart(const json& event) {
  return {.step = event["step"],
          .time = TextOrEmpty(event, "time"),
          .options = ObjectOrEmpty(event, "options"),
          .model = ObjectOrEmpty(event, "model"),
          .data = ObjectOrEmpty(event, "data"),
          .machine = ObjectOrEmpty(event, "machine")};
}

LoggedStep ReadStep(const json& event) {
  return {.step = event["step"],
          .epoch = NumberOr(event, "epoch", NAN),
          .loss = NumberOr(event, "loss", NAN),
          .gradient_norm = NumberOr(event, "gradient_norm", NAN),
          .learning_rate = NumberOr(event, "learning_rate", NAN),
          .tokens = CountOr0(event, "tokens"),
          .tokens_per_second = NumberOr(event, "tokens_per_second", NAN),
          .seconds = NumberOr(event, "seconds", NAN)};
}

// "8" before "16" before "published".
bool ComesBefore(const LoggedSpeed& a, const LoggedSpeed& b) {
  int64_t a_nodes = kMaxStep, b_nodes = kMaxStep;
  if (!absl::SimpleAtoi(a.draft, &a_nodes)) a_nodes = kMaxStep;
  if (!absl::SimpleAtoi(b.draft, &b_nodes)) b_nodes = kMaxStep;
  return std::tie(a_nodes, a.draft) < std::tie(b_nodes, b.draft);
}

LoggedEvaluation ReadEvaluation(const json& event) {
  LoggedEvaluation evaluation{.step = event["step"], .heldout_loss = NumberOr(event, "heldout_loss", NAN)};
  const json speeds = ObjectOrEmpty(event, "tokens_per_forward");
  for (const auto& [draft, value] : speeds.items()) {
    if (evaluation.speeds.size() == kMaxSpeeds) break;
    if (value.is_number()) evaluation.speeds.push_back({draft.substr(0, kMaxNameBytes), value.get<double>()});
  }
  std::sort(evaluation.speeds.begin(), evaluation.speeds.end(), ComesBefore);
  if (const auto samples = event.find("samples"); samples != event.end() && samples->is_array()) {
    for (const json& sample : *samples) {
      if (evaluation.samples.size() == kMaxTextSamples) break;
      const std::string prompt = TextOrEmpty(sample, "prompt"), text = TextOrEmpty(sample, "text");
      evaluation.samples.push_back({std::string(CutSample(prompt)), std::string(CutSample(text))});
    }
  }
  return evaluation;
}

LoggedEnd ReadEnd(const json& event) {
  return {.step = event["step"],
          .reason = TextOrEmpty(event, "reason"),
          .tokens = CountOr0(event, "tokens"),
          .seconds = NumberOr(event, "seconds", NAN),
          .peak_memory_bytes = CountOr0(event, "peak_memory_bytes")};
}

// Whether `event` was in order and taken.
bool AddEvent(const json& event, TrainingLog& log) {
  if (event.is_null()) return false;
  const int64_t step = event["step"];
  const std::string kind = TextOrEmpty(event, "event");
  if (kind == "start" && !log.start) {
    log.start = ReadStart(event);
  } else if (kind == "start") {
    log.resumed_at.push_back(step);
  } else if (kind == "step" && (log.steps.empty() || log.steps.back().step < step)) {
    log.steps.push_back(ReadStep(event));
  } else if (kind == "evaluation" && (log.evaluations.empty() || log.evaluations.back().step < step)) {
    log.evaluations.push_back(ReadEvaluation(event));
  } else if (kind == "checkpoint" && (log.checkpoints.empty() || log.checkpoints.back() < step)) {
    log.checkpoints.push_back(step);
  } else if (kind == "end") {
    log.end = ReadEnd(event);
  } else {
    return false;
  }
  return true;
}

// Writes `text` so that `path` holds either what it held or all of it.
absl::Status ReplaceFile(const std::string& path, std::string_view text) {
  const std::string temporary = absl::StrCat(path, ".tmp");
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Errno(errno, temporary);
  absl::Status status;
  if (WriteAll(fd, text) < text.size() || fsync(fd) != 0) status = Errno(errno, temporary);
  if (close(fd) != 0 && status.ok()) status = Errno(errno, temporary);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) status = Errno(errno, path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace

std::string_view CutUtf8(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text;
  size_t size = limit;
  while (size > 0 && limit - size < 3 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return text.substr(0, size);
}

absl::StatusOr<TrainingLogWriter> TrainingLogWriter::Open(std::string path, Options options, int flags) {
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | flags, 0644);
  if (fd < 0) return Errno(errno, path);
  const off_t size = lseek(fd, 0, SEEK_END);
  return TrainingLogWriter(std::move(path), options, fd, std::max<int64_t>(size, 0));
}

absl::StatusOr<TrainingLogWriter> TrainingLogWriter::Create(std::string path, Options options) {
  return Open(std::move(path), options, O_TRUNC);
}

absl::StatusOr<TrainingLogWriter> TrainingLogWriter::Resume(std::string path, int64_t step, Options options) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return Create(std::move(path), options);
  std::string kept;
  double seconds = 0;
  // Lines come in the order of steps: past the first later one nothing is of use.
  bool past = false;
  const auto keep = [&](std::string_view line) {
    const json event = past ? json() : ParseEvent(line);
    if (event.is_null()) return;
    past = event["step"] > step;
    const std::string kind = TextOrEmpty(event, "event");
    if (past || kind == "end") return;
    if (kind == "step") seconds = NumberOr(event, "seconds", seconds);
    kept.append(line).push_back('\n');
  };
  if (const auto torn = ForEachLine(path, keep); !torn.ok()) return torn.status();
  CLAMOR_RETURN_IF_ERROR(ReplaceFile(path, kept));
  CLAMOR_ASSIGN_OR_RETURN(TrainingLogWriter writer, Open(std::move(path), options, 0));
  writer.seconds_before_ = seconds;
  return writer;
}

TrainingLogWriter::TrainingLogWriter(TrainingLogWriter&& other) noexcept
    : path_(std::move(other.path_)),
      options_(other.options_),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      torn_(other.torn_),
      lost_lines_(other.lost_lines_),
      seconds_before_(other.seconds_before_) {}

TrainingLogWriter::~TrainingLogWriter() {
  if (fd_ >= 0) close(fd_);
}

absl::Status TrainingLogWriter::Write(const LoggedStart& start) {
  return WriteLine({{"event", "start"},
                    {"step", start.step},
                    {"time", start.time},
                    {"options", start.options},
                    {"model", start.model},
                    {"data", start.data},
                    {"machine", start.machine}});
}

absl::Status TrainingLogWriter::Write(const LoggedStep& step) {
  if (step.step % options_.every != 0 && step.step != 1) return absl::OkStatus();
  return WriteLine({{"event", "step"},
                    {"step", step.step},
                    {"epoch", step.epoch},
                    {"loss", step.loss},
                    {"gradient_norm", step.gradient_norm},
                    {"learning_rate", step.learning_rate},
                    {"tokens", step.tokens},
                    {"tokens_per_second", step.tokens_per_second},
                    {"seconds", step.seconds}});
}

absl::Status TrainingLogWriter::Write(const LoggedEvaluation& evaluation) {
  ordered_json event = {
      {"event", "evaluation"}, {"step", evaluation.step}, {"heldout_loss", evaluation.heldout_loss}};
  for (const LoggedSpeed& speed : evaluation.speeds) {
    event["tokens_per_forward"][speed.draft] = speed.tokens_per_forward;
  }
  event["samples"] = ordered_json::array();
  for (const TextSample& sample : evaluation.samples) {
    if (event["samples"].size() == kMaxTextSamples) break;
    event["samples"].push_back({{"prompt", CutSample(sample.prompt)}, {"text", CutSample(sample.text)}});
  }
  return WriteLine(event);
}

absl::Status TrainingLogWriter::Write(const LoggedEnd& end) {
  return WriteLine({{"event", "end"},
                    {"step", end.step},
                    {"reason", end.reason},
                    {"tokens", end.tokens},
                    {"seconds", end.seconds},
                    {"peak_memory_bytes", end.peak_memory_bytes}});
}

absl::Status TrainingLogWriter::WriteCheckpoint(int64_t step) {
  return WriteLine({{"event", "checkpoint"}, {"step", step}});
}

absl::Status TrainingLogWriter::WriteLine(const ordered_json& event) {
  absl::Status status = Append(event.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace));
  if (status.ok() || lost_lines_++ > 0) return absl::OkStatus();
  return status;
}

absl::Status TrainingLogWriter::Append(std::string line) {
  const auto bytes = static_cast<int64_t>(line.size());
  if (bytes > kMaxLogLineBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path_, ": a line of ", bytes, " bytes, limit is ", kMaxLogLineBytes));
  }
  if (size_ + bytes + 2 > kMaxLogBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path_, ": would have ", size_ + bytes + 2, " bytes, limit is ", kMaxLogBytes));
  }
  if (torn_) line.insert(line.begin(), '\n');
  line.push_back('\n');
  const size_t written = WriteAll(fd_, line);
  size_ += static_cast<int64_t>(written);
  if (written == line.size()) {
    torn_ = false;
    return absl::OkStatus();
  }
  const int error = errno;
  if (written > 0) torn_ = line[written - 1] != '\n';
  return Errno(error, path_);
}

absl::StatusOr<TrainingLog> ReadTrainingLog(const std::string& path) {
  TrainingLog log;
  const auto add = [&](std::string_view line) { log.skipped_lines += !AddEvent(ParseEvent(line), log); };
  CLAMOR_ASSIGN_OR_RETURN(const bool torn, ForEachLine(path, add));
  log.skipped_lines += torn;
  return log;
}

}  // namespace clamor
