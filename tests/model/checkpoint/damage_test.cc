// Model directories with random and systematic damage: every outcome is a Status or weights that can be read
// to the end. Worth most under the sanitizers.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using test::ReadFile;
using test::SafetensorsFile;
using test::TempDir;
using test::Testdata;
using test::WriteFile;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRounds = 400;
#else
constexpr int kRounds = 1000;
#endif

// One to four edits: a bit flipped, a byte set, a piece removed, doubled or overwritten by another piece, an
// end cut off.
std::string Damaged(std::string bytes, std::mt19937& random) {
  const auto below = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  for (size_t edits = 1 + below(4); edits > 0 && !bytes.empty(); --edits) {
    const size_t at = below(bytes.size()), length = std::min(1 + below(40), bytes.size() - at);
    switch (below(7)) {
      case 0:
        bytes[at] ^= static_cast<char>(1 << below(8));
        break;
      case 1:
        bytes[at] = static_cast<char>(below(256));
        break;
      case 2:
        bytes[at] = "0123456789-{}[]\",:.eE"[below(21)];
        break;
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 5:
        bytes.replace(at, length, bytes.substr(below(bytes.size()), length));
        break;
      case 6:
        bytes.resize(at);
        break;
    }
  }
  return bytes;
}

// Loads `dir` and reads every weight. Whether it loaded.
bool LoadAll(const std::string& dir, const ModelConfig& config) {
  static kernels::ThreadPool& pool = *new kernels::ThreadPool(1);
  const absl::StatusOr<Weights> weights =
      Weights::Load(dir, config, WeightFormat::kStored, pool, [](uint64_t, uint64_t) {});
  if (!weights.ok()) {
    EXPECT_NE(weights.status().message(), "");
    return false;
  }
  std::vector<float> row(weights->embedding.k());
  for (int64_t i = 0; i < weights->embedding.n(); ++i) weights->embedding.UnpackRow(i, row.data());
  return true;
}

// Tries damaged headers of one file of a copy of `model`; the data stays.
void DamageHeader(const std::string& model, const std::string& file) {
  TempDir dir(model);
  const ModelConfig config = LoadModelDescription(dir.path())->config;
  const std::string whole = ReadFile(dir / file);
  uint64_t length;
  std::memcpy(&length, whole.data(), sizeof(length));
  const std::string header = whole.substr(8, length), data = whole.substr(8 + length);
  std::mt19937 random(1);
  int loaded = 0;
  for (int round = 0; round < kRounds; ++round) {
    WriteFile(dir / file, SafetensorsFile(Damaged(header, random), data));
    loaded += LoadAll(dir.path(), config);
  }
  EXPECT_GT(loaded, 0);  // e.g. damage to the metadata
  EXPECT_LT(loaded, kRounds / 2);
}

TEST(Damage, Header) { DamageHeader("tiny-qwen2", "model.safetensors"); }
TEST(Damage, HeaderOfAShard) { DamageHeader("tiny-mistral", "model-00003-of-00003.safetensors"); }

TEST(Damage, Index) {
  TempDir dir("tiny-mistral");
  const std::string path = dir / "model.safetensors.index.json", index = ReadFile(path);
  const ModelConfig config = LoadModelDescription(dir.path())->config;
  std::mt19937 random(2);
  for (int round = 0; round < kRounds; ++round) {
    WriteFile(path, Damaged(index, random));
    LoadAll(dir.path(), config);
  }
}

// Every length around the boundaries of a file: each is refused, the whole file is not.
TEST(Damage, Truncation) {
  TempDir dir("tiny-qwen2");
  const std::string path = dir / "model.safetensors", whole = ReadFile(path);
  const ModelConfig config = LoadModelDescription(dir.path())->config;
  uint64_t length;
  std::memcpy(&length, whole.data(), sizeof(length));
  std::vector<size_t> boundaries = {0, 8, 8 + length, whole.size()};
  const nlohmann::json header = nlohmann::json::parse(whole.substr(8, length));
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") boundaries.push_back(8 + length + entry["data_offsets"][0].get<size_t>());
  }
  for (const size_t boundary : boundaries) {
    for (const int offset : {-1, 0, 1}) {
      const size_t size = boundary + offset;  // -1 of 0 wraps to above the file's size
      if (size > whole.size()) continue;
      WriteFile(path, whole.substr(0, size));
      EXPECT_EQ(LoadAll(dir.path(), config), size == whole.size()) << size << " of " << whole.size();
    }
  }
}

// A header that names far more than the file holds must fail before memory is asked for.
TEST(Damage, Bombs) {
  TempDir dir("tiny-qwen2");
  const ModelConfig config = LoadModelDescription(dir.path())->config;
  std::string many = "{";
  for (int i = 0; i < 100'000; ++i) {
    absl::StrAppend(&many, "\"", i, R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)");
  }
  many.back() = '}';
  std::string dims = R"({"t":{"dtype":"F32","shape":[0)";
  for (int i = 0; i < 1'000'000; ++i) dims += ",1";
  dims += R"(],"data_offsets":[0,0]}})";
  const std::string name =
      "{\"" + std::string(8 << 20, 'n') + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,0]}})";
  const std::string huge =
      R"({"t":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}})";
  for (const std::string& header : {many, dims, name, huge}) {
    WriteFile(dir / "model.safetensors", SafetensorsFile(header, "1234"));
    EXPECT_FALSE(LoadAll(dir.path(), config));
    const absl::Status status = Safetensors::Open(dir.path()).status();
    EXPECT_LT(status.message().size(), 1000u);
  }
}

TEST(Damage, Config) {
  std::mt19937 random(3);
  int parsed = 0;
  for (const char* model : {"tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-mistral"}) {
    const std::string config = ReadFile(Testdata(model) + "/config.json");
    const std::string generation = ReadFile(Testdata(model) + "/generation_config.json");
    for (int round = 0; round < kRounds; ++round) {
      const absl::StatusOr<ModelDescription> description = ParseModelDescription(
          Damaged(config, random), round % 2 ? generation : Damaged(generation, random));
      if (!description.ok()) {
        EXPECT_NE(description.status().message(), "");
        EXPECT_LT(description.status().message().size(), 1000u);
        continue;
      }
      ++parsed;
      const ModelConfig& c = description->config;
      EXPECT_EQ(c.window.size(), static_cast<size_t>(c.layers));
      EXPECT_EQ(c.head_dim % 2, 0);
      EXPECT_EQ(c.heads % c.kv_heads, 0);
      for (const double frequency : c.rope.InverseFrequencies(c.head_dim)) {
        EXPECT_TRUE(std::isfinite(frequency) && frequency > 0) << frequency;
      }
      for (const int32_t eos : description->generation.eos_ids) EXPECT_TRUE(0 <= eos && eos < c.vocab_size);
    }
  }
  EXPECT_GT(parsed, 0);
}

}  // namespace
}  // namespace clamor
