#include "model/train/training_log.h"

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class TrainingLogTest : public testing::Test {
 protected:
  TrainingLogTest() {
    std::string name = (std::filesystem::temp_directory_path() / "training_log_XXXXXX").string();
    folder_ = mkdtemp(name.data());
    path_ = folder_ / "training.jsonl";
  }
  ~TrainingLogTest() override { std::filesystem::remove_all(folder_); }

  std::string Contents() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void SetContents(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  TrainingLog Read() const {
    absl::StatusOr<TrainingLog> log = ReadTrainingLog(path_);
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? *std::move(log) : TrainingLog();
  }
  TrainingLogWriter Create(int64_t every = 1) const {
    return *TrainingLogWriter::Create(path_, {.every = every});
  }

  std::filesystem::path folder_;
  std::string path_;
};

LoggedStart SomeStart(int64_t step = 0) {
  return {.step = step, .time = "2026-01-02T03:04:05", .options = {{"noise", "ahead"}, {"lr", 3e-4}}};
}

LoggedStep SomeStep(int64_t step) {
  return {.step = step,
          .epoch = 0.01 * static_cast<double>(step),
          .loss = 8.0 / static_cast<double>(step),
          .gradient_norm = 1.5,
          .learning_rate = 3e-4,
          .tokens = 4096 * step,
          .tokens_per_second = 1000,
          .seconds = 4.0 * static_cast<double>(step)};
}

LoggedEvaluation SomeEvaluation(int64_t step) {
  return {.step = step,
          .heldout_loss = 2.5,
          .speeds = {{"published", 2.4}, {"64", 2.3}, {"8", 2.1}},
          .samples = {{"Q: 1+1?", "two\nlines </script> \"quoted\""}}};
}

// A run of eight steps with an evaluation and a checkpoint after the fourth and the eighth.
void WriteRun(TrainingLogWriter& writer, int64_t first_step, int64_t last_step) {
  ASSERT_TRUE(writer.Write(SomeStart(first_step - 1)).ok());
  for (int64_t step = first_step; step <= last_step; ++step) {
    ASSERT_TRUE(writer.Write(SomeStep(step)).ok());
    if (step % 4 != 0) continue;
    ASSERT_TRUE(writer.Write(SomeEvaluation(step)).ok());
    ASSERT_TRUE(writer.WriteCheckpoint(step).ok());
  }
}

TEST_F(TrainingLogTest, ReadsBackWhatWasWritten) {
  TrainingLogWriter writer = Create();
  WriteRun(writer, 1, 8);
  ASSERT_TRUE(writer.Write(LoggedEnd{8, "done", 32768, 32.5, 1 << 30}).ok());

  const TrainingLog log = Read();
  EXPECT_EQ(log.skipped_lines, 0);
  ASSERT_TRUE(log.start);
  EXPECT_EQ(log.start->time, "2026-01-02T03:04:05");
  EXPECT_EQ(log.start->options, json({{"noise", "ahead"}, {"lr", 3e-4}}));
  ASSERT_THAT(log.steps, SizeIs(8));
  for (int64_t step = 1; step <= 8; ++step) {
    const LoggedStep &read = log.steps[step - 1], expected = SomeStep(step);
    EXPECT_EQ(read.step, expected.step);
    EXPECT_EQ(read.epoch, expected.epoch);
    EXPECT_EQ(read.loss, expected.loss);
    EXPECT_EQ(read.gradient_norm, expected.gradient_norm);
    EXPECT_EQ(read.learning_rate, expected.learning_rate);
    EXPECT_EQ(read.tokens, expected.tokens);
    EXPECT_EQ(read.tokens_per_second, expected.tokens_per_second);
    EXPECT_EQ(read.seconds, expected.seconds);
  }
  ASSERT_THAT(log.evaluations, SizeIs(2));
  EXPECT_EQ(log.evaluations[1].step, 8);
  EXPECT_EQ(log.evaluations[1].heldout_loss, 2.5);
  ASSERT_THAT(log.evaluations[1].speeds, SizeIs(3));  // sorted
  EXPECT_EQ(log.evaluations[1].speeds[0].draft, "8");
  EXPECT_EQ(log.evaluations[1].speeds[1].draft, "64");
  EXPECT_EQ(log.evaluations[1].speeds[2].draft, "published");
  EXPECT_EQ(log.evaluations[1].speeds[2].tokens_per_forward, 2.4);
  ASSERT_THAT(log.evaluations[1].samples, SizeIs(1));
  EXPECT_EQ(log.evaluations[1].samples[0].prompt, "Q: 1+1?");
  EXPECT_EQ(log.evaluations[1].samples[0].text, "two\nlines </script> \"quoted\"");
  EXPECT_THAT(log.checkpoints, ElementsAre(4, 8));
  ASSERT_TRUE(log.end);
  EXPECT_EQ(log.end->reason, "done");
  EXPECT_EQ(log.end->tokens, 32768);
  EXPECT_EQ(log.end->seconds, 32.5);
  EXPECT_EQ(log.end->peak_memory_bytes, 1 << 30);
}

TEST_F(TrainingLogTest, EachLineIsThereAtOnceAndBeginsWithItsEvent) {
  TrainingLogWriter writer = Create();
  ASSERT_TRUE(writer.WriteCheckpoint(7).ok());
  EXPECT_EQ(Contents(), "{\"event\":\"checkpoint\",\"step\":7}\n");
}

TEST_F(TrainingLogTest, KeepsTheFirstStepAndEveryNth) {
  TrainingLogWriter writer = Create(/*every=*/3);
  for (int64_t step = 1; step <= 7; ++step) ASSERT_TRUE(writer.Write(SomeStep(step)).ok());
  std::vector<int64_t> steps;
  for (const LoggedStep& step : Read().steps) steps.push_back(step.step);
  EXPECT_THAT(steps, ElementsAre(1, 3, 6));
}

TEST_F(TrainingLogTest, NumbersThatAreNotFiniteComeBackAsNan) {
  TrainingLogWriter writer = Create();
  LoggedStep step = SomeStep(1);
  step.loss = NAN;
  step.gradient_norm = INFINITY;
  ASSERT_TRUE(writer.Write(step).ok());
  EXPECT_THAT(Contents(), HasSubstr("\"loss\":null"));
  ASSERT_THAT(Read().steps, SizeIs(1));
  EXPECT_TRUE(std::isnan(Read().steps[0].loss));
  EXPECT_TRUE(std::isnan(Read().steps[0].gradient_norm));
}

TEST_F(TrainingLogTest, CutsAndRepairsTextsOfAModel) {
  TrainingLogWriter writer = Create();
  LoggedEvaluation evaluation{.step = 1};
  std::string euros;
  for (int i = 0; i < 3000; ++i) euros += "€";
  for (int i = 0; i < 40; ++i)
    evaluation.samples.push_back({std::string(100000, '\x01'), "\xff\xc3" + euros});
  ASSERT_TRUE(writer.Write(evaluation).ok());
  EXPECT_LT(static_cast<int64_t>(Contents().size()), kMaxLogLineBytes);
  const TrainingLog log = Read();
  ASSERT_THAT(log.evaluations, SizeIs(1));
  ASSERT_THAT(log.evaluations[0].samples, SizeIs(kMaxTextSamples));
  EXPECT_EQ(log.evaluations[0].samples[0].prompt, std::string(kMaxSampleBytes, '\x01'));
  const std::string& text = log.evaluations[0].samples[0].text;
  EXPECT_TRUE(text.starts_with("\uFFFD\uFFFD€€")) << text.substr(0, 20);
  EXPECT_TRUE(text.ends_with("€"));
}

TEST(CutUtf8Test, NeverEndsInsideACharacter) {
  const std::string text = "aé€😀z";  // 1, 2, 3, 4 and 1 bytes
  const std::vector<size_t> kept = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11};
  for (size_t limit = 0; limit < kept.size(); ++limit) {
    EXPECT_EQ(CutUtf8(text, limit), text.substr(0, kept[limit])) << limit;
  }
  EXPECT_EQ(CutUtf8("\x80\x80\x80\x80\x80\x80", 5).size(), 2u) << "what is not UTF-8 is cut near the limit";
}

