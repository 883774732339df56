// A model made up for tests of drafters: the ten best next tokens are a hash of the last tokens, so that
// texts have order, repeat, and can be learned from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "model/spec/draft_tree.h"
#include "model/spec/drafter.h"

namespace clamor {

struct FakeModel {
  int32_t vocab = 50;  // >= Drafter::kTopK
  int order = 1;       // how many last tokens decide the next
  uint32_t salt = 0;

  // Distinct, best first.
  std::vector<int32_t> Best(const std::vector<int32_t>& text) const {
    uint32_t h = salt * 2654435761u + 1;
    for (size_t i = 0; i < static_cast<size_t>(order) && i < text.size(); ++i) {
      h = (h ^ static_cast<uint32_t>(text[text.size() - 1 - i])) * 2246822519u;
      h ^= h >> 15;
    }
    std::vector<int32_t> best;
    while (best.size() < static_cast<size_t>(Drafter::kTopK)) {
      h = h * 1664525u + 1013904223u;
      const int32_t token = static_cast<int32_t>((h >> 8) % static_cast<uint32_t>(vocab));
      if (std::find(best.begin(), best.end(), token) == best.end()) best.push_back(token);
    }
    return best;
  }
};

// What the model says after each node of a tree that stands at the end of `text`; text.back() is the root.
class FakeLogits {
 public:
  FakeLogits(const FakeModel& model, const std::vector<int32_t>& text, const DraftTree& tree) {
    for (int32_t node = 0; node < static_cast<int32_t>(tree.nodes.size()); ++node) {
      std::vector<int32_t> path;
      for (int32_t i = node; i > 0; i = tree.nodes[i].parent) path.push_back(tree.nodes[i].token);
      std::vector<int32_t> whole = text;
      whole.insert(whole.end(), path.rbegin(), path.rend());
      rows_.push_back(model.Best(whole));
      for (int rank = 0; rank < Drafter::kTopK; ++rank) {
        ids_.push_back(rows_.back()[rank]);
        values_.push_back(static_cast<float>(-rank));
      }
      log_sum_exp_.push_back(0.4587f);  // log of the sum of exp(0), exp(-1), ... exp(-9)
    }
  }

  NodeLogits view() const {
    return {.k = Drafter::kTopK,
            .ids = ids_.data(),
            .values = values_.data(),
            .log_sum_exp = log_sum_exp_.data()};
  }
  const std::vector<std::vector<int32_t>>& rows() const { return rows_; }

 private:
  std::vector<std::vector<int32_t>> rows_;
  std::vector<int32_t> ids_;
  std::vector<float> values_, log_sum_exp_;
};

}  // namespace clamor
