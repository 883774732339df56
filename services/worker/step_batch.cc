#include "services/worker/step_batch.h"

namespace clamor {
namespace {

// A row whose key lies at its own logical position, behind all it sees.
void AddTextRow(const Sequence& s, int64_t position, Batch& batch) {
  batch.tokens.push_back(s.tokens[position]);
  batch.positions.push_back(static_cast<int32_t>(position));
  batch.slots.push_back(s.pages.Slot(position));
  batch.attention.push_back({.pages = s.pages.pages().data(), .prefix = static_cast<int32_t>(position) + 1});
}

// A guess: its ancestors below the root, then itself, wherever they lie.
void AddNodeRow(const Sequence& s, int64_t root, int32_t node, Batch& batch) {
  const DraftNode& n = s.tree.nodes[node];
  batch.tokens.push_back(n.token);
  batch.positions.push_back(static_cast<int32_t>(root) + n.depth);
  batch.slots.push_back(s.pages.Slot(root + node));
  const size_t begin = batch.extra.size();
  batch.extra.resize(begin + n.depth);
  for (int32_t i = node, depth = n.depth; depth > 0; i = s.tree.nodes[i].parent) {
    batch.extra[begin + --depth] = s.pages.Slot(root + i);
  }
  batch.attention.push_back({.pages = s.pages.pages().data(),
                             .prefix = static_cast<int32_t>(root) + 1,
                             .extra = batch.extra.data() + begin,
                             .extra_count = n.depth});
}

RowDraw DrawOf(const Sequence& s, int32_t node) {
  if (!s.draws_plainly()) return {};
  return {.seed = s.request.sampling.seed,
          .position = static_cast<int64_t>(s.tokens.size()) + s.tree.nodes[node].depth,
          .temperature = s.request.sampling.temperature};
}

}  // namespace

void BuildBatch(std::span<const StepShare> plan, std::span<const std::unique_ptr<Sequence>> sequences,
                Batch& batch) {
  batch.Clear();
  size_t extra = 0;
  for (const StepShare& share : plan) {
    if (!share.decode) continue;
    for (const DraftNode& node : sequences[share.sequence]->tree.nodes) extra += node.depth;
  }
  batch.extra.reserve(extra);  // rows point into it
  for (const StepShare& share : plan) {
    const Sequence& s = *sequences[share.sequence];
    for (int32_t i = 0; i < share.prefill; ++i) AddTextRow(s, s.committed + i, batch);
    if (!share.decode) continue;
    const int64_t root = static_cast<int64_t>(s.tokens.size()) - 1;
    for (int32_t node = 0; node < static_cast<int32_t>(s.tree.nodes.size()); ++node) {
      batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
      batch.draws.push_back(DrawOf(s, node));
      if (node == 0) {
        AddTextRow(s, root, batch);
      } else {
        AddNodeRow(s, root, node, batch);
      }
    }
  }
}

}  // namespace clamor