TEST_F(TrainingLogTest, ResumeGoesOnAsIfNothingHadHappened) {
  {
    TrainingLogWriter writer = Create();
    WriteRun(writer, 1, 6);
    ASSERT_TRUE(writer.Write(LoggedEnd{6, "interrupted"}).ok());
  }
  absl::StatusOr<TrainingLogWriter> writer = TrainingLogWriter::Resume(path_, 4, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ(writer->seconds_before(), 16.0);
  WriteRun(*writer, 5, 8);
  const TrainingLog log = Read();
  EXPECT_EQ(log.skipped_lines, 0);
  EXPECT_THAT(log.resumed_at, ElementsAre(4));
  EXPECT_THAT(log.checkpoints, ElementsAre(4, 8));
  EXPECT_THAT(log.steps, SizeIs(8));
  EXPECT_THAT(log.evaluations, SizeIs(2));
  EXPECT_FALSE(log.end);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".tmp"));
}

// The dull twin: of the complete lines, those of the run up to the checkpoint.
std::string KeptLines(const std::string& text, int64_t step) {
  std::string kept;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = text.substr(begin, end - begin);
    const json event = json::parse(line);
    if (event["step"] > step) break;
    if (event["event"] != "end") kept += line + "\n";
  }
  return kept;
}

TEST_F(TrainingLogTest, ResumeAfterAKillAtEveryByte) {
  // Short lines: each byte costs an fsync.
  const std::string whole =
      R"({"event":"start","step":0,"options":{}}
{"event":"step","step":1,"loss":null}
{"event":"end","step":1}
{"event":"start","step":1}
{"event":"step","step":2,"seconds":1}
{"event":"evaluation","step":2}
{"event":"checkpoint","step":2}
{"event":"step","step":3}
{"event":"step","step":1}
)";
  for (size_t size = 0; size <= whole.size(); ++size) {
    SetContents(whole.substr(0, size));
    const int64_t step = size % 3;
    ASSERT_TRUE(TrainingLogWriter::Resume(path_, step, {}).ok());
    ASSERT_EQ(Contents(), KeptLines(whole.substr(0, size), step)) << size;
  }
}

