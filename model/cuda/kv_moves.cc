#include "model/cuda/kv_moves.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/accept.h"

namespace clamor {

namespace cuda = kernels::cuda;
using cuda::kMaxNodes;
using cuda::kPageTokens;

namespace {

// Pages that the accepted nodes of a tree can fall into.
constexpr int kPagesOfMove = (kPageTokens - 1 + kMaxNodes - 1) / kPageTokens + 1;

}  // namespace

KvMoves::Places::Places(size_t sequences)
    : accepted(sequences * sizeof(cuda::StepTree)),
      pages(accepted + sequences * sizeof(cuda::Accepted)),
      slots(pages + sequences * kPagesOfMove * sizeof(int32_t)),
      bytes(slots + sequences * kMaxNodes * sizeof(int32_t)) {}

KvMoves::KvMoves(int32_t max_sequences) : max_sequences_(max_sequences), places_(max_sequences) {}

void KvMoves::Add(std::span<const int32_t> from, const KvLease& lease, int64_t first) {
  queued_.push_back({.first = static_cast<int32_t>(from_.size()),
                     .count = static_cast<int32_t>(from.size()),
                     .offset = static_cast<int32_t>(first % kPageTokens)});
  from_.insert(from_.end(), from.begin(), from.end());
  const auto pages = lease.pages().subspan(first / kPageTokens);
  const size_t used = std::min<size_t>(pages.size(), kPagesOfMove);
  pages_.insert(pages_.end(), pages.begin(), pages.begin() + used);
  pages_.resize(queued_.size() * kPagesOfMove);
}

void KvMoves::Clear() {
  queued_.clear();
  from_.clear();
  pages_.clear();
}

void KvMoves::Write(std::byte* to) const {
  for (size_t i = 0; i < queued_.size(); ++i) {
    const Moves& moves = queued_[i];
    const cuda::StepTree tree = {.first = moves.first,
                                 .nodes = moves.count,
                                 .prefix = moves.offset,
                                 .sequence = static_cast<int32_t>(i)};
    cuda::Accepted accepted = {.count = moves.count, .next = 0, .nodes = {}};
    for (int32_t node = 0; node < moves.count; ++node) accepted.nodes[node] = node;
    std::memcpy(to + places_.trees + i * sizeof(tree), &tree, sizeof(tree));
    std::memcpy(to + places_.accepted + i * sizeof(accepted), &accepted, sizeof(accepted));
  }
  std::memcpy(to + places_.pages, pages_.data(), pages_.size() * sizeof(int32_t));
  std::memcpy(to + places_.slots, from_.data(), from_.size() * sizeof(int32_t));
}

void KvMoves::Run(const std::byte* device, const cuda::KvPages* layers, int layer_count, int kv_heads,
                  int head_dim, cuda::Stream stream) const {
  cuda::CommitKv({.trees = reinterpret_cast<const cuda::StepTree*>(device + places_.trees),
                  .accepted = reinterpret_cast<const cuda::Accepted*>(device + places_.accepted),
                  .slots = reinterpret_cast<const int32_t*>(device + places_.slots),
                  .page_table = reinterpret_cast<const int32_t*>(device + places_.pages),
                  .pages_per_sequence = kPagesOfMove,
                  .tree_count = static_cast<int64_t>(queued_.size()),
                  .layers = layers,
                  .layer_count = layer_count,
                  .kv_heads = kv_heads,
                  .head_dim = head_dim},
                 stream);
}

}  // namespace clamor
