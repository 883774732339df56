#include "model/train/checkpoint.h"

#include <signal.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/safetensors.h"
#include "model/safetensors_writer.h"
#include "tests/model/checkpoint/model_files.h"
#include "tests/model/checkpoint/write_limit.h"

namespace clamor {
namespace {

using nlohmann::json;
using test::DiesAfter;
using test::EndOf;
using test::ReadFile;
using test::StartChild;
using test::TempDir;
using test::WriteFile;
using test::WriteLimit;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// All that a checkpoint holds. Of one step and table there is one: random bits, all kinds of numbers.
struct Snapshot {
  Snapshot(const ParameterTable& table, int64_t step)
      : state({{"step", step}, {"beta", "0x1.8p-3"}, {"list", {1, -2, 0.1, nullptr, true, "\u00e9\n"}}}) {
    std::mt19937 random(static_cast<uint32_t>(step));
    for (auto* array : {&parameters, &first_moments, &second_moments}) {
      for (int64_t i = 0; i < table.total(); ++i) {
        array->push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
      }
    }
  }
  TrainingArrays<const float> View() const { return {parameters, first_moments, second_moments}; }

  json state;
  std::vector<float> parameters, first_moments, second_moments;
};

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

// Removes it first: ext4 takes care to sync a file that is overwritten, thousands of times here.
void Replace(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  WriteFile(path, bytes);
}

class CheckpointTest : public ::testing::Test {
 protected:
  static constexpr float kUntouched = 42;

  absl::Status Save(int64_t step) { return Save(step, table_); }
  absl::Status Save(int64_t step, const ParameterTable& table) {
    const Snapshot run(table, step);
    return SaveCheckpoint(dir_.path(), table, step, run.state, run.View());
  }

  // Loads, and checks that what comes is what was saved, and that nothing is touched if nothing comes.
  absl::StatusOr<LoadedCheckpoint> Load() {
    const size_t total = table_.total();
    std::vector<float> parameters(total, kUntouched), first(total, kUntouched), second(total, kUntouched);
    absl::StatusOr<LoadedCheckpoint> loaded =
        LoadNewestCheckpoint(dir_.path(), table_, {parameters, first, second});
    if (loaded.ok()) {
      const Snapshot expected(table_, loaded->step);
      EXPECT_EQ(loaded->state, expected.state);
      EXPECT_EQ(Bits(parameters), Bits(expected.parameters));
      EXPECT_EQ(Bits(first), Bits(expected.first_moments));
      EXPECT_EQ(Bits(second), Bits(expected.second_moments));
    } else {
      const std::vector<float> untouched(total, kUntouched);
      EXPECT_TRUE(parameters == untouched && first == untouched && second == untouched);
    }
    return loaded;
  }

  // The step that Load finds, -1 if none.
  int64_t Newest() {
    const absl::StatusOr<LoadedCheckpoint> loaded = Load();
    return loaded.ok() ? loaded->step : -1;
  }

  std::string Path(int64_t step) const {
    return dir_ / ("checkpoint-" + std::to_string(step) + ".safetensors");
  }

  std::set<std::string> Files() const {
    std::set<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(dir_.path())) {
      names.insert(file.path().filename().string());
    }
    return names;
  }

  TempDir dir_;
  const ParameterTable table_{{{"w", {2, 3}}, {"b", {3}}}};
};

TEST_F(CheckpointTest, ComesBackBitForBit) {
  for (const int64_t step : {int64_t{0}, int64_t{7}, std::numeric_limits<int64_t>::max()}) {
    ASSERT_TRUE(Save(step).ok());
    const absl::StatusOr<LoadedCheckpoint> loaded = Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->step, step);
    EXPECT_THAT(loaded->skipped, IsEmpty());
  }
}

TEST_F(CheckpointTest, IsASafetensorsFile) {
  ASSERT_TRUE(Save(3).ok());
  const auto file = Safetensors::OpenFile(Path(3));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->Names(), ElementsAre("first_moment.b", "first_moment.w", "parameter.b", "parameter.w",
                                            "second_moment.b", "second_moment.w"));
}

TEST_F(CheckpointTest, MakesItsFolder) {
  const Snapshot run(table_, 1);
  EXPECT_TRUE(SaveCheckpoint(dir_ / "a/b", table_, 1, run.state, run.View()).ok());
  EXPECT_TRUE(std::filesystem::exists(dir_ / "a/b/checkpoint-1.safetensors"));
}

TEST_F(CheckpointTest, KeepsTwo) {
  for (const int64_t step : {8, 9, 10, 11, 100}) ASSERT_TRUE(Save(step).ok());
  EXPECT_THAT(Files(), ElementsAre("checkpoint-100.safetensors", "checkpoint-11.safetensors"));
  ASSERT_TRUE(Save(100).ok());  // again
  EXPECT_THAT(Files(), ElementsAre("checkpoint-100.safetensors", "checkpoint-11.safetensors"));
  ASSERT_TRUE(Save(50).ok());  // from 11 on, another way
  EXPECT_THAT(Files(), ElementsAre("checkpoint-11.safetensors", "checkpoint-50.safetensors"));
  EXPECT_EQ(Newest(), 50);
  ASSERT_TRUE(Save(2).ok());
  EXPECT_THAT(Files(), ElementsAre("checkpoint-2.safetensors"));
}