TEST_F(TrainingLogTest, ResumeWithoutALogBeginsOne) {
  absl::StatusOr<TrainingLogWriter> writer = TrainingLogWriter::Resume(path_, 4, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ(writer->seconds_before(), 0);
  ASSERT_TRUE(writer->Write(SomeStep(5)).ok());
  EXPECT_THAT(Read().steps, SizeIs(1));
}

TEST_F(TrainingLogTest, ResumeThatCannotWriteLeavesTheLog) {
  SetContents("{\"event\":\"checkpoint\",\"step\":1}\n{\"event\":\"checkpoint\",\"step\":2}\n");
  const std::string before = Contents();
  std::filesystem::create_directory(path_ + ".tmp");
  const absl::Status status = TrainingLogWriter::Resume(path_, 1, {}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("training.jsonl.tmp"));
  EXPECT_EQ(Contents(), before);
}

// Files of this process may not grow past `bytes` while this lives: a full disk, seen from write().
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    previous_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &previous_);
    const rlimit limit{bytes, previous_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &previous_);
    std::signal(SIGXFSZ, previous_handler_);
  }

 private:
  rlimit previous_;
  void (*previous_handler_)(int);
};

TEST_F(TrainingLogTest, FullDiskIsReportedOnceAndLosesOnlyLines) {
  TrainingLogWriter writer = Create();
  for (int64_t step = 1; step <= 3; ++step) ASSERT_TRUE(writer.Write(SomeStep(step)).ok());
  {
    const FileSizeLimit full(Contents().size() + 40);  // the middle of a line
    const absl::Status status = writer.Write(SomeStep(4));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
    EXPECT_TRUE(writer.Write(SomeStep(5)).ok()) << "once";
    EXPECT_EQ(writer.lost_lines(), 2);
  }
  ASSERT_TRUE(writer.Write(SomeStep(6)).ok());
  const TrainingLog log = Read();
  EXPECT_EQ(log.skipped_lines, 1) << "the torn line, closed off";
  ASSERT_THAT(log.steps, SizeIs(4));
  EXPECT_EQ(log.steps[3].step, 6);
}

