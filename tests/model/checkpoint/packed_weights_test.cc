// Weights::Load with a file of packed weights: the same bits, and every reason to refuse one.
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu_target.h"
#include "model/atomic_file.h"
#include "model/config.h"
#include "model/sha256.h"
#include "model/weights.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using kernels::PackedMatrix;
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

size_t FilesIn(const std::string& dir) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir), {}));
}

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
