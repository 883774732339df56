// A tiny model on the device, emulated or real, and sequences to run through it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/device_memory.h"
#include "model/cuda/device_model.h"
#include "model/spec/sampler.h"
#include "nlohmann/json.hpp"
#include "tests/model/cuda/schedule.h"

namespace clamor {

inline std::string TinyDirectory(const std::string& family) {
  return std::string(CLAMOR_TESTDATA) + "/tiny-" + family;
}

inline nlohmann::json DecodingGoldens(const std::string& family) {
  std::ifstream in(TinyDirectory(family) + "/golden.json");
  return nlohmann::json::parse(in).at("decoding");
}

// A text of which a part may be read already, and a tree behind it: parents[0] == -1, its root is the token
// after the text; parents come before children.
struct Sequence {
  std::vector<int32_t> text;
  size_t read = 0;
  std::vector<int32_t> tree, parents;
  KvLease lease = {};
};

class DeviceRunner {
 public:
  static constexpr int kTopK = 10;

  explicit DeviceRunner(const std::string& family, const DeviceOptions& options = {})
      : DeviceRunner(options, TinyDirectory(family)) {}
  DeviceRunner(const DeviceOptions& options, const std::string& directory) {
    auto model = DeviceModel::Load(directory, 0, options, [](uint64_t, uint64_t) {});
    if (!model.ok()) {
      ADD_FAILURE() << model.status();
      std::abort();
    }
    model_ = *std::move(model);
    cache_ = std::make_unique<KvCache>(model_->config(), 96);
    auto pass = model_->NewPass(*cache_, {.rows = 320, .sequences = 8, .top_k = kTopK}, pool_);
    if (!pass.ok()) {
      ADD_FAILURE() << pass.status();
      std::abort();
    }
    pass_ = *std::move(pass);
  }

  // Runs what of the texts is not read, and the trees. The logits of the last token of each text and of all
  // nodes, sequence by sequence.
  std::vector<std::vector<float>> Run(const std::vector<Sequence*>& sequences) {
    Batch batch;
    batch.extra.reserve(8 * 64 * 64);
    for (Sequence* s : sequences) Add(*s, batch);
    // Every other step draws.
    if (draws_ = !draws_; draws_) {
      for (const int32_t row : batch.logit_rows)
        batch.draws.push_back({.seed = 5, .position = batch.positions[row] + 1, .temperature = 0.8f});
    }
    top_ = pass_->Forward(batch);
    Sampler sampler;
    std::vector<std::vector<float>> rows;
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      const auto logits = pass_->Logits(static_cast<int64_t>(i));
      rows.emplace_back(logits.begin(), logits.end());
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      EXPECT_EQ(top_.ids[i * kTopK], best) << "row " << i;
      EXPECT_EQ(top_.values[i * kTopK], logits[best]) << "row " << i;
      EXPECT_EQ(top_.drawn != nullptr, draws_);
      if (!draws_) continue;
      const RowDraw& draw = batch.draws[i];
      const SamplingOptions sampling = {.temperature = draw.temperature, .seed = draw.seed};
      EXPECT_EQ(top_.drawn[i], sampler.Draw(logits, sampling, draw.position)) << "row " << i;
    }
    return rows;
  }

  // Makes the nodes, a path from the tree's root on, the text's next tokens.
  void Keep(Sequence& s, const std::vector<int32_t>& path) {
    std::vector<int32_t> from;
    const int64_t first = static_cast<int64_t>(s.text.size());
    for (const int32_t node : path) {
      from.push_back(s.lease.Slot(first + node));
      s.text.push_back(s.tree[node]);
    }
    pass_->Move(from, s.lease, first);
    s.read = s.text.size();
    s.tree.clear();
    s.parents.clear();
  }

  Model& model() { return *model_; }
  KvCache& cache() { return *cache_; }
  ForwardPass& pass() { return *pass_; }

 private:
  void Add(Sequence& s, Batch& batch) {
    const int32_t n = static_cast<int32_t>(s.text.size());
    ASSERT_TRUE(cache_->Grow(s.lease, n + static_cast<int64_t>(s.tree.size())));
    const auto add = [&](int32_t token, int32_t position, int64_t slot, kernels::AttentionRow row,
                         bool wanted) {
      if (wanted) batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
      batch.tokens.push_back(token);
      batch.positions.push_back(position);
      batch.slots.push_back(s.lease.Slot(slot));
      row.pages = s.lease.pages().data();
      batch.attention.push_back(row);
    };
    for (int32_t i = static_cast<int32_t>(s.read); i < n; ++i) {
      add(s.text[i], i, i, {.prefix = i + 1}, i + 1 == n);
    }
    for (size_t i = 0; i < s.tree.size(); ++i) {
      std::vector<int32_t> path;  // slots, root first
      for (int32_t j = static_cast<int32_t>(i); j >= 0; j = s.parents[j]) path.push_back(s.lease.Slot(n + j));
      std::reverse(path.begin(), path.end());
      const size_t begin = batch.extra.size();
      batch.extra.insert(batch.extra.end(), path.begin(), path.end());
      const int32_t depth = static_cast<int32_t>(path.size());
      add(s.tree[i], n + depth - 1, n + static_cast<int64_t>(i),
          {.prefix = n, .extra = batch.extra.data() + begin, .extra_count = depth}, true);
    }
    s.read = s.text.size();
  }

  kernels::ThreadPool pool_{1};
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<ForwardPass> pass_;
  TopLogits top_;
  bool draws_ = false;
};

}  // namespace clamor
