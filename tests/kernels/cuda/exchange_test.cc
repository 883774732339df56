// Ranks that give each other what they computed: on one device, each with its stream, under many schedules.
#include "kernels/cuda/exchange.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/bias.h"
#include "kernels/cuda/join_columns.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/step_graphs.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

class ExchangeTest : public OnDevice {};

TEST_F(ExchangeTest, ColumnsOfShardsStandSideBySide) {
  const int shards = 3, rows = 2, n = 8, stride = 40;
  const std::vector<float> from = Floats(shards * stride);
  const std::vector<float> joined = OnEverySchedule([&] {
    DeviceArray<float> parts(stream_, from), to(stream_, rows * shards * n);
    JoinColumns(parts.data(), shards, stride, rows, n, to.data(), stream_);
    return to.Read();
  });
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < shards * n; ++i)
      EXPECT_EQ(joined[r * shards * n + i], from[i / n * stride + r * n + i % n]);
  }
}

// What shards came to is added up in their order, then the bias, then all to the row.
TEST_F(ExchangeTest, RmsNormAddsShardsInOrder) {
  const int n = 72, rows = 2, shards = 3, stride = rows * n + 8;
  const std::vector<float> hidden = Floats(rows * n), parts = Floats(shards * stride), bias = Floats(n),
                           weight = Floats(n);
  std::vector<float> sums(rows * n);
  for (int i = 0; i < rows * n; ++i) {
    sums[i] = hidden[i] + (parts[i] + parts[stride + i] + parts[2 * stride + i] + bias[i % n]);
  }
  EXPECT_TRUE(SameBits(sums, OnEverySchedule([&] {
                         DeviceArray<float> h(stream_, hidden), p(stream_, parts), b(stream_, bias),
                             w(stream_, weight);
                         DeviceArray<uint16_t> y(stream_, rows * n);
                         AddRmsNorm({.hidden = h.data(),
                                     .addend = p.data(),
                                     .addends = shards,
                                     .addend_stride = stride,
                                     .addend_bias = b.data(),
                                     .which = nullptr,
                                     .weight = w.data(),
                                     .eps = 1e-6f,
                                     .rows = rows,
                                     .n = n,
                                     .y = y.data()},
                                    stream_);
                         return h.Read();
                       })));
}

std::unique_ptr<Exchange> NewExchange(bool nccl, const std::vector<Rank>& ranks) {
  if (!nccl) return NewPeerExchange(ranks);
#ifdef CLAMOR_NCCL
  return NewNcclExchange(ranks, CLAMOR_NCCL);
#else
  return NewNcclExchange(ranks);  // refuses ranks that share a device
#endif
}

class SharingTest : public OnDevice, public testing::WithParamInterface<bool> {};

// Two ranks add to what the other one has shared, again and again, in one graph.
TEST_P(SharingTest, EachRankSeesWhatTheOthersWroteBefore) {
  if (NewExchange(GetParam(), {{0, stream_}, {0, stream_}}) == nullptr) GTEST_SKIP() << "NCCL cannot be used";
  constexpr int kSize = 8, kRounds = 3, kSteps = 4;
  const std::vector<float> one(kSize, 1.0f);
  const auto run = [&] {
    cudaStream_t second;
    EXPECT_EQ(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), cudaSuccess);
    std::vector<float> got;
    {
      const cudaStream_t streams[2] = {stream_, second};
      // [rank][buffer][piece of each rank]
      DeviceArray<float> first_memory(stream_, std::vector<float>(4 * kSize)),
          second_memory(second, std::vector<float>(4 * kSize)), ones(stream_, one);
      float* const memory[2] = {first_memory.data(), second_memory.data()};
      const auto exchange = NewExchange(GetParam(), {{0, stream_}, {0, second}});
      StepGraphs graphs;
      for (int step = 0; step < kSteps; ++step) {
        exchange->Join();
        graphs.Run(1, stream_, [&](Stream) {
          exchange->Fork();
          for (int round = 0; round < kRounds; ++round) {
            for (int buffer = 0; buffer < 2; ++buffer) {
              std::byte* bases[2];
              for (int r = 0; r < 2; ++r) {
                bases[r] = reinterpret_cast<std::byte*>(memory[r] + 2 * buffer * kSize);
                // Own piece of this buffer += the other's piece of the other buffer + 1.
                AddBias(memory[r] + 2 * (1 - buffer) * kSize + (1 - r) * kSize, 1, kSize,
                        memory[r] + 2 * buffer * kSize + r * kSize, streams[r]);
                AddBias(ones.data(), 1, kSize, memory[r] + 2 * buffer * kSize + r * kSize, streams[r]);
              }
              const Exchange::Piece pieces[2] = {{0, 0, kSize * sizeof(float)},
                                                 {1, kSize * sizeof(float), kSize * sizeof(float)}};
              exchange->Share(bases, pieces);
            }
          }
          exchange->Join();
        });
        exchange->Fork();
      }
      for (DeviceArray<float>* m : {&first_memory, &second_memory}) {
        for (const float v : m->Read()) got.push_back(v);
      }
    }
    EXPECT_EQ(cudaStreamDestroy(second), cudaSuccess);
    return got;
  };
  const std::vector<float> got = OnEverySchedule(run);
  float pieces[2] = {};  // of both buffers: all ranks' are alike
  for (int i = 0; i < kSteps * kRounds; ++i) {
    pieces[0] += pieces[1] + 1.0f;
    pieces[1] += pieces[0] + 1.0f;
  }
  ASSERT_EQ(got.size(), 8u * kSize);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], pieces[i / (2 * kSize) % 2]) << i;
}

TEST_F(ExchangeTest, WithoutNcclThereIsNone) {
  EXPECT_EQ(NewNcclExchange({{0, stream_}}, "libthere_is_no_such.so"), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Ways, SharingTest, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "nccl" : "peers"; });

}  // namespace
}  // namespace clamor::kernels::cuda