TEST_F(CheckpointTest, LeavesOtherFilesAndRemovesLeftovers) {
  const std::vector<std::string> others = {
      "checkpoint-.safetensors",    "checkpoint-007.safetensors",
      "checkpoint--1.safetensors",  "checkpoint-+1.safetensors",
      "checkpoint-1.safetensors.x", "xcheckpoint-1.safetensors",
      "model.safetensors.partial",  "checkpoint-9999999999999999999.safetensors"};
  for (const std::string& name : others) WriteFile(dir_ / name, "x");
  WriteFile(Path(4) + ".partial", "x");
  EXPECT_TRUE(absl::IsNotFound(Load().status()));
  for (const int64_t step : {1, 2, 3}) ASSERT_TRUE(Save(step).ok());
  std::set<std::string> expected(others.begin(), others.end());
  expected.insert({"checkpoint-2.safetensors", "checkpoint-3.safetensors"});
  EXPECT_EQ(Files(), expected);
}

TEST_F(CheckpointTest, None) {
  const absl::Status empty = Load().status();
  EXPECT_TRUE(absl::IsNotFound(empty)) << empty;
  EXPECT_THAT(std::string(empty.message()), HasSubstr(dir_.path()));
  std::filesystem::remove(dir_.path());
  EXPECT_TRUE(absl::IsNotFound(Load().status()));
}

TEST_F(CheckpointTest, FallsBackToTheOneBefore) {
  ASSERT_TRUE(Save(1).ok());
  ASSERT_TRUE(Save(2).ok());
  std::string bytes = ReadFile(Path(2));
  bytes.back() ^= 1;
  WriteFile(Path(2), bytes);
  absl::StatusOr<LoadedCheckpoint> loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->step, 1);
  EXPECT_THAT(loaded->skipped, ElementsAre(AllOf(HasSubstr(Path(2)), HasSubstr("SHA-256"))));
  WriteFile(Path(1), "");
  const absl::Status status = Load().status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(Path(1)), HasSubstr(Path(2))));
}

// Every byte, set to several others, bit by bit: noticed, or what comes is what was saved (Load checks it).
TEST_F(CheckpointTest, DamageAtAnyByteIsNoticedOrHarmless) {
  ASSERT_TRUE(Save(1).ok());
  const std::string whole = ReadFile(Path(1));
  int harmless = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int flip :
         {1, 2, 4, 8, 16, 32, 64, 128, 0xff, whole[i] ^ ' ', whole[i] ^ '"', whole[i] ^ '9'}) {
      if (flip % 256 == 0) continue;
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      Replace(Path(1), damaged);
      const absl::StatusOr<LoadedCheckpoint> loaded = Load();
      harmless += loaded.ok();
      EXPECT_TRUE(loaded.ok() || absl::IsDataLoss(loaded.status())) << loaded.status();
    }
  }
  EXPECT_LT(harmless, 100) << "of the format only padding does not matter";
}

TEST_F(CheckpointTest, AnyOtherLengthIsNoticed) {
  ASSERT_TRUE(Save(1).ok());
  const std::string whole = ReadFile(Path(1));
  for (size_t length = 0; length < whole.size(); ++length) {
    Replace(Path(1), whole.substr(0, length));
    EXPECT_TRUE(absl::IsDataLoss(Load().status())) << length;
  }
  Replace(Path(1), whole + '\0');
  EXPECT_TRUE(absl::IsDataLoss(Load().status()));
}

// Whole files, each of something else than its name or the table say.
TEST_F(CheckpointTest, AnotherFileInItsPlace) {
  ASSERT_TRUE(Save(5).ok());
  std::filesystem::copy(Path(5), Path(9));
  absl::StatusOr<LoadedCheckpoint> loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->step, 5);
  EXPECT_THAT(loaded->skipped, ElementsAre(AllOf(HasSubstr(Path(9)), HasSubstr("not that of step 9"))));

  for (const auto& [tensors, message] :
       {std::pair{std::vector<TensorShape>{{"w", {3, 2}}, {"b", {3}}}, "has shape [3, 2]"},
        {{{"w", {2, 3}}}, "no tensor \"parameter.b\""},
        {{{"w", {2, 3}}, {"b", {3}}, {"c", {1}}}, "3 tensors that the config does not ask for"}}) {
    ASSERT_TRUE(Save(5, ParameterTable(tensors)).ok());
    const absl::Status status = Load().status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(Path(5)), HasSubstr(message)));
  }

  const std::vector<float> values(18);
  ASSERT_TRUE(WriteSafetensors(Path(5), table_.tensors(), kernels::DType::kF32, {}, [&](size_t i) {
                return std::span<const float>(values).first(i == 0 ? 6 : 3);
              }).ok());
  EXPECT_TRUE(absl::IsDataLoss(Load().status()));
}

