#include "model/safetensors_writer.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/safetensors.h"
#include "tests/model/checkpoint/model_files.h"
#include "tests/model/checkpoint/write_limit.h"

namespace clamor {
namespace {

using kernels::DType;
using test::RawTensor;
using test::RawTensors;
using test::ReadFile;
using test::ReadRawTensors;
using test::TempDir;
using test::WriteFile;
using test::WriteLimit;
using ::testing::ElementsAre;
using ::testing::Pair;

// Random bits: every kind of number, NaNs of all payloads too.
std::vector<float> RandomBits(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
  return values;
}

std::vector<uint32_t> Bits(std::span<const float> values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

struct Named {
  TensorShape tensor;
  std::vector<float> values;
};

// One larger than the writer's chunks, and the smallest there are.
std::vector<Named> SomeTensors() {
  return {{{"z.first", {3, 5}}, RandomBits(15, 1)},
          {{"scalar", {}}, RandomBits(1, 2)},
          {{"empty", {4, 0}}, {}},
          {{"odd", {7}}, RandomBits(7, 3)},
          {{"a.large", {300, 1001}}, RandomBits(300300, 4)}};
}

absl::Status Write(const std::string& path, const std::vector<Named>& tensors, DType dtype) {
  std::vector<TensorShape> shapes;
  for (const Named& t : tensors) shapes.push_back(t.tensor);
  size_t next = 0;
  return WriteSafetensors(path, shapes, dtype, {{"format", "pt"}, {"quote", "\"\\\n"}}, [&](size_t i) {
    EXPECT_EQ(i, next++);
    return std::span<const float>(tensors[i].values);
  });
}

TEST(SafetensorsWriter, FP32ComesBackBitForBit) {
  const std::vector<Named> tensors = SomeTensors();
  TempDir dir;
  ASSERT_TRUE(Write(dir / "model.safetensors", tensors, DType::kF32).ok());
  const RawTensors raw = ReadRawTensors(dir.path());
  ASSERT_EQ(raw.size(), tensors.size());
  for (const Named& t : tensors) {
    EXPECT_EQ(raw.at(t.tensor.name).dtype, "F32");
    EXPECT_EQ(raw.at(t.tensor.name).shape, t.tensor.shape);
    const std::string& bytes = raw.at(t.tensor.name).bytes;
    ASSERT_EQ(bytes.size(), t.values.size() * 4);
    std::vector<float> values(t.values.size());
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    EXPECT_EQ(Bits(values), Bits(t.values)) << t.tensor.name;
  }
}

// The nearest number of eight significant bits, ties to even; in double, where every step is exact.
double NearestBF16(double x) {
  if (x == 0 || std::isinf(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 8, -133));
  const double scaled = x / unit, below = std::floor(scaled), rest = scaled - below;
  const bool up = rest > 0.5 || (rest == 0.5 && std::fmod(below, 2) != 0);
  const double rounded = (up ? below + 1 : below) * unit;
  constexpr double kMax = 255.0 * 0x1p120;
  return std::abs(rounded) > kMax ? std::copysign(INFINITY, rounded) : rounded;
}

TEST(SafetensorsWriter, BF16IsTheNearest) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<Named> tensors = SomeTensors();
  for (const float x :
       {0.0f, -0.0f, infinity, -infinity, 0x1p-149f, 3.4028235e38f, 1.00390625f, 1.01171875f}) {
    tensors.push_back({{"x" + std::to_string(tensors.size()), {1}}, {x}});
  }
  TempDir dir;
  ASSERT_TRUE(Write(dir / "model.safetensors", tensors, DType::kBF16).ok());
  const RawTensors all = ReadRawTensors(dir.path());
  ASSERT_EQ(all.size(), tensors.size());
  for (const Named& t : tensors) {
    const RawTensor& raw = all.at(t.tensor.name);
    EXPECT_EQ(raw.dtype, "BF16");
    EXPECT_EQ(raw.shape, t.tensor.shape);
    ASSERT_EQ(raw.bytes.size(), t.values.size() * 2);
    for (size_t i = 0; i < t.values.size(); ++i) {
      uint16_t bits;
      std::memcpy(&bits, raw.bytes.data() + 2 * i, 2);
      const float stored = std::bit_cast<float>(uint32_t{bits} << 16);
      if (std::isnan(t.values[i])) {
        ASSERT_TRUE(std::isnan(stored));
      } else {
        ASSERT_EQ(stored, NearestBF16(t.values[i])) << t.values[i];
        ASSERT_EQ(std::signbit(stored), std::signbit(t.values[i]));
      }
    }
  }
}

TEST(SafetensorsWriter, OurReaderAgreesAndDataIsAligned) {
  const std::vector<Named> tensors = SomeTensors();
  TempDir dir;
  ASSERT_TRUE(Write(dir / "any name", tensors, DType::kF32).ok());
  const auto file = Safetensors::OpenFile(dir / "any name");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Names().size(), tensors.size());
  EXPECT_THAT((*file)->metadata(), ElementsAre(Pair("format", "pt"), Pair("quote", "\"\\\n")));
  for (const Named& t : tensors) {
    const absl::StatusOr<Tensor> tensor = (*file)->Get(t.tensor.name, t.tensor.shape);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(tensor->dtype, DType::kF32);
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, ReadFile(dir / "any name").data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u);
}

// What other writers may put there: only text counts, and nothing is an error.
TEST(SafetensorsWriter, ReadersBearAnyMetadata) {
  TempDir dir;
  const std::string path = dir / "model.safetensors";
  WriteFile(path,
            test::SafetensorsFile(R"({"__metadata__": {"a": "x", "b": 1, "c": {"d": "y"}, "e": null}})", ""));
  EXPECT_THAT((*Safetensors::OpenFile(path))->metadata(), ElementsAre(Pair("a", "x")));
  for (const char* metadata : {"[1]", "null", "\"text\"", "{}"}) {
    WriteFile(path, test::SafetensorsFile(std::string("{\"__metadata__\": ") + metadata + "}", ""));
    const auto file = Safetensors::Open(dir.path());
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE((*file)->metadata().empty());
  }
}

TEST(SafetensorsWriter, NoFile) {
  TempDir dir;
  const absl::Status status = Safetensors::OpenFile(dir / "absent").status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

TEST(SafetensorsWriter, NoTensors) {
  TempDir dir;
  ASSERT_TRUE(Write(dir / "model.safetensors", {}, DType::kBF16).ok());
  const auto file = Safetensors::Open(dir.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->Names().empty());
}

TEST(SafetensorsWriter, AFullDiskLeavesTheOldFile) {
  TempDir dir;
  WriteFile(dir / "file", "old");
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const uint64_t limit : {0, 7, 100, 500000}) {
      const WriteLimit full(limit);
      EXPECT_FALSE(Write(dir / "file", SomeTensors(), dtype).ok());
      EXPECT_EQ(ReadFile(dir / "file"), "old");
      EXPECT_FALSE(std::filesystem::exists(dir / "file.partial"));
    }
  }
}

}  // namespace
}  // namespace clamor
