// Whole models on the device in other ways than the plain one: weights in int8 and int4, several ranks,
// products that promise nothing, too little memory, a device that broke.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/cuda/device_model.h"
#include "model/model_tensors.h"
#include "model/safetensors_writer.h"
#include "tests/model/cuda/device_runner.h"
#include "tests/model/cuda/dull_device_twin.h"

namespace clamor {
namespace {

class DeviceOptionsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (kernels::cuda::DeviceCount() == 0) GTEST_SKIP() << "there is no GPU";
  }
  void TearDown() override { SetSchedule(0); }
};

double RelativeMiss(const std::vector<float>& got, const std::vector<float>& expected) {
  double misses = 0, squares = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    misses += std::pow(double{got[i]} - expected[i], 2);
    squares += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(misses / squares);
}

// A text, a tree behind it and beside another text, and kept guesses: all logits on the way.
std::vector<std::vector<float>> Answers(const std::string& family, const DeviceOptions& options) {
  DeviceRunner runner(family, options);
  const auto golden = DecodingGoldens(family).at(1);
  Sequence s = {.text = golden.at("prompt_ids").get<std::vector<int32_t>>()}, other = {.text = {3, 1, 2}};
  std::vector<std::vector<float>> all = runner.Run({&s});
  for (int32_t step = 0; step < 3; ++step) {
    s.tree = {11 + step, 12 + step, 13 + step, 14 + step};
    s.parents = {-1, 0, 0, 2};
    if (step > 0) other.text.push_back(step);
    const auto rows = runner.Run({&s, &other});
    all.insert(all.end(), rows.begin(), rows.end());
    runner.Keep(s, {0, 2, 3});
  }
  return all;
}

// The CPU's products are the device's own, so that sums elsewhere are the only difference, and what they do
// to roundings.
TEST_F(DeviceOptionsTest, QuantisedWeightsGiveTheTwinsLogits) {
  for (const WeightFormat format : {WeightFormat::kI8, WeightFormat::kI4}) {
    for (const std::string family : {"llama", "qwen2"}) {  // a head of its own, and a tied one
      DeviceRunner runner(family, {.weights = format});
      DullDeviceTwin twin(TinyDirectory(family), format);
      Sequence s = {.text = DecodingGoldens(family).at(0).at("prompt_ids").get<std::vector<int32_t>>()};
      s.text.resize(std::min<size_t>(s.text.size(), 24));
      EXPECT_LT(RelativeMiss(runner.Run({&s})[0], twin.Logits(s.text)), 1e-3)
          << family << ", " << WeightFormatName(format);
    }
  }
}

TEST_F(DeviceOptionsTest, QuantisedTreesKeepTheBitsOfTextsAlone) {
  const DeviceOptions options = {.weights = WeightFormat::kI4};
  const std::vector<int32_t> text = {7, 5, 9, 11, 2};
  DeviceRunner runner("llama", options);
  Sequence tree = {.text = text, .tree = {4, 6, 8}, .parents = {-1, 0, 0}}, other = {.text = {1, 2, 3}};
  const auto rows = runner.Run({&other, &tree});
  ASSERT_EQ(rows.size(), 5u);
  for (const auto& [row, path] : {std::pair<int, std::vector<int32_t>>{2, {4}}, {3, {4, 6}}, {4, {4, 8}}}) {
    SetSchedule(row);
    DeviceRunner alone("llama", options);
    Sequence s = {.text = text};
    s.text.insert(s.text.end(), path.begin(), path.end());
    EXPECT_EQ(alone.Run({&s})[0], rows[row]) << "row " << row;
  }
}

// They may share a device, each with a stream of its own.
std::vector<int32_t> TwoRanks() { return {0, kernels::cuda::DeviceCount() > 1 ? 1 : 0}; }

