// What the tests of training share: PyTorch's ten steps, and small models with random parameters.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/train/trainable_model.h"
#include "model/train/training_pass.h"
#include "nlohmann/json.hpp"

namespace clamor {

inline std::string TestData(const std::string& path) { return std::string(CLAMOR_TESTDATA) + "/" + path; }

// tests/testdata/training: a model, ten batches of noisy rows, and what became of them.
struct TrainingGolden {
  struct Step {
    TrainingBatch batch;
    double loss, gradient_norm;
  };
  nlohmann::json options;
  std::vector<Step> steps;

  TrainingGolden() {
    std::ifstream file(TestData("training/golden.json"));
    const nlohmann::json golden = nlohmann::json::parse(file);
    options = golden.at("options");
    for (const auto& step : golden.at("steps")) {
      Step& to = steps.emplace_back(Step{{}, step.at("loss"), step.at("gradient_norm")});
      for (const auto& row : step.at("rows")) {
        const auto inputs = row.at("input_ids").get<std::vector<int32_t>>();
        const auto labels = row.at("labels").get<std::vector<int32_t>>();
        to.batch.Add(inputs, labels, [&](int32_t i) { return labels[i] >= 0; });
      }
    }
  }
};

inline ModelConfig ConfigAt(const std::string& model_dir) { return LoadModelDescription(model_dir)->config; }

// A model directory's parameters, ready to be trained.
inline std::unique_ptr<TrainableModel> LoadTrainable(const std::string& model_dir, kernels::ThreadPool& pool) {
  auto model = std::make_unique<TrainableModel>(ConfigAt(model_dir));
  const absl::Status loaded = LoadParameters(model_dir, model->config(), model->table(), model->values(),
                                             [](uint64_t, uint64_t) {});
  EXPECT_TRUE(loaded.ok()) << loaded;
  model->Pack(pool);
  return model;
}

// The largest difference between a file's tensors and `values`, relative to each tensor's largest value if asked.
inline void ExpectTensors(const std::string& file, const ParameterTable& table, std::span<const float> values,
                          double tolerance, bool relative) {
  // Safetensors opens directories.
  const std::string dir = testing::TempDir() + "/tensors";
  std::filesystem::create_directories(dir);
  std::filesystem::copy_file(file, dir + "/model.safetensors", std::filesystem::copy_options::overwrite_existing);
  const auto tensors = Safetensors::Open(dir);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  for (size_t t = 0; t < table.tensors().size(); ++t) {
    const auto tensor = (*tensors)->Get(table.tensors()[t].name, table.tensors()[t].shape);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    const std::span<const float> actual = table.Slice(values, t);
    std::vector<float> expected(actual.size());
    std::memcpy(expected.data(), tensor->data, tensor->bytes);
    double largest = 0, worst = 0;
    for (const float v : expected) largest = std::max(largest, std::abs(double{v}));
    for (size_t i = 0; i < expected.size(); ++i) worst = std::max(worst, std::abs(double{actual[i]} - expected[i]));
    EXPECT_LE(worst, tolerance * (relative ? largest : 1.0)) << table.tensors()[t].name << ", largest " << largest;
  }
}

}  // namespace clamor