// The right tensors without state, with one that is no JSON, nested too deep, of another type; in 16 bits.
TEST_F(CheckpointTest, ForgedContents) {
  std::vector<TensorShape> tensors;
  for (const char* array : {"parameter.", "first_moment.", "second_moment."}) {
    for (const TensorShape& t : table_.tensors()) tensors.push_back({array + t.name, t.shape});
  }
  const std::vector<float> values(6);
  const std::string digest(64, '0');
  for (const auto& [dtype, metadata, message] :
       {std::tuple{kernels::DType::kF32, std::map<std::string, std::string>{}, "not a checkpoint"},
        {kernels::DType::kF32, {{"sha256", digest}}, "not a checkpoint"},
        {kernels::DType::kF32, {{"state", "{}"}}, "not a checkpoint"},
        {kernels::DType::kF32, {{"state", "{}"}, {"sha256", digest}}, "SHA-256"},
        {kernels::DType::kBF16, {{"state", "{}"}, {"sha256", digest}}, "is not F32"}}) {
    ASSERT_TRUE(WriteSafetensors(Path(5), tensors, dtype, metadata, [&](size_t i) {
                  return std::span<const float>(values).first(i % 2 == 0 ? 6 : 3);
                }).ok());
    EXPECT_THAT(std::string(Load().status().message()), HasSubstr(message));
  }
  // With a digest that is right: what the state says is still not believed.
  for (const std::string& state :
       {std::string("{"), std::string("[]"), std::string("5"), std::string("{\"step\":5}"),
        std::string("{\"state\":5}"), std::string("{\"step\":\"5\",\"state\":{}}"),
        std::string(100, '[') + std::string(100, ']')}) {
    std::string right = digest;
    for (int attempt = 0; attempt < 2; ++attempt) {
      ASSERT_TRUE(
          WriteSafetensors(Path(5), tensors, kernels::DType::kF32, {{"state", state}, {"sha256", right}},
                           [&](size_t i) { return std::span<const float>(values).first(i % 2 == 0 ? 6 : 3); })
              .ok());
      const std::string message(Load().status().message());
      const size_t at = message.find("SHA-256 ");
      ASSERT_EQ(at == std::string::npos, attempt == 1) << message;
      if (attempt == 0) right = message.substr(at + 8, 64);
    }
  }
}

TEST_F(CheckpointTest, AFullDiskLosesNothing) {
  ASSERT_TRUE(Save(1).ok());
  ASSERT_TRUE(Save(2).ok());
  const std::set<std::string> before = Files();
  const size_t size = ReadFile(Path(2)).size();
  for (size_t limit = 0; limit < size; limit += 7) {
    const WriteLimit full(limit);
    const absl::Status status = Save(3);
    EXPECT_THAT(std::string(status.message()), HasSubstr(Path(3) + ": cannot write: needs "));
    EXPECT_EQ(Files(), before);
  }
  EXPECT_EQ(Newest(), 2);
  ASSERT_TRUE(Save(3).ok());
  EXPECT_EQ(Newest(), 3);
}

TEST_F(CheckpointTest, DeathAtAnyByteLosesNothing) {
  ASSERT_TRUE(Save(1).ok());
  ASSERT_TRUE(Save(2).ok());
  const size_t size = ReadFile(Path(2)).size();
  for (size_t limit = 0; limit < size; limit += 7) {
    EXPECT_TRUE(DiesAfter(limit, [&] { Save(3).IgnoreError(); })) << limit;
    EXPECT_EQ(Newest(), 2) << limit;
  }
  ASSERT_TRUE(Save(4).ok());
  EXPECT_THAT(Files(), ElementsAre("checkpoint-2.safetensors", "checkpoint-4.safetensors"));
}

// A child saves one step after the other until it is killed, anywhere: in a write, between two calls, while
// old files go. What it had saved before is there, whole.
TEST_F(CheckpointTest, DeathAtAnyMomentLosesNothing) {
  std::mt19937 random(3);
  int64_t step = 0;
  ASSERT_TRUE(Save(step).ok());
  for (int round = 0; round < 40; ++round) {
    const pid_t child = StartChild([&] {
      for (int64_t next = step + 1; Save(next).ok(); ++next) {
      }
    });
    const timespec moment = {0, static_cast<long>(random() % 20'000'000)};
    nanosleep(&moment, nullptr);
    kill(child, SIGKILL);
    EXPECT_EQ(EndOf(child), SIGKILL);
    const absl::StatusOr<LoadedCheckpoint> loaded = Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_THAT(loaded->skipped, IsEmpty());
    EXPECT_GE(loaded->step, step);
    step = loaded->step;
  }
  EXPECT_GT(step, 0) << "the child had no time to save";
  ASSERT_TRUE(Save(step + 1).ok());
  EXPECT_EQ(Files().size(), 2u);
}

}  // namespace
}  // namespace clamor
