#include "model/train/model_export.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "model/config.h"
#include "tests/model/train/training_fixture.h"

namespace clamor {
namespace {

class ModelExportTest : public testing::TestWithParam<Subject> {
 protected:
  // The values of the directory's tensors, in the order of ModelParameters.
  static std::vector<float> Exported(const std::string& dir, const ModelConfig& config) {
    const ModelParameters parameters(config);
    std::vector<float> values(parameters.table.total());
    const absl::Status loaded =
        LoadParameters(dir, config, parameters.table, values, [](uint64_t, uint64_t) {});
    EXPECT_TRUE(loaded.ok()) << loaded;
    return values;
  }

  kernels::ThreadPool pool_{2};
};

// What is written is the base plus scale * b * a, multiplied out here by plain loops; without adapters, the
// values themselves.
TEST_P(ModelExportTest, HoldsTheModelAsItIs) {
  const Subject& subject = GetParam();
  TestedModel tested(subject, pool_);
  TrainableModel& model = *tested.model;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
  for (float& value : model.values()) value += uniform(random);

  test::TempDir out;
  const absl::Status written =
      ExportModel(out.path(), subject.dir(), model, subject.adapters(), kernels::DType::kF32, pool_);
  ASSERT_TRUE(written.ok()) << written;
  const std::vector<float> actual = Exported(out.path(), model.config());
  if (subject.rank == 0) {
    EXPECT_TRUE(std::ranges::equal(actual, model.values()));
    return;
  }

  std::vector<float> expected = Exported(subject.dir(), model.config());
  const ModelParameters parameters(model.config());
  const double scale = subject.adapters().alpha / static_cast<double>(subject.rank);
  size_t adapter = 0;
  for (const LayerOffsets& at : parameters.layers) {
    for (const int64_t offset : {at.qkv, at.output, at.gate_up, at.down}) {
      const auto a = model.table().Slice(model.values(), adapter);
      const auto b = model.table().Slice(model.values(), adapter + 1);
      const int64_t k = model.table().tensors()[adapter].shape[1],
                    n = model.table().tensors()[adapter + 1].shape[0];
      adapter += 2;
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t column = 0; column < k; ++column) {
          double update = 0;
          for (int64_t r = 0; r < subject.rank; ++r)
            update += double{b[row * subject.rank + r]} * a[r * k + column];
          expected[offset + row * k + column] += static_cast<float>(scale * update);
        }
      }
    }
  }
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-5) << i;
  EXPECT_FALSE(std::ranges::equal(actual, Exported(subject.dir(), model.config())));
}

INSTANTIATE_TEST_SUITE_P(Subjects, ModelExportTest, testing::ValuesIn(Subjects()),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace clamor