TEST_F(DeviceOptionsTest, TwoRanksGiveTheBitsOfOne) {
  for (const std::string family : {"llama", "qwen2", "qwen3"}) {  // biases, a tied head; q/k norms
    const auto one = Answers(family, {.shards = 2});
    for (const int seed : {0, 1, 2}) {
      SetSchedule(seed);
      EXPECT_EQ(Answers(family, {.devices = TwoRanks()}), one) << family << ", schedule " << seed;
    }
    SetSchedule(0);
    // Not the bits of the model in one piece, but near them.
    const auto whole = Answers(family, {});
    ASSERT_EQ(whole.size(), one.size());
    for (size_t i = 0; i < whole.size(); ++i)
      EXPECT_LT(RelativeMiss(one[i], whole[i]), 1e-2) << family << " " << i;
  }
}

// A model of random weights whose sizes divide into two shards of whole groups.
std::string EvenDirectory() {
  static const std::string directory = [] {
    const std::string to = testing::TempDir() + "/even-llama";
    std::filesystem::create_directories(to);
    std::ifstream in(TinyDirectory("llama") + "/config.json");
    nlohmann::json config = nlohmann::json::parse(in);
    config["intermediate_size"] = 192;
    std::ofstream(to + "/config.json") << config;
    const auto description = LoadModelDescription(to);
    EXPECT_TRUE(description.ok()) << description.status();
    const ModelTensors model = TensorsOf(description->config);
    TensorGroup tensors = model.embedding;
    const auto add = [&](const TensorGroup& group) {
      tensors.insert(tensors.end(), group.begin(), group.end());
    };
    for (const LayerTensors& layer : model.layers) {
      for (const TensorGroup* group :
           {&layer.attention_norm, &layer.qkv, &layer.output, &layer.mlp_norm, &layer.gate_up, &layer.down}) {
        add(*group);
      }
    }
    add(model.final_norm);
    add(model.head);
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0.0f, 0.2f);
    std::vector<float> values;
    const absl::Status written =
        WriteSafetensors(to + "/model.safetensors", tensors, kernels::DType::kF32, {}, [&](size_t i) {
          size_t n = 1;
          for (const int64_t size : tensors[i].shape) n *= size;
          values.resize(n);
          for (float& v : values) v = tensors[i].shape.size() == 1 ? 1.0f : normal(random);
          return std::span<const float>(values);
        });
    EXPECT_TRUE(written.ok()) << written;
    return to;
  }();
  return directory;
}

// Each group of weights lies in one shard, so that the numbers are those of the model in one piece.
TEST_F(DeviceOptionsTest, QuantisedShards) {
  const auto answers = [](const DeviceOptions& options) {
    DeviceRunner runner(options, EvenDirectory());
    Sequence s = {.text = {5, 3, 9, 200, 7}};
    std::vector<std::vector<float>> all = runner.Run({&s});
    s.text.push_back(11);
    all.push_back(runner.Run({&s})[0]);
    return all;
  };
  for (const WeightFormat format : {WeightFormat::kI8, WeightFormat::kI4}) {
    const auto one = answers({.weights = format, .shards = 2});
    SetSchedule(1);
    EXPECT_EQ(answers({.weights = format, .devices = TwoRanks()}), one) << WeightFormatName(format);
    SetSchedule(0);
    const auto whole = answers({.weights = format});
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_LT(RelativeMiss(one[i], whole[i]), 1e-2) << i;
  }
}

TEST_F(DeviceOptionsTest, FastIsNear) {
  const auto exact = Answers("llama", {}), fast = Answers("llama", {.exact = false});
  ASSERT_EQ(exact.size(), fast.size());
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_LT(RelativeMiss(fast[i], exact[i]), 1e-2) << i;
}

