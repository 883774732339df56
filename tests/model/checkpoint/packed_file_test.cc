#include "model/packed_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using kernels::DType;
using kernels::PackedMatrix;
using kernels::Storage;
using kernels::ThreadPool;
using test::ReadFile;
using test::TempDir;
using test::WriteFile;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kHeader = 4096;

// The checksum, word by word: eight sums take the words in turn, then one takes those.
uint64_t ChecksumTwin(const std::string& bytes, uint64_t seed) {
  const auto step = [](uint64_t sum, uint64_t word) {
    const uint64_t product = (sum ^ word) * 0x9e3779b97f4a7c15u;
    return product << 32 | product >> 32;
  };
  std::vector<uint64_t> words((bytes.size() + 63) / 64 * 8), sums;
  std::memcpy(words.data(), bytes.data(), bytes.size());
  for (int i = 0; i < 8; ++i) sums.push_back(seed = step(seed, bytes.size()));
  for (size_t i = 0; i < words.size(); ++i) sums[i % 8] = step(sums[i % 8], words[i]);
  for (const uint64_t sum : sums) seed = step(seed, sum);
  return seed;
}

// A file of three matrices, small enough to damage each of its bytes.
class PackedFileTest : public ::testing::Test {
 protected:
  PackedFileTest() {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (const auto& [n, k, stored] : shapes_) {
      std::vector<float> values(n * k);
      for (float& value : values) value = normal(random);
      matrices_.emplace_back(n, k, stored).PackRows(0, n, values.data(), DType::kF32, pool_);
      origin_.bytes += matrices_.back().bytes();
    }
    Write();
    good_ = ReadFile(path_);
  }

  void Write() {
    absl::StatusOr<AtomicFile> file = AtomicFile::Create(path_, PackedFileBytes(origin_));
    ASSERT_TRUE(file.ok()) << file.status();
    std::vector<const PackedMatrix*> matrices;
    for (const PackedMatrix& matrix : matrices_) matrices.push_back(&matrix);
    const absl::Status status = WritePackedFile(*std::move(file), origin_, matrices, pool_);
    ASSERT_TRUE(status.ok()) << status;
  }

  // Reads the file to its end; what it says of itself must then be so.
  absl::Status Read() {
    absl::StatusOr<PackedFileReader> reader = PackedFileReader::Open(path_, origin_);
    if (!reader.ok()) return reader.status();
    bool same = true;
    for (const PackedMatrix& matrix : matrices_) {
      PackedMatrix read(matrix.n(), matrix.k(), matrix.stored());
      if (const absl::Status status = reader->Read(read, pool_); !status.ok()) return status;
      same = same && std::memcmp(read.data(), matrix.data(), matrix.bytes()) == 0;
    }
    const absl::Status status = reader->Finish();
    EXPECT_TRUE(same || !status.ok());
    return status;
  }

  std::string ErrorOf(const std::string& bytes) {
    WriteFile(path_, bytes);
    const absl::Status status = Read();
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
    return status.ToString();
  }

  // The good file with `value` at byte `at`, and a header that its checksum bears out.
  template <typename T>
  std::string Forged(size_t at, T value) {
    std::string bytes = good_;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    const uint64_t checksum = ChecksumTwin(bytes.substr(0, kHeader - 8), 0);
    std::memcpy(bytes.data() + kHeader - 8, &checksum, 8);
    return bytes;
  }

  const std::vector<std::tuple<int64_t, int64_t, Storage>> shapes_ = {
      {5, 3, Storage::kF32}, {20, 40, Storage::kI8}, {33, 70, Storage::kI4}};
  ThreadPool pool_{2};
  TempDir dir_;
  const std::string path_ = dir_ / "weights.packed";
  PackedOrigin origin_ = {.model = "/models/small", .fingerprint = "0123456789abcdef", .format = "int4"};
  std::vector<PackedMatrix> matrices_;
  std::string good_;
};

TEST_F(PackedFileTest, IsAHeaderAndThePanels) {
  EXPECT_TRUE(Read().ok());
  ASSERT_EQ(good_.size(), PackedFileBytes(origin_));
  size_t position = 0;
  uint64_t sum = 0;
  for (const PackedMatrix& matrix : matrices_) {
    const std::string panels(static_cast<const char*>(matrix.data()), matrix.bytes());
    EXPECT_EQ(good_.substr(kHeader + position, panels.size()), panels);
    sum += ChecksumTwin(panels, position);
    position += panels.size();
  }
  EXPECT_EQ(Forged(64, sum), good_);
}