TEST_F(TrainingLogTest, DiskFullDuringResumeLosesNothing) {
  {
    TrainingLogWriter writer = Create();
    WriteRun(writer, 1, 8);
  }
  const std::string before = Contents();
  {
    const FileSizeLimit full(100);
    EXPECT_EQ(TrainingLogWriter::Resume(path_, 4, {}).status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(Contents(), before);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".tmp"));
}

TEST_F(TrainingLogTest, ALineOverTheLimitIsRefused) {
  TrainingLogWriter writer = Create();
  LoggedStart start = SomeStart();
  start.options["data"] = std::string(kMaxLogLineBytes, 'x');
  EXPECT_THAT(std::string(writer.Write(start).message()), HasSubstr("limit is 1048576"));
  EXPECT_EQ(Contents(), "");
}

TEST_F(TrainingLogTest, ReaderSkipsWhatIsNotOurs) {
  const std::string deep(100000, '[');
  SetContents(
      "\n"
      "not json\n"
      "[1,2]\n"
      "\"event\"\n" +
      deep + "\n" + std::string(3 * kMaxLogLineBytes, ' ') + "\n" +
      "{\"event\":\"step\"}\n"
      "{\"event\":\"step\",\"step\":-1}\n"
      "{\"event\":\"step\",\"step\":1.5}\n"
      "{\"event\":\"step\",\"step\":18446744073709551615}\n"
      "{\"event\":\"step\",\"step\":\"1\"}\n"
      "{\"event\":\"step\",\"step\":1,\"loss\":1e999}\n"
      "{\"event\":\"cheer\",\"step\":1}\n"
      "{\"event\":7,\"step\":1}\n"
      "{\"event\":\"step\",\"step\":2,\"loss\":\"low\",\"tokens\":-5,\"epoch\":[]}\n"
      "{\"event\":\"step\",\"step\":2,\"loss\":1}\n"  // again
      "{\"event\":\"step\",\"step\":1,\"loss\":1}\n"  // back
      "\xff\xfe{\"event\":\"step\",\"step\":3}\n"
      "{\"event\":\"evaluation\",\"step\":3,\"samples\":[1,{\"prompt\":2}],\"tokens_per_forward\":[1]}\n"
      "{\"event\":\"start\",\"step\":0,\"options\":[1],\"model\":\"m\"}\n"
      "{\"event\":\"step\",\"step\":4,\"loss\":1}");  // torn: no newline
  const TrainingLog log = Read();
  ASSERT_THAT(log.steps, SizeIs(1));
  EXPECT_EQ(log.steps[0].step, 2);
  EXPECT_TRUE(std::isnan(log.steps[0].loss));
  EXPECT_EQ(log.steps[0].tokens, 0);
  ASSERT_THAT(log.evaluations, SizeIs(1));
  EXPECT_THAT(log.evaluations[0].speeds, IsEmpty());
  EXPECT_THAT(log.evaluations[0].samples, SizeIs(2));
  ASSERT_TRUE(log.start);
  EXPECT_EQ(log.start->options, json::object());
  EXPECT_EQ(log.skipped_lines, 18);
}

TEST_F(TrainingLogTest, ReaderRefusesWhatIsNoLog) {
  EXPECT_EQ(ReadTrainingLog(path_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadTrainingLog(folder_).status().code(), absl::StatusCode::kInvalidArgument);
  SetContents("");
  std::filesystem::resize_file(path_, kMaxLogBytes + 1);  // a hole: no memory, no disk
  const absl::Status status = ReadTrainingLog(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("268435457 bytes, limit is 268435456"));
}

TEST_F(TrainingLogTest, ReaderSurvivesDamage) {
  TrainingLogWriter writer = Create();
  WriteRun(writer, 1, 8);
  const std::string whole = Contents();
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::string damaged = whole;
    for (int i = 0; i < 5; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    SetContents(damaged);
    const TrainingLog log = Read();
    EXPECT_LE(log.steps.size(), 8u);
    EXPECT_GE(log.steps.size(), 3u);
  }
}

}  // namespace
}  // namespace clamor