TEST_F(DeviceOptionsTest, WhatDoesNotDivideIsRefused) {
  const auto load = [](const DeviceOptions& options) {
    return DeviceModel::Load(TinyDirectory("llama"), 0, options, [](uint64_t, uint64_t) {}).status();
  };
  for (const auto& [options, part] :
       {std::pair<DeviceOptions, std::string>{{.shards = 4}, "num_key_value_heads is 2"},
        {{.devices = {0, 0}, .shards = 3}, "3 shards do not divide among 2 devices"},
        {{.weights = WeightFormat::kI8, .shards = 2}, "intermediate_size is 160"}}) {
    const absl::Status status = load(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(std::string(status.message()).find(part), std::string::npos) << status;
  }
}

TEST_F(DeviceOptionsTest, SaysWhatItsBitsDependOn) {
  const auto device = [](const DeviceOptions& options) {
    auto model = DeviceModel::Load(TinyDirectory("llama"), 0, options, [](uint64_t, uint64_t) {});
    return model.ok() ? (*model)->device() : std::string(model.status().message());
  };
  const std::string exact = device({});
  EXPECT_NE(exact.find("sm_"), std::string::npos) << exact;
  EXPECT_NE(exact.find("exact"), std::string::npos) << exact;
  EXPECT_NE(device({.shards = 2}), exact);
  EXPECT_NE(device({.exact = false}), exact);
}

#ifndef CLAMOR_ON_GPU
// All that a model and its pass ask the device for, with less and less memory: each either fits or is refused
// with the numbers.
TEST_F(DeviceOptionsTest, WhateverDoesNotFitIsRefused) {
  const size_t before = simt::DeviceBytes();
  const auto make = [] {
    auto model = DeviceModel::Load(TinyDirectory("llama"), 0, {.weights = WeightFormat::kI8},
                                   [](uint64_t, uint64_t) {});
    if (!model.ok()) return model.status();
    kernels::ThreadPool pool(1);
    KvCache cache((*model)->config(), 8, kernels::KvFormat::kBF16);
    return (*model)->NewPass(cache, {.rows = 16, .sequences = 2, .top_k = 10}, pool).status();
  };
  int refused = 0;
  bool fits = false;
  for (size_t bytes = 1000; !fits && bytes < size_t{1} << 30; bytes += bytes / 2) {
    simt::SetDeviceBytes(bytes);
    const absl::Status status = make();
    fits = status.ok();
    if (fits) break;
    ++refused;
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << bytes << ": " << status;
  }
  simt::SetDeviceBytes(before);
  EXPECT_TRUE(fits);
  EXPECT_GT(refused, 3);
}

TEST_F(DeviceOptionsTest, AsManyTokensFitAsItSays) {
  const size_t before = simt::DeviceBytes();
  auto model = DeviceModel::Load(TinyDirectory("llama"), 0, {}, [](uint64_t, uint64_t) {});
  ASSERT_TRUE(model.ok()) << model.status();
  const PassLimits limits = {.rows = 16, .sequences = 2, .top_k = 10};
  const size_t used = before - kernels::cuda::FreeDeviceBytes();
  simt::SetDeviceBytes(used + (size_t{8} << 20));
  const std::optional<int64_t> fit = (*model)->KvTokensThatFit(limits);
  ASSERT_TRUE(fit.has_value());
  EXPECT_GT(*fit, 1000);
  kernels::ThreadPool pool(1);
  {
    KvCache cache((*model)->config(), KvCache::PagesFor(*fit), kernels::KvFormat::kBF16);
    EXPECT_TRUE((*model)->NewPass(cache, limits, pool).ok());
  }
  KvCache more((*model)->config(), KvCache::PagesFor(*fit + *fit / 4), kernels::KvFormat::kBF16);
  EXPECT_TRUE(absl::IsResourceExhausted((*model)->NewPass(more, limits, pool).status()));
  simt::SetDeviceBytes(before);
}

TEST_F(DeviceOptionsTest, ABrokenDeviceEndsTheProcess) {
  DeviceRunner runner("llama");
  Sequence s = {.text = {1, 2, 3}};
  EXPECT_DEATH(
      {
        simt::BreakDevice();
        runner.Run({&s});
      },
      "cuda: .*: an illegal memory access was encountered; the device cannot be relied on any more, so this "
      "process ends");
}
#endif

}  // namespace
}  // namespace clamor
