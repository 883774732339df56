#include "model/safetensors.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using nlohmann::json;
using test::RawTensor;
using test::RawTensors;
using test::SafetensorsFile;
using test::TempDir;
using test::Testdata;
using test::WriteFile;
using test::WriteRawTensors;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string BytesOf(const Tensor& tensor) { return {static_cast<const char*>(tensor.data), tensor.bytes}; }

RawTensor Floats(std::vector<int64_t> shape, char fill) {
  int64_t size = 4;
  for (const int64_t dim : shape) size *= dim;
  return {"F32", std::move(shape), std::string(size, fill)};
}

// What Open says of a directory whose model.safetensors is `file`.
std::string OpenError(const std::string& file) {
  TempDir dir;
  WriteFile(dir / "model.safetensors", file);
  const absl::Status status = Safetensors::Open(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << file.substr(0, 200);
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir / "model.safetensors"));
  return std::string(status.message());
}

std::string EntryError(const std::string& entry, size_t data_bytes = 8) {
  return OpenError(SafetensorsFile("{\"t\":" + entry + "}", std::string(data_bytes, 'd')));
}

class SafetensorsOfModel : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, SafetensorsOfModel,
                         ::testing::Values("tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-mistral"),
                         [](const auto& info) { return info.param.substr(5); });

TEST_P(SafetensorsOfModel, HoldsWhatTheDullReaderFinds) {
  const std::string dir = Testdata(GetParam());
  const auto files = Safetensors::Open(dir);
  ASSERT_TRUE(files.ok()) << files.status();
  std::vector<std::string> names;
  uint64_t bytes = 0;
  for (const auto& [name, raw] : test::ReadRawTensors(dir)) {
    const absl::StatusOr<Tensor> tensor = (*files)->Get(name, raw.shape);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(tensor->name, name);
    EXPECT_EQ(tensor->shape, raw.shape);
    EXPECT_EQ(BytesOf(*tensor), raw.bytes);
    (*files)->Release(*tensor);
    EXPECT_EQ(BytesOf(*tensor), raw.bytes);
    EXPECT_TRUE((*files)->Contains(name));
    names.push_back(name);
    bytes += raw.bytes.size();
  }
  EXPECT_EQ((*files)->Names(), names);
  EXPECT_EQ((*files)->total_bytes(), bytes);
}

TEST(Safetensors, GetNamesBothShapes) {
  const auto files = *Safetensors::Open(Testdata("tiny-llama"));
  const absl::Status absent = files->Get("model.nothing", {64}).status();
  EXPECT_TRUE(absl::IsNotFound(absent));
  EXPECT_THAT(std::string(absent.message()), AllOf(HasSubstr("tiny-llama"), HasSubstr("\"model.nothing\"")));
  EXPECT_FALSE(files->Contains("model.nothing"));
  const absl::Status shape = files->Get("lm_head.weight", {641, 64}).status();
  EXPECT_EQ(shape.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(shape.message()),
      HasSubstr(
          "tiny-llama/model.safetensors: tensor \"lm_head.weight\" has shape [640, 64], the config asks "
          "for [641, 64]"));
  EXPECT_THAT(std::string(files->Get("model.norm.weight", {64, 1}).status().message()),
              HasSubstr("has shape [64], the config asks for [64, 1]"));
}

TEST(Safetensors, OtherDTypesAreRefusedOnlyWhenAskedFor) {
  TempDir dir;
  WriteFile(dir / "model.safetensors",
            SafetensorsFile(R"({"ids": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
                                "w": {"dtype": "F32", "shape": [1], "data_offsets": [16, 20]}})",
                            std::string(20, 'x')));
  const auto files = Safetensors::Open(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_TRUE((*files)->Get("w", {1}).ok());
  EXPECT_THAT(std::string((*files)->Get("ids", {2}).status().message()),
              HasSubstr("tensor \"ids\" has dtype \"I64\", supported are F32, BF16 and F16"));
}

TEST(Safetensors, OddButLegal) {
  TempDir dir;
  WriteFile(dir / "model.safetensors", SafetensorsFile("{}", ""));
  EXPECT_THAT((*Safetensors::Open(dir.path()))->Names(), IsEmpty());
  WriteFile(dir / "model.safetensors",
            WriteRawTensors(
                {{"empty", Floats({0, 7}, 0)}, {"scalar", Floats({}, 'a')}, {"x", Floats({2}, 'b')}}, 3));
  const auto files = Safetensors::Open(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->Get("empty", {0, 7})->bytes, 0u);
  EXPECT_EQ(BytesOf(*(*files)->Get("scalar", {})), "aaaa");
  EXPECT_EQ(BytesOf(*(*files)->Get("x", {2})), "bbbbbbbb");
}

TEST(Safetensors, NoFiles) {
  TempDir dir;
  const absl::Status status = Safetensors::Open(dir.path()).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(dir.path()), HasSubstr("model.safetensors.index.json")));
  EXPECT_TRUE(absl::IsNotFound(Safetensors::Open(dir / "nowhere").status()));
  std::filesystem::create_directory(dir / "model.safetensors");
  EXPECT_THAT(std::string(Safetensors::Open(dir.path()).status().message()), HasSubstr("not a regular file"));
}

