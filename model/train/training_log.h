// training.jsonl: what happened in a run, one JSON object per line, written while it happens and read by the
// report (report.h) and by anybody's scripts. Every line has "event" and "step" (optimizer steps done by
// then):
//
//   {"event":"start","step":0,"time":…,"options":{…},"model":{…},"data":{…},"machine":{…}}   step > 0:
//   resumed there
//   {"event":"step","step":7,"epoch":0.04,"loss":…,"gradient_norm":…,"learning_rate":…,"tokens":…,
//    "tokens_per_second":…,"seconds":…}
//   {"event":"evaluation","step":100,"heldout_loss":…,"tokens_per_forward":{"8":…,"published":…},
//    "samples":[{"prompt":…,"text":…}]}
//   {"event":"checkpoint","step":100}
//   {"event":"end","step":1200,"reason":"done","tokens":…,"seconds":…,"peak_memory_bytes":…}
//
// A number that is not finite is written as null and read as NaN. A line is complete when its newline is
// there. Tested by tests/model/train/training_log_test.cc.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

// What is written is cut, and what is read is skipped or refused, at these sizes.
inline constexpr int64_t kMaxLogBytes = int64_t{256} << 20;
inline constexpr int64_t kMaxLogLineBytes = int64_t{1} << 20;
inline constexpr size_t kMaxTextSamples = 16;
inline constexpr size_t kMaxSampleBytes = 4096;  // of a prompt, and of a text

// Four JSON objects, shown by the report as tables. It knows these fields, all optional, and makes a
// sentence:
//   options  every flag by its name without the leading dashes, "noise-length"
//   model    "name", "family", "parameters", "from_scratch" (bool)
//   data     "files" (array), "samples", "tokens", "heldout_samples"
//   machine  nothing in particular; here as in the others, a name that ends in _bytes is shown in KiB … GiB
struct LoggedStart {
  int64_t step = 0;
  std::string time;  // local, ISO 8601
  nlohmann::json options, model, data, machine;
};

struct LoggedStep {
  int64_t step = 0;
  double epoch = NAN;
  double loss = NAN;           // nats per learned token, mean of the step
  double gradient_norm = NAN;  // before clipping
  double learning_rate = NAN;
  int64_t tokens = 0;  // learned from since step 0
  double tokens_per_second = NAN;
  double seconds = NAN;  // of training since step 0, pauses left out
};

// Mean tokens per forward of the real decoder.
struct LoggedSpeed {
  std::string draft;  // "8", "16", …: nodes of the merged tree; or another drafter's name, "published"
  double tokens_per_forward = NAN;
};

struct TextSample {
  std::string prompt, text;  // any bytes; the log keeps UTF-8, the rest replaced
};

struct LoggedEvaluation {
  int64_t step = 0;
  double heldout_loss = NAN;        // nats per response token
  std::vector<LoggedSpeed> speeds;  // read back by ascending nodes, names last
  std::vector<TextSample> samples;
};

struct LoggedEnd {
  int64_t step = 0;
  std::string reason;  // "done" or "interrupted"
  int64_t tokens = 0;
  double seconds = NAN;
  int64_t peak_memory_bytes = 0;  // 0: not known
};

// Appends to a log, each line by one write to the kernel: a killed process loses none. Not for two threads at
// once.
//
// Writing never stops a run: the first line that cannot be written (disk full, log over its limit) is
// reported by the status of its Write, and from then on losses are only counted. A line that failed half-way
// is closed off before the next. All errors name the file.
class TrainingLogWriter {
 public:
  struct Options {
    int64_t every = 1;  // keep each step whose number this divides, and step 1. REQUIRES: > 0
  };

  // A new log; one that is there already is emptied.
  static absl::StatusOr<TrainingLogWriter> Create(std::string path, Options options);
  // Goes on with a run from its checkpoint after `step`. What the log says of later steps is cut off, the
  // "end" of the interrupted run and lines that are no JSON with it: a temporary file beside it is renamed
  // over it, so that a failure leaves the log as it was. A log that is not there begins here.
  static absl::StatusOr<TrainingLogWriter> Resume(std::string path, int64_t step, Options options);

  TrainingLogWriter(TrainingLogWriter&& other) noexcept;
  TrainingLogWriter& operator=(TrainingLogWriter&&) = delete;
  ~TrainingLogWriter();

  absl::Status Write(const LoggedStart& start);
  absl::Status Write(const LoggedStep& step);
  absl::Status Write(const LoggedEvaluation& evaluation);
  absl::Status Write(const LoggedEnd& end);
  absl::Status WriteCheckpoint(int64_t step);

  // LoggedStep::seconds of the last step that Resume kept; 0 if none.
  double seconds_before() const { return seconds_before_; }
  int64_t lost_lines() const { return lost_lines_; }

 private:
  TrainingLogWriter(std::string path, Options options, int fd, int64_t size)
      : path_(std::move(path)), options_(options), fd_(fd), size_(size) {}
  static absl::StatusOr<TrainingLogWriter> Open(std::string path, Options options, int flags);
  absl::Status WriteLine(const nlohmann::ordered_json& event);  // fields stay in order
  absl::Status Append(std::string line);

  std::string path_;
  Options options_;
  int fd_;
  int64_t size_;       // of the file
  bool torn_ = false;  // the file ends inside a line
  int64_t lost_lines_ = 0;
  double seconds_before_ = 0;
};

struct TrainingLog {
  std::optional<LoggedStart> start;  // the first
  std::vector<int64_t> resumed_at;   // steps
  std::vector<LoggedStep> steps;     // these three: ascending by step
  std::vector<LoggedEvaluation> evaluations;
  std::vector<int64_t> checkpoints;
  std::optional<LoggedEnd> end;  // absent: the run goes on, or was killed
  int64_t skipped_lines = 0;     // torn, foreign, too long, or out of order
};

// Reads a log of at most kMaxLogBytes, one that is being written too. Memory is at most some times its size.
absl::StatusOr<TrainingLog> ReadTrainingLog(const std::string& path);

// The longest prefix of `text` with at most `limit` bytes that does not end inside a character of UTF-8.
std::string_view CutUtf8(std::string_view text, size_t limit);

}  // namespace clamor