TEST_F(PackedFileTest, NoFile) {
  std::filesystem::remove(path_);
  EXPECT_TRUE(absl::IsNotFound(Read())) << Read();
}

TEST_F(PackedFileTest, EveryTruncation) {
  for (size_t size = 0; size < good_.size(); ++size) {
    std::filesystem::resize_file(path_, good_.size() - size - 1);
    const absl::Status status = Read();
    ASSERT_TRUE(absl::IsDataLoss(status)) << size << " " << status;
    ASSERT_THAT(std::string(status.message()),
                AllOf(HasSubstr(path_), HasSubstr(absl::StrCat("has ", good_.size() - size - 1, " bytes"))));
  }
  EXPECT_THAT(ErrorOf(good_ + "x"), AllOf(HasSubstr("DATA_LOSS"), HasSubstr("delete it")));
}

TEST_F(PackedFileTest, AFileThatShrinksWhileItIsRead) {
  absl::StatusOr<PackedFileReader> reader = PackedFileReader::Open(path_, origin_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::filesystem::resize_file(path_, kHeader + 10);
  PackedMatrix read(matrices_[0].n(), matrices_[0].k(), matrices_[0].stored());
  const absl::Status status = reader->Read(read, pool_);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_ + ": cannot read"));
}

TEST_F(PackedFileTest, WhatIsNoFile) {
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(Read().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(path_ + ": not a regular file")));
}

TEST_F(PackedFileTest, EveryDamagedByte) {
  for (size_t at = 0; at < good_.size(); ++at) {
    for (const char bit : {1, -128}) {
      std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(at).put(static_cast<char>(good_[at] ^ bit)).flush();
      const absl::Status status = Read();
      ASSERT_FALSE(status.ok()) << at;
      ASSERT_THAT(std::string(status.message()), HasSubstr(path_)) << at;
      ASSERT_TRUE(absl::IsDataLoss(status) || at < kHeader) << at << " " << status;
      file.seekp(at).put(good_[at]);
    }
  }
  EXPECT_TRUE(Read().ok());
}

TEST_F(PackedFileTest, PanelsInTheWrongPlace) {
  std::string bytes = good_;  // lines that the same position of a matrix would not tell apart
  std::rotate(bytes.begin() + kHeader, bytes.begin() + kHeader + 64, bytes.end());
  EXPECT_THAT(ErrorOf(bytes),
              AllOf(HasSubstr("DATA_LOSS"), HasSubstr("is damaged: its weights have checksum")));
}

TEST_F(PackedFileTest, ErrorsNameBothValues) {
  EXPECT_THAT(ErrorOf(std::string(5000, 'x')),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("is not a file of packed weights")));
  EXPECT_THAT(
      ErrorOf(Forged(16, uint64_t{2})),
      AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("has version 2, this program reads version 1")));
  EXPECT_THAT(
      ErrorOf(Forged(24, 'X')),
      AllOf(HasSubstr("FAILED_PRECONDITION"),
            HasSubstr("was made of weights \"X123456789abcdef\", /models/small has \"0123456789abcdef\"")));
  EXPECT_THAT(ErrorOf(Forged(43, '8')),
              AllOf(HasSubstr("FAILED_PRECONDITION"),
                    HasSubstr("holds the weights as \"int8\", wanted is \"int4\"; delete it")));
}

// The checksum of a header keeps nobody from writing what he likes.
TEST_F(PackedFileTest, HostileHeaders) {
  for (const uint64_t bytes : {uint64_t{0}, origin_.bytes - 64, uint64_t{1} << 63, ~uint64_t{0}}) {
    EXPECT_THAT(ErrorOf(Forged(56, bytes)),
                AllOf(HasSubstr("DATA_LOSS"), HasSubstr(absl::StrCat(bytes, " of weights by its header"))));
  }
  struct Field {
    char text[16];
  } endless;
  std::memset(endless.text, '\xff', sizeof(endless.text));
  EXPECT_THAT(ErrorOf(Forged(0, endless)), HasSubstr("is not a file of packed weights"));
  for (const size_t at : {24, 40}) {  // not UTF-8, no zero at the end: what is quoted is printable
    const std::string error = ErrorOf(Forged(at, endless));
    EXPECT_THAT(error, HasSubstr("FAILED_PRECONDITION"));
    EXPECT_TRUE(std::all_of(error.begin(), error.end(), [](char c) { return c >= ' ' && c <= '~'; }))
        << error;
  }
  EXPECT_THAT(ErrorOf(Forged(64, uint64_t{0})), HasSubstr("the header says 0000000000000000"));
}

}  // namespace
}  // namespace clamor
