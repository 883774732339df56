#include "model/train/model_writer.h"

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/transformer.h"
#include "tests/model/checkpoint/model_files.h"
#include "tests/model/checkpoint/write_limit.h"

namespace clamor {
namespace {

using kernels::DType;
using nlohmann::json;
using test::RawTensor;
using test::RawTensors;
using test::ReadFile;
using test::ReadRawTensors;
using test::TempDir;
using test::Testdata;
using test::WriteFile;
using test::WriteLimit;
using ::testing::HasSubstr;

struct Model {
  explicit Model(const std::string& dir)
      : config(LoadModelDescription(dir)->config),
        table(ModelParameters(config).table),
        values(table.total()) {
    EXPECT_TRUE(LoadParameters(dir, config, table, values, [](uint64_t, uint64_t) {}).ok());
  }
  absl::Status Write(const std::string& dir, const std::string& source, DType dtype) const {
    return WriteModel(dir, source, table, dtype,
                      [&](size_t i) { return table.Slice(std::span<const float>(values), i); });
  }

  ModelConfig config;
  ParameterTable table;
  std::vector<float> values;
};

void ExpectLoads(const std::string& dir) {
  kernels::ThreadPool pool(1);
  const auto transformer =
      Transformer::Load(dir, WeightFormat::kStored, /*max_positions=*/0, pool, [](uint64_t, uint64_t) {});
  EXPECT_TRUE(transformer.ok()) << transformer.status();
}

class WriteModelOf : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};
INSTANTIATE_TEST_SUITE_P(All, WriteModelOf,
                         ::testing::Combine(::testing::Values("tiny-llama", "tiny-qwen2", "tiny-qwen3",
                                                              "tiny-mistral"),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

TEST_P(WriteModelOf, LoadWriteLoad) {
  const auto [name, dtype] = GetParam();
  const std::string source = Testdata(name);
  const Model model(source);
  TempDir dir;
  const std::string target = dir / "new/model";
  const absl::Status status = model.Write(target, source, dtype);
  ASSERT_TRUE(status.ok()) << status;
  ExpectLoads(target);

  const RawTensors before = ReadRawTensors(source), after = ReadRawTensors(target);
  ASSERT_EQ(after.size(), before.size());  // so no lm_head if there was none
  for (const auto& [tensor, raw] : before) {
    const RawTensor& written = after.at(tensor);
    EXPECT_EQ(written.dtype, dtype == DType::kF32 ? "F32" : "BF16");
    EXPECT_EQ(written.shape, raw.shape);
    if (raw.dtype == written.dtype) {
      EXPECT_EQ(written.bytes, raw.bytes) << tensor;
    }
    for (int64_t i = 0; i < raw.size(); ++i) {
      // bf16: half a unit of eight bits.
      ASSERT_LE(std::abs(written[i] - raw[i]), dtype == DType::kF32 ? 0 : std::ldexp(std::abs(raw[i]), -8));
    }
  }
  // And what is read from it is written as the same bytes.
  ASSERT_TRUE(Model(target).Write(dir / "again", target, dtype).ok());
  EXPECT_EQ(ReadFile(dir / "again/model.safetensors"), ReadFile(target + "/model.safetensors"));
  EXPECT_EQ(ReadFile(dir / "again/config.json"), ReadFile(target + "/config.json"));
}

TEST_P(WriteModelOf, FilesBesideTheTensors) {
  const auto [name, dtype] = GetParam();
  const std::string source = Testdata(name);
  TempDir dir;
  ASSERT_TRUE(Model(source).Write(dir.path(), source, dtype).ok());
  json expected = json::parse(ReadFile(source + "/config.json"));
  expected["dtype"] = dtype == DType::kF32 ? "float32" : "bfloat16";
  EXPECT_EQ(json::parse(ReadFile(dir / "config.json")), expected);
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(dir.path())) {
    const std::string written = file.path().filename().string();
    ++files;
    if (written == "config.json" || written == "model.safetensors") continue;
    EXPECT_EQ(ReadFile(file.path()), ReadFile(source + "/" + written)) << written;
  }
  EXPECT_EQ(files,
            6);  // with generation_config.json, chat_template.jinja, tokenizer.json, tokenizer_config.json
}

// A source with a tokenizer of the old kind, and any of the two names of the dtype.
TEST(WriteModel, NamesOfTheDType) {
  const Model model(Testdata("tiny-qwen2"));
  TempDir source, dir;
  WriteFile(source / "vocab.json", "{}");
  WriteFile(source / "merges.txt", "a b");
  for (const auto& [fields, expected] :
       {std::pair{R"({"dtype": "float16"})", R"({"dtype": "bfloat16"})"},
        {R"({"torch_dtype": "float16"})", R"({"torch_dtype": "bfloat16"})"},
        {R"({"torch_dtype": null, "dtype": 7})", R"({"torch_dtype": "bfloat16", "dtype": "bfloat16"})"},
        {R"({"x": [1e-05, "\u00e9", 18446744073709551615]})",
         R"({"x": [1e-05, "\u00e9", 18446744073709551615], "torch_dtype": "bfloat16"})"}}) {
    WriteFile(source / "config.json", fields);
    ASSERT_TRUE(model.Write(dir.path(), source.path(), DType::kBF16).ok());
    EXPECT_EQ(json::parse(ReadFile(dir / "config.json")), json::parse(expected));
  }
  EXPECT_EQ(ReadFile(dir / "merges.txt"), "a b");
  EXPECT_FALSE(std::filesystem::exists(dir / "tokenizer.json"));
}

TEST(WriteModel, IntoItsOwnSource) {
  TempDir dir("tiny-mistral");  // its shards and their index are no longer looked at
  Model model(dir.path());
  for (float& value : model.values) value *= 2;
  ASSERT_TRUE(model.Write(dir.path(), dir.path(), DType::kF32).ok());
  EXPECT_EQ(Model(dir.path()).values, model.values);
  EXPECT_EQ(ReadFile(dir / "tokenizer.json"), ReadFile(Testdata("tiny-mistral") + "/tokenizer.json"));
}

TEST(WriteModel, ABadSourceIsNamedBeforeAnythingIsWritten) {
  const Model model(Testdata("tiny-qwen2"));
  TempDir source, dir;
  const std::string target = dir / "model";
  const absl::Status missing = model.Write(target, source.path(), DType::kF32);
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr(source / "config.json"));
  for (const char* config : {"[]", "{", ""}) {
    WriteFile(source / "config.json", config);
    const absl::Status bad = model.Write(target, source.path(), DType::kF32);
    EXPECT_TRUE(absl::IsInvalidArgument(bad)) << bad;
    EXPECT_THAT(std::string(bad.message()), HasSubstr(source / "config.json"));
  }
  EXPECT_FALSE(std::filesystem::exists(target));
}

TEST(WriteModel, AFileInThePlaceOfTheFolder) {
  TempDir dir;
  WriteFile(dir / "model", "a file");
  const absl::Status status =
      Model(Testdata("tiny-qwen2")).Write(dir / "model", Testdata("tiny-qwen2"), DType::kF32);
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir / "model"));
  EXPECT_EQ(ReadFile(dir / "model"), "a file");
}

TEST(WriteModel, AFullDiskLeavesTheOldModel) {
  TempDir dir("tiny-qwen2");
  const Model model(dir.path());
  for (const uint64_t limit : {0, 1000, 100000, 400000}) {
    const WriteLimit full(limit);
    const absl::Status status = model.Write(dir.path(), Testdata("tiny-qwen2"), DType::kF32);
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir / "model.safetensors: cannot write: needs "));
    EXPECT_EQ(ReadFile(dir / "model.safetensors"), ReadFile(Testdata("tiny-qwen2") + "/model.safetensors"));
  }
  ExpectLoads(dir.path());
}

}  // namespace
}  // namespace clamor
