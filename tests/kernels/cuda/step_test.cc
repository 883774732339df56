// What surrounds the kernels of a step: products with pinned algorithms, inputs and outputs that are doubled,
// graphs that replay with new inputs.
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/silu_gate.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/step_io.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

class MatMulTest : public OnDevice {
 protected:
  // [rows, n]; the surplus rows hold `surplus`.
  std::vector<float> Product(const std::vector<uint16_t>& x, int64_t rows, const std::vector<uint16_t>& w,
                             int64_t n, int64_t k, float surplus = 0.0f) {
    std::vector<uint16_t> padded(x.begin(), x.begin() + rows * k);
    padded.resize(PaddedRows(rows) * k, BF16Of(surplus));
    MatMulPlans plans;
    plans.Prepare(n, k);
    DeviceArray<uint16_t> device_x(stream_, padded), device_w(stream_, w);
    DeviceArray<float> y(stream_, PaddedRows(rows) * n);
    plans.MatMul(device_x.data(), rows, device_w.data(), n, k, y.data(), stream_);
    std::vector<float> all = y.Read();
    all.resize(rows * n);
    return all;
  }
};

TEST_F(MatMulTest, IsTheProductWhateverTheOtherRows) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8, 16}, {24, 40}, {40, 72}}) {
    const int64_t rows = 70;
    const std::vector<uint16_t> x = BF16sOf(Floats(rows * k)), w = BF16sOf(Floats(n * k));
    const std::vector<float> y = OnEverySchedule([&] { return Product(x, rows, w, n, k); });
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += double{Widen(x[r * k + i])} * Widen(w[c * k + i]);
        EXPECT_NEAR(y[r * n + c], sum, 1e-5 * k) << r << " " << c;
      }
    }
    for (const int64_t fewer : {1, 2, 64, 65}) {
      EXPECT_TRUE(SameBits(std::vector<float>(y.begin(), y.begin() + fewer * n),
                           Product(x, fewer, w, n, k, /*surplus=*/7.0f)))
          << fewer;
    }
  }
}

// Nothing is promised but the product.
TEST_F(MatMulTest, FastIsTheProduct) {
  const int64_t n = 24, k = 40;
  MatMulPlans plans(Numerics::kFast);
  for (const int64_t rows : {1, 3, 70, 3}) {
    const std::vector<uint16_t> x = BF16sOf(Floats(rows * k)), w = BF16sOf(Floats(n * k));
    DeviceArray<uint16_t> device_x(stream_, x), device_w(stream_, w);
    DeviceArray<float> y(stream_, rows * n);
    plans.MatMul(device_x.data(), rows, device_w.data(), n, k, y.data(), stream_);
    const std::vector<float> got = y.Read();
    for (int64_t i = 0; i < rows * n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += double{Widen(x[i / n * k + j])} * Widen(w[i % n * k + j]);
      EXPECT_NEAR(got[i], sum, 1e-5 * k) << rows << " rows";
    }
  }
}

// A model of one layer without attention, whose steps the host prepares and reads while others run.
class StepTest : public OnDevice {
 protected:
  static constexpr int kVocabulary = 11, kSize = 24, kRows = 3;

  // The outputs of all steps, or of the last one: [*, kRows, kSize].
  std::vector<float> Run(const std::vector<std::vector<int32_t>>& steps, bool read_each) {
    const int64_t padded = PaddedRows(kRows);
    DeviceArray<uint16_t> table(stream_, table_), w(stream_, w_);
    DeviceArray<float> norm(stream_, norm_), hidden(stream_, kRows * kSize);
    DeviceArray<uint16_t> normed(stream_, std::vector<uint16_t>(padded * kSize)),
        gated(stream_, kRows * kSize);
    DeviceArray<float> gate_up(stream_, padded * 2 * kSize);
    MatMulPlans plans;
    plans.Prepare(2 * kSize, kSize);
    StepInputs inputs(kRows * sizeof(int32_t));
    StepOutputs outputs(kRows * kSize * sizeof(uint16_t));
    StepGraphs graphs;

    std::vector<float> all;
    const auto read = [&] {
      std::vector<uint16_t> got(kRows * kSize);
      std::memcpy(got.data(), outputs.Wait(), got.size() * sizeof(uint16_t));
      for (const uint16_t v : got) all.push_back(Widen(v));
    };
    for (size_t step = 0; step < steps.size(); ++step) {
      std::memcpy(inputs.Next(), steps[step].data(), kRows * sizeof(int32_t));
      inputs.Upload(kRows * sizeof(int32_t), stream_);
      if (step > 0 && read_each) read();  // of the last step, beside this one's upload
      outputs.BeginStep(stream_);
      graphs.Run(kRows, stream_, [&](Stream stream) {
        Embed(table.data(), reinterpret_cast<const int32_t*>(inputs.device()), kRows, kSize, hidden.data(),
              stream);
        AddRmsNorm({.hidden = hidden.data(),
                    .addend = nullptr,
                    .which = nullptr,
                    .weight = norm.data(),
                    .eps = 1e-6f,
                    .rows = kRows,
                    .n = kSize,
                    .y = normed.data()},
                   stream);
        plans.MatMul(normed.data(), kRows, w.data(), 2 * kSize, kSize, gate_up.data(), stream);
        SiluGate(gate_up.data(), kRows, kSize, reinterpret_cast<uint16_t*>(outputs.device()), stream);
      });
      outputs.Download(kRows * kSize * sizeof(uint16_t), stream_);
    }
    read();
    return all;
  }

  const std::vector<uint16_t> table_ = BF16sOf(Floats(kVocabulary * kSize)),
                              w_ = BF16sOf(Floats(2 * kSize * kSize));
  const std::vector<float> norm_ = Floats(kSize);
};

TEST_F(StepTest, ReplaysWithEachStepsInputs) {
  std::vector<std::vector<int32_t>> steps(6);
  for (auto& tokens : steps) {
    for (int r = 0; r < kRows; ++r) tokens.push_back(Between(0, kVocabulary - 1));
  }
  const std::vector<float> got = OnEverySchedule([&] { return Run(steps, /*read_each=*/true); });
  const std::vector<float> last = OnEverySchedule([&] { return Run(steps, /*read_each=*/false); });
  EXPECT_TRUE(SameBits(std::vector<float>(got.end() - kRows * kSize, got.end()), last))
      << "when the host runs ahead";
  for (size_t step = 0; step < steps.size(); ++step) {
    for (int r = 0; r < kRows; ++r) {
      std::vector<float> row(kSize), normed(kSize), gate_up(2 * kSize);
      for (int i = 0; i < kSize; ++i) row[i] = Widen(table_[steps[step][r] * kSize + i]);
      reference::RmsNorm(row.data(), kSize, norm_.data(), 1e-6f, normed.data());
      for (int c = 0; c < 2 * kSize; ++c) {
        for (int i = 0; i < kSize; ++i) {
          gate_up[c] = std::fma(reference::RoundToBF16(normed[i]), Widen(w_[c * kSize + i]), gate_up[c]);
        }
      }
      for (int i = 0; i < kSize; ++i) {
        const float expected = reference::Silu(gate_up[i]) * gate_up[kSize + i];
        EXPECT_NEAR(got[(step * kRows + r) * kSize + i], expected, 1e-2 * std::max(1.0f, std::fabs(expected)))
            << "step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace clamor::kernels::cuda
