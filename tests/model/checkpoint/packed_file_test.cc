#include "model/packed_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu_target.h"
#include "model/config.h"
#include "model/sha256.h"
#include "model/weights.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using kernels::DType;
using kernels::PackedMatrix;
using kernels::Storage;
using kernels::ThreadPool;
using test::RawTensors;
using test::ReadFile;
using test::ReadRawTensors;
using test::TempDir;
using test::Testdata;
using test::WriteFile;
using test::WriteRawTensors;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kHeader = 4096;

size_t FilesIn(const std::string& dir) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir), {}));
}

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

// Whole models.

constexpr WeightFormat kFormats[] = {WeightFormat::kStored, WeightFormat::kF32, WeightFormat::kBF16,
                                     WeightFormat::kF16,    WeightFormat::kI8,  WeightFormat::kI4};

absl::StatusOr<Weights> Load(const std::string& dir, WeightFormat format, const std::string& packed_file) {
  absl::StatusOr<ModelDescription> description = LoadModelDescription(dir);
  EXPECT_TRUE(description.ok()) << description.status();
  ThreadPool pool(2);
  return Weights::Load(
      dir, description->config, format, pool, [](uint64_t, uint64_t) {}, packed_file);
}

// Everything, as bytes.
std::vector<std::string> Contents(const Weights& weights) {
  std::vector<std::string> contents;
  const auto matrix = [&](const PackedMatrix& m) {
    contents.push_back(absl::StrCat(m.n(), " ", m.k(), " ", std::string(kernels::StorageName(m.stored()))));
    contents.emplace_back(static_cast<const char*>(m.data()), m.bytes());
  };
  const auto vector = [&](const std::vector<float>& v) {
    contents.emplace_back(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float));
  };
  matrix(weights.embedding);
  for (const LayerWeights& layer : weights.layers) {
    for (const auto* m : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) matrix(*m);
    for (const auto* v : {&layer.attention_norm, &layer.qkv_bias, &layer.q_norm, &layer.k_norm,
                          &layer.output_bias, &layer.mlp_norm, &layer.gate_up_bias, &layer.down_bias}) {
      vector(*v);
    }
  }
  vector(weights.final_norm);
  matrix(weights.head);
  return contents;
}

void ExpectUse(const absl::StatusOr<Weights>& weights, PackedFileUse use,
               const std::vector<std::string>& contents) {
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->packed_file, use);
  EXPECT_TRUE(Contents(*weights) == contents);
}

std::vector<std::string> PackedContents(const std::string& dir, WeightFormat format) {
  const absl::StatusOr<Weights> weights = Load(dir, format, "");
  EXPECT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->packed_file, PackedFileUse::kNone);
  return Contents(*weights);
}

class PackedModel : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, PackedModel,
                         ::testing::Values("tiny-llama", "tiny-mistral", "tiny-qwen2", "tiny-qwen3"),
                         [](const auto& info) { return info.param.substr(5); });

TEST_P(PackedModel, TheFileGivesTheSameBits) {
  const std::string dir = Testdata(GetParam());
  for (const WeightFormat format : kFormats) {
    SCOPED_TRACE(std::string(WeightFormatName(format)));
    TempDir out;
    const std::vector<std::string> packed = PackedContents(dir, format);
    ExpectUse(Load(dir, format, out / "w"), PackedFileUse::kWritten, packed);
    ExpectUse(Load(dir, format, out / "w"), PackedFileUse::kRead, packed);
    EXPECT_EQ(FilesIn(out.path()), 1u);
  }
}

TEST_P(PackedModel, TheFileIsTheSameOnEveryCpuTarget) {
  const kernels::CpuTarget before = kernels::ActiveCpuTarget();
  for (const WeightFormat format : kFormats) {
    std::set<std::string> files;
    for (const kernels::CpuTarget target : kernels::SupportedCpuTargets()) {
      ASSERT_TRUE(kernels::SetCpuTarget(target).ok());
      TempDir out;
      ASSERT_TRUE(Load(Testdata(GetParam()), format, out / "w").ok());
      files.insert(ReadFile(out / "w"));
    }
    EXPECT_EQ(files.size(), 1u) << WeightFormatName(format);
  }
  ASSERT_TRUE(kernels::SetCpuTarget(before).ok());
}