TEST(Safetensors, RefusesDamagedHeaders) {
  EXPECT_THAT(OpenError(""), HasSubstr("has 0 bytes"));
  EXPECT_THAT(OpenError("1234567"), HasSubstr("has 7 bytes"));
  EXPECT_THAT(OpenError(std::string(8, '\xff')),
              HasSubstr("the header's length is 18446744073709551615, must be at most 0 in a file of 8"));
  EXPECT_THAT(OpenError(SafetensorsFile("{}", "").substr(0, 9)), HasSubstr("length is 2, must be at most 1"));
  EXPECT_THAT(OpenError(SafetensorsFile("", "")), HasSubstr("not JSON"));
  EXPECT_THAT(OpenError(SafetensorsFile("{\"t\":", "")), HasSubstr("not JSON"));
  EXPECT_THAT(OpenError(SafetensorsFile("[1]", "")), HasSubstr("the header is [1], not an object"));
  EXPECT_THAT(OpenError(SafetensorsFile(std::string(1 << 20, '['), "")), HasSubstr("1048576 levels deep"));
}

TEST(Safetensors, BoundsTheHeader) {
  TempDir dir;
  WriteFile(dir / "model.safetensors", SafetensorsFile("{}", ""));
  std::filesystem::resize_file(dir / "model.safetensors", 200'000'000);  // sparse
  const uint64_t length = 150'000'000;
  std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file.close();
  EXPECT_THAT(std::string(Safetensors::Open(dir.path()).status().message()),
              HasSubstr("length is 150000000, must be at most 100000000 in a file of 200000000"));
}

TEST(Safetensors, RefusesBadEntries) {
  EXPECT_THAT(EntryError("3"), HasSubstr("tensor \"t\": dtype is missing in 3"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","data_offsets":[0,8]})"), HasSubstr("shape is missing"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[2]})"), HasSubstr("data_offsets is missing"));
  EXPECT_THAT(EntryError(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})"), HasSubstr("dtype is 7"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"),
              HasSubstr("shape is 2, not a list"));
  for (const char* dim :
       {"-2", "2.0", "\"2\"", "null", "[2]", "9223372036854775808", "18446744073709551616"}) {
    EXPECT_THAT(EntryError(std::string(R"({"dtype":"F32","shape":[)") + dim + R"(],"data_offsets":[0,8]})"),
                HasSubstr("shape holds "))
        << dim;
  }
  for (const char* offsets :
       {"8", "[]", "[0]", "[0,8,9]", "[-1,7]", "[0,8.0]", "[8,0]", "[0,18446744073709551616]"}) {
    EXPECT_THAT(EntryError(std::string(R"({"dtype":"F32","shape":[2],"data_offsets":)") + offsets + "}"),
                AllOf(HasSubstr("tensor \"t\": data_offsets is "), HasSubstr("not [begin, end]")))
        << offsets;
  }
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
              HasSubstr("F32 of shape [3] needs 12 bytes, data_offsets span 8"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"),
              HasSubstr("shape [4294967296, 4294967296] overflows 64 bits"));
  EXPECT_THAT(
      EntryError(R"({"dtype":"BF16","shape":[9223372036854775807],"data_offsets":[0,18446744073709551614]})"),
      HasSubstr("the header describes 18446744073709551614 bytes of tensors, the file holds 8 (truncated)"));
}

