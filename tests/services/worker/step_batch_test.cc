// Each row against what it must see, said row by row from the rules.
#include "services/worker/step_batch.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

struct Row {
  int32_t token, position, slot;
  std::vector<int32_t> sees;  // slots in path order, itself last
  bool logits;
  float temperature = 0;  // of a token drawn from the row's logits as they are; 0: none is
};

std::vector<int32_t> Seen(const kernels::AttentionRow& row) {
  std::vector<int32_t> slots;
  for (int32_t t = 0; t < row.prefix; ++t) {
    slots.push_back(row.pages[t / kernels::kPageSize] * kernels::kPageSize + t % kernels::kPageSize);
  }
  slots.insert(slots.end(), row.extra, row.extra + row.extra_count);
  return slots;
}

std::vector<Row> NaiveRows(const std::vector<StepShare>& plan,
                           const std::vector<std::unique_ptr<Sequence>>& sequences) {
  std::vector<Row> rows;
  for (const StepShare& share : plan) {
    const Sequence& s = *sequences[share.sequence];
    const auto slot = [&s](int64_t place) {
      return s.pages.pages()[place / kernels::kPageSize] * kernels::kPageSize +
             static_cast<int32_t>(place % kernels::kPageSize);
    };
    const auto text_up_to = [&](int64_t position) {
      std::vector<int32_t> slots;
      for (int64_t i = 0; i <= position; ++i) slots.push_back(slot(i));
      return slots;
    };
    for (int64_t i = s.committed; i < s.committed + share.prefill; ++i) {
      rows.push_back({s.tokens[i], static_cast<int32_t>(i), slot(i), text_up_to(i), false});
    }
    if (!share.decode) continue;
    const int64_t root = static_cast<int64_t>(s.tokens.size()) - 1;
    for (size_t node = 0; node < s.tree.nodes.size(); ++node) {
      // The text, the root last, then the ancestors below it, then the node: node n lies n places behind the
      // root.
      std::vector<int32_t> below;
      for (int32_t i = static_cast<int32_t>(node); i > 0; i = s.tree.nodes[i].parent)
        below.insert(below.begin(), slot(root + i));
      std::vector<int32_t> sees = text_up_to(root);
      sees.insert(sees.end(), below.begin(), below.end());
      const int32_t position = static_cast<int32_t>(sees.size()) - 1;
      rows.push_back({s.tree.nodes[node].token, position, slot(root + static_cast<int64_t>(node)), sees, true,
                      s.request.sampling.top_k == 0 && s.edits.empty() ? s.request.sampling.temperature : 0});
    }
  }
  return rows;
}

TEST(BuildBatch, EveryRowOfRandomSteps) {
  std::mt19937 random(1);
  const auto below = [&random](int n) { return static_cast<int32_t>(random() % static_cast<uint32_t>(n)); };
  ModelConfig config;
  config.kv_heads = 1;
  config.head_dim = 16;
  config.layers = 1;
  Batch batch;
  for (int round = 0; round < 500; ++round) {
    KvCache cache(config, 200);
    std::vector<KvLease> holes;  // so that pages are not in order
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<StepShare> plan;
    for (int32_t i = 0, n = 1 + below(4); i < n; ++i) {
      if (below(2)) {
        ASSERT_TRUE(cache.Grow(holes.emplace_back(), 1 + below(40)));
      }
      auto& s = *sequences.emplace_back(std::make_unique<Sequence>(i, Request{}, nullptr, nullptr));
      for (int32_t t = 0, tokens = 1 + below(60); t < tokens; ++t) s.tokens.push_back(below(1000));
      ASSERT_TRUE(cache.Grow(s.pages, static_cast<int64_t>(s.tokens.size()) + 40));
      s.request.sampling = {.temperature = static_cast<float>(below(3)), .seed = 7};
      if (below(4) == 0) s.request.sampling.top_k = 5;
      if (below(4) == 0) s.request.sampling.presence_penalty = 1;
      s.edits = LogitEdits(s.request.sampling, s.ends, {}, /*max_tokens=*/100);
      s.committed = below(static_cast<int>(s.tokens.size()));
      const bool decode = below(3) > 0;
      const int32_t unread = static_cast<int32_t>(s.unread());
      if (!decode && unread == 0) continue;  // has no part in this step
      plan.push_back({.sequence = i, .prefill = decode ? unread : 1 + below(unread), .decode = decode});
      if (!decode) continue;
      s.tree.Reset(s.tokens.back());
      for (int32_t node = 0, nodes = below(40); node < nodes; ++node)
        s.tree.Add(below(1000), below(node + 1), Source::kContext);
      if (below(2)) holes.clear();
    }
    std::shuffle(plan.begin(), plan.end(), random);
    BuildBatch(plan, sequences, batch);
    const std::vector<Row> expected = NaiveRows(plan, sequences);
    ASSERT_EQ(batch.rows(), static_cast<int64_t>(expected.size()));
    ASSERT_EQ(batch.positions.size(), expected.size());
    ASSERT_EQ(batch.slots.size(), expected.size());
    ASSERT_EQ(batch.attention.size(), expected.size());
    std::vector<int32_t> logit_rows;
    for (size_t r = 0; r < expected.size(); ++r) {
      ASSERT_EQ(batch.tokens[r], expected[r].token);
      ASSERT_EQ(batch.positions[r], expected[r].position);
      ASSERT_EQ(batch.slots[r], expected[r].slot);
      ASSERT_EQ(Seen(batch.attention[r]), expected[r].sees);
      ASSERT_EQ(Seen(batch.attention[r]).back(), batch.slots[r]) << "a row sees itself last";
      if (!expected[r].logits) continue;
      const RowDraw& draw = batch.draws.at(logit_rows.size());
      ASSERT_EQ(draw.temperature, expected[r].temperature);
      if (draw.temperature > 0) {
        ASSERT_EQ(draw.seed, 7u);
        ASSERT_EQ(draw.position, expected[r].position + 1) << "of the token that comes next";
      }
      logit_rows.push_back(static_cast<int32_t>(r));
    }
    ASSERT_EQ(batch.logit_rows, logit_rows);
    ASSERT_EQ(batch.draws.size(), logit_rows.size());
  }
}

}  // namespace
}  // namespace clamor