// Files outlive the program that wrote them. If this fails, the bytes of packed weights have changed: raise
// kVersion in model/packed_file.cc, so that old files are refused, and only then the digest.
TEST(PackedFile, TheLayoutBelongsToTheVersion) {
  Sha256 hash;
  for (const WeightFormat format :
       {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kF16, WeightFormat::kI8, WeightFormat::kI4}) {
    TempDir out;
    ASSERT_TRUE(Load(Testdata("tiny-qwen2"), format, out / "w").ok());
    hash.Add(ReadFile(out / "w"));
  }
  EXPECT_EQ(hash.Hex(), "4698ea7a0aaaa71e64878bf262108f6c53af501043cd4def22c4cb522a35d7ab");
}

TEST(PackedFile, IsRefusedForAnotherFormat) {
  TempDir out;
  const std::string dir = Testdata("tiny-qwen2");
  ASSERT_TRUE(Load(dir, WeightFormat::kI8, out / "w").ok());
  for (const WeightFormat format : kFormats) {
    if (format == WeightFormat::kI8) continue;
    const absl::Status status = Load(dir, format, out / "w").status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(out / "w"), HasSubstr("\"int8\"")));
  }
}

TEST(PackedFile, StoredIsTheFormatThatAllMatricesHave) {
  for (const auto& [model, format] :
       {std::pair{"tiny-llama", WeightFormat::kF32}, {"tiny-qwen2", WeightFormat::kBF16}}) {
    TempDir out;
    ASSERT_TRUE(Load(Testdata(model), WeightFormat::kStored, out / "w").ok());
    ExpectUse(Load(Testdata(model), format, out / "w"), PackedFileUse::kRead,
              PackedContents(Testdata(model), format));
  }
}

TEST(PackedFile, IsRefusedForAnotherModel) {
  TempDir out;
  ASSERT_TRUE(Load(Testdata("tiny-qwen2"), WeightFormat::kI4, out / "w").ok());
  const absl::Status status = Load(Testdata("tiny-llama"), WeightFormat::kI4, out / "w").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(out / "w"), HasSubstr(Testdata("tiny-llama")),
                                                   HasSubstr("was made of weights"), HasSubstr("delete it")));
}

// The model's tensors decide, not the files that hold them.
TEST(PackedFile, FollowsTheValuesOfTheModel) {
  TempDir model("tiny-llama"), out;
  const std::string dir = model.path();
  RawTensors tensors = ReadRawTensors(dir);
  const auto rewrite = [&](int pad) {
    WriteFile(model / "model.safetensors", WriteRawTensors(tensors, pad));
  };
  rewrite(0);
  ASSERT_TRUE(Load(dir, WeightFormat::kI8, out / "w").ok());
  rewrite(24);
  const std::vector<std::string> packed = PackedContents(dir, WeightFormat::kI8);
  ExpectUse(Load(dir, WeightFormat::kI8, out / "w"), PackedFileUse::kRead, packed);
  // Vectors come from the model itself.
  const std::string plain = tensors.at("model.norm.weight").bytes;
  tensors.at("model.norm.weight").bytes[3] ^= 1;
  rewrite(0);
  EXPECT_FALSE(PackedContents(dir, WeightFormat::kI8) == packed);
  ExpectUse(Load(dir, WeightFormat::kI8, out / "w"), PackedFileUse::kRead,
            PackedContents(dir, WeightFormat::kI8));
  tensors.at("model.norm.weight").bytes = plain;
  for (auto& [name, tensor] : tensors) {
    if (tensor.shape.size() != 2) continue;
    for (const size_t at : {size_t{2}, tensor.bytes.size() - 1}) {  // of the first value and of the last
      tensor.bytes[at] ^= 1;
      rewrite(0);
      EXPECT_TRUE(absl::IsFailedPrecondition(Load(dir, WeightFormat::kI8, out / "w").status())) << name << at;
      tensor.bytes[at] ^= 1;
    }
  }
}