TEST(Safetensors, TensorsFillTheFileWithoutGapsOrOverlaps) {
  const auto two = [](const std::string& a, const std::string& b, size_t bytes) {
    const std::string head = R"({"dtype":"F32","shape":[2],"data_offsets":)";
    return OpenError(
        SafetensorsFile("{\"a\":" + head + a + "},\"b\":" + head + b + "}}", std::string(bytes, 'x')));
  };
  EXPECT_THAT(two("[0,8]", "[4,12]", 12),
              HasSubstr("tensor \"b\" begins at byte 4, the one before it ends at 8"));
  EXPECT_THAT(two("[0,8]", "[0,8]", 8),
              HasSubstr("tensor \"b\" begins at byte 0, the one before it ends at 8"));
  EXPECT_THAT(two("[0,8]", "[9,17]", 17),
              HasSubstr("tensor \"b\" begins at byte 9, the one before it ends at 8"));
  EXPECT_THAT(two("[1,9]", "[9,17]", 17),
              HasSubstr("tensor \"a\" begins at byte 1, the one before it ends at 0"));
  EXPECT_THAT(two("[0,8]", "[8,16]", 15),
              HasSubstr("the header describes 16 bytes of tensors, the file holds 15 (truncated)"));
  EXPECT_THAT(two("[0,8]", "[8,16]", 17),
              HasSubstr("the header describes 16 bytes of tensors, the file holds 17"));
  // A repeated name leaves a gap where its first entry was.
  EXPECT_THAT(OpenError(SafetensorsFile(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                                            "a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                        "12345678")),
              HasSubstr("tensor \"a\" begins at byte 4, the one before it ends at 0"));
}

class Shards : public ::testing::Test {
 protected:
  Shards() {
    WriteFile(dir_ / "a.safetensors", WriteRawTensors({{"x", Floats({2}, 'x')}, {"y", Floats({3}, 'y')}}));
    WriteFile(dir_ / "b.safetensors", WriteRawTensors({{"z", Floats({4}, 'z')}}));
  }

  absl::Status Open(const json& weight_map) {
    WriteFile(dir_ / "model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
    return Safetensors::Open(dir_.path()).status();
  }
  std::string OpenError(const json& weight_map) {
    const absl::Status status = Open(weight_map);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }

  TempDir dir_;
  const json good_ = {{"x", "a.safetensors"}, {"y", "a.safetensors"}, {"z", "b.safetensors"}};
};

TEST_F(Shards, AreOne) {
  ASSERT_TRUE(Open(good_).ok()) << Open(good_);
  const auto files = *Safetensors::Open(dir_.path());
  EXPECT_THAT(files->Names(), ElementsAre("x", "y", "z"));
  EXPECT_EQ(files->total_bytes(), 36u);
  EXPECT_EQ(BytesOf(*files->Get("z", {4})), std::string(16, 'z'));
  EXPECT_EQ(files->Get("z", {4})->file, dir_ / "b.safetensors");
}

TEST_F(Shards, IndexAndShardsMustAgree) {
  json map = good_;
  map["w"] = "b.safetensors";
  EXPECT_THAT(OpenError(map), AllOf(HasSubstr("index.json: weight_map says that tensor \"w\" is in "),
                                    HasSubstr("b.safetensors, it is nowhere")));
  map = good_;
  map["x"] = "b.safetensors";
  EXPECT_THAT(OpenError(map), HasSubstr("b.safetensors, it is in " + (dir_ / "a.safetensors")));
  map = good_;
  map["w"] = "c.safetensors";
  EXPECT_TRUE(absl::IsNotFound(Open(map)));
  EXPECT_THAT(OpenError(map), HasSubstr(dir_ / "c.safetensors"));
}

TEST_F(Shards, ATensorInTwoShardsIsRefused) {
  WriteFile(dir_ / "b.safetensors", WriteRawTensors({{"x", Floats({1}, 0)}, {"z", Floats({4}, 'z')}}));
  EXPECT_THAT(OpenError(good_), HasSubstr("tensor \"x\" is in both " + (dir_ / "a.safetensors") + " and " +
                                          (dir_ / "b.safetensors")));
}

TEST_F(Shards, ATruncatedShardIsNamed) {
  const std::string whole = test::ReadFile(dir_ / "b.safetensors");
  WriteFile(dir_ / "b.safetensors", whole.substr(0, whole.size() - 5));
  EXPECT_THAT(OpenError(good_),
              HasSubstr((dir_ / "b.safetensors") +
                        ": the header describes 16 bytes of tensors, the file holds 11 (truncated)"));
}

TEST_F(Shards, AnIndexOpensOnlyPlainNamesBesideIt) {
  std::filesystem::create_directory(dir_ / "sub");
  std::filesystem::copy(dir_ / "b.safetensors", dir_ / "sub/b.safetensors");
  for (const std::string& name :
       {std::string("sub/b.safetensors"), std::string("../b.safetensors"), dir_ / "b.safetensors",
        std::string(".."), std::string(""), std::string("b.safetensors\0", 14),
        std::string("b\0.safetensors", 14), std::string("config.json")}) {
    EXPECT_THAT(OpenError({{"z", name}}), HasSubstr("not the plain name of a .safetensors file")) << name;
  }
  EXPECT_THAT(OpenError({{"z", 5}}), HasSubstr("weight_map: \"z\" is in 5, not the plain name"));
}

TEST_F(Shards, DamagedIndexes) {
  EXPECT_THAT(OpenError(json::array()), HasSubstr("index.json: weight_map is missing or not an object"));
  EXPECT_THAT(OpenError(json::object()), HasSubstr("weight_map names 0 files, must be 1 to 4096"));
  json many;
  for (int i = 0; i < 4097; ++i) many[std::to_string(i)] = std::to_string(i) + ".safetensors";
  EXPECT_THAT(OpenError(many), HasSubstr("weight_map names 4097 files, must be 1 to 4096"));
  WriteFile(dir_ / "model.safetensors.index.json", "{");
  EXPECT_THAT(std::string(Safetensors::Open(dir_.path()).status().message()),
              HasSubstr("model.safetensors.index.json: not JSON"));
  WriteFile(dir_ / "model.safetensors.index.json", "7");
  EXPECT_THAT(std::string(Safetensors::Open(dir_.path()).status().message()),
              HasSubstr("weight_map is missing"));
}

TEST_F(Shards, OneFileGoesBeforeAnIndex) {
  WriteFile(dir_ / "model.safetensors.index.json", "{");
  WriteFile(dir_ / "model.safetensors", WriteRawTensors({{"only", Floats({1}, 'o')}}));
  EXPECT_THAT((*Safetensors::Open(dir_.path()))->Names(), ElementsAre("only"));
}

}  // namespace
}  // namespace clamor