TEST(PackedFile, OneOfSeveralStartsWritesIt) {
  const std::string dir = Testdata("tiny-qwen2");
  const std::vector<std::string> packed = PackedContents(dir, WeightFormat::kI4);
  TempDir out;
  {
    const absl::StatusOr<AtomicFile> other = AtomicFile::Create(out / "w", 1);
    ASSERT_TRUE(other.ok());
    ExpectUse(Load(dir, WeightFormat::kI4, out / "w"), PackedFileUse::kLeft, packed);
    EXPECT_FALSE(std::filesystem::exists(out / "w"));
  }
  std::vector<std::thread> starts;
  for (int i = 0; i < 4; ++i) {
    starts.emplace_back([&] {
      const absl::StatusOr<Weights> weights = Load(dir, WeightFormat::kI4, out / "w");
      ASSERT_TRUE(weights.ok()) << weights.status();
      EXPECT_TRUE(Contents(*weights) == packed);
      EXPECT_NE(weights->packed_file, PackedFileUse::kNone);
    });
  }
  for (std::thread& start : starts) start.join();
  EXPECT_EQ(FilesIn(out.path()), 1u);
  ExpectUse(Load(dir, WeightFormat::kI4, out / "w"), PackedFileUse::kRead, packed);
}

TEST(PackedFile, WhatAKilledStartLeftIsReplaced) {
  TempDir out;
  const std::string dir = Testdata("tiny-qwen2");
  WriteFile(out / "w.partial", std::string(100000, 'x'));
  const std::vector<std::string> packed = PackedContents(dir, WeightFormat::kF16);
  ExpectUse(Load(dir, WeightFormat::kF16, out / "w"), PackedFileUse::kWritten, packed);
  ExpectUse(Load(dir, WeightFormat::kF16, out / "w"), PackedFileUse::kRead, packed);
  EXPECT_EQ(FilesIn(out.path()), 1u);
}

TEST(PackedFile, AFolderThatCannotHoldItIsRefusedBeforeTheWork) {
  const std::string dir = Testdata("tiny-qwen2");
  absl::StatusOr<ModelDescription> description = LoadModelDescription(dir);
  ASSERT_TRUE(description.ok());
  ThreadPool pool(1);
  TempDir out;
  for (const std::string& path : {out / "none/w", std::string("/sys/w"), out.path()}) {
    const absl::Status status =
        Weights::Load(
            dir, description->config, WeightFormat::kI4, pool,
            [&](uint64_t, uint64_t) { ADD_FAILURE() << "packed before " << path << " was tried"; }, path)
            .status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
  EXPECT_EQ(FilesIn(out.path()), 0u);
}

TEST(PackedFile, IsReadFromAFolderThatMayNotBeWritten) {
  TempDir out;
  const std::string dir = Testdata("tiny-qwen2");
  ASSERT_TRUE(Load(dir, WeightFormat::kI8, out / "w").ok());
  using std::filesystem::perms;
  std::filesystem::permissions(out / "w", perms::owner_read);
  std::filesystem::permissions(out.path(), perms::owner_read | perms::owner_exec);
  const auto before = std::filesystem::last_write_time(out.path());
  ExpectUse(Load(dir, WeightFormat::kI8, out / "w"), PackedFileUse::kRead,
            PackedContents(dir, WeightFormat::kI8));
  EXPECT_EQ(std::filesystem::last_write_time(out.path()), before);  // root may write all the same
  std::filesystem::permissions(out.path(), perms::owner_all);
}

TEST(PackedFile, AModelThatTheFormatCannotHoldLeavesNone) {
  TempDir model("tiny-llama"), out;
  RawTensors tensors = ReadRawTensors(model.path());
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(tensors.at("model.layers.1.mlp.down_proj.weight").bytes.data(), &infinity, 4);
  WriteFile(model / "model.safetensors", WriteRawTensors(tensors));
  EXPECT_THAT(Load(model.path(), WeightFormat::kI8, out / "w").status().ToString(),
              HasSubstr("is not finite"));
  EXPECT_EQ(FilesIn(out.path()), 0u);
}

}  // namespace
}  // namespace clamor
