#include "model/spec/published_drafter.h"

#include <algorithm>
#include <string_view>

#include "model/spec/noise.h"

namespace clamor {
namespace {

constexpr int kLongest = PublishedDrafter::kDepth;

// A node of the template: its column in each row on the way down.
struct TemplateNode {
  int32_t depth;
  int32_t column;  // in the row of its depth; Drafter::kTopK: the retrieved token
  int32_t parent;  // index into the tree, 0: the root
};

// Medusa's mc_sim_7b_63, columns as digits.
constexpr std::string_view kShape[] = {
    "0",   "00",  "1",   "01",  "2",   "000", "10",  "02",  "3",    "03",  "4",    "04",  "20",
    "05",  "001", "5",   "06",  "6",   "07",  "010", "11",  "7",    "08",  "002",  "30",  "09",
    "8",   "9",   "100", "020", "12",  "003", "40",  "21",  "004",  "005", "0000", "011", "006",
    "030", "50",  "13",  "007", "008", "009", "60",  "040", "14",   "70",  "012",  "200", "31",
    "22",  "80",  "050", "15",  "101", "021", "90",  "060", "0001", "16",  "070"};

std::vector<TemplateNode> MakeTemplate() {
  std::vector<TemplateNode> nodes = {{.depth = 0, .column = -1, .parent = -1}};
  for (int d = 1; d <= kLongest; ++d)
    nodes.push_back({.depth = d, .column = Drafter::kTopK, .parent = d - 1});
  std::vector<std::string_view> paths(nodes.size(), "-");  // the chain's nodes are nobody's prefix
  for (const std::string_view path : kShape) {
    int32_t parent = 0;
    if (path.size() > 1) {
      const std::string_view prefix = path.substr(0, path.size() - 1);
      parent = static_cast<int32_t>(std::find(paths.begin(), paths.end(), prefix) - paths.begin());
    }
    nodes.push_back(
        {.depth = static_cast<int32_t>(path.size()), .column = path.back() - '0', .parent = parent});
    paths.push_back(path);
  }
  return nodes;
}

const std::vector<TemplateNode>& Template() {
  static const auto& nodes = *new std::vector<TemplateNode>(MakeTemplate());
  return nodes;
}

// Root-to-leaf paths, root left out, in the order of their leaves.
std::vector<std::vector<int32_t>> MakeLeafPaths() {
  const auto& nodes = Template();
  std::vector<std::vector<int32_t>> paths;
  for (int32_t i = 1; i < static_cast<int32_t>(nodes.size()); ++i) {
    if (std::any_of(nodes.begin(), nodes.end(), [i](const TemplateNode& n) { return n.parent == i; }))
      continue;
    std::vector<int32_t> path;
    for (int32_t n = i; n > 0; n = nodes[n].parent) path.push_back(n);
    paths.emplace_back(path.rbegin(), path.rend());
  }
  return paths;
}

const std::vector<std::vector<int32_t>>& LeafPaths() {
  static const auto& paths = *new std::vector<std::vector<int32_t>>(MakeLeafPaths());
  return paths;
}

// How many leading nodes of `path` carry the accepted tokens, be it by nodes of their own.
size_t Reward(const std::vector<int32_t>& path, const DraftTree& tree, const std::vector<int32_t>& accepted) {
  size_t reward = 0;
  while (reward < std::min(path.size(), accepted.size()) &&
         tree.nodes[path[reward]].token == tree.nodes[accepted[reward]].token) {
    ++reward;
  }
  return reward;
}

}  // namespace

void PublishedDrafter::Extend(std::span<const int32_t> tokens) {
  text_.insert(text_.end(), tokens.begin(), tokens.end());
  if (!fresh_) Retrieve();
}

// Up to three trailing tokens, longest match first, and where they first stood; the five tokens after that
// place.
void PublishedDrafter::Retrieve() {
  constexpr int64_t kMatch = 3;
  for (auto& row : table_) row[kRetrievedColumn] = kUnknown;
  const int64_t n = static_cast<int64_t>(text_.size());
  int64_t best = 0, at = 0;
  for (int64_t end = kMatch; end < n && best < kMatch;
       ++end) {  // text_[end - kMatch, end) against the trailing tokens
    int64_t match = 0;
    while (match < kMatch && text_[end - 1 - match] == text_[n - 1 - match]) ++match;
    if (match > best) {
      best = match;
      at = end;
    }
  }
  if (best == 0) return;
  for (int64_t d = 0; d < kDepth && at + d < n; ++d) table_[d][kRetrievedColumn] = text_[at + d];
}

void PublishedDrafter::Draft(int32_t, DraftTree& tree) {
  if (fresh_) {
    for (auto& row : table_) row.fill(kUnknown);
    fresh_ = false;
  }
  // Noise comes from the text before the root; a text of one token has only that.
  const std::span<const int32_t> text(text_.data(), std::max<size_t>(text_.size() - 1, 1));
  std::array<std::array<Source, kTopK + 1>, kDepth> sources;
  auto filled = table_;
  for (int d = 0; d < kDepth; ++d) {
    for (int column = 0; column <= kTopK; ++column) {
      sources[d][column] = column == kRetrievedColumn ? Source::kContext : Source::kJacobi;
      if (filled[d][column] == kUnknown) {
        filled[d][column] = NoiseToken(text, random_);
        sources[d][column] = Source::kNoise;
      }
    }
  }
  tree.Reset(text_.back());
  const auto& nodes = Template();
  for (size_t i = 1; i < nodes.size(); ++i) {
    const int32_t row = nodes[i].depth - 1;
    tree.Add(filled[row][nodes[i].column], nodes[i].parent, sources[row][nodes[i].column]);
  }
}

void PublishedDrafter::Trim(int32_t max_nodes, DraftTree& tree) {
  if (tree.drafted() > max_nodes) tree.Reset(text_.back());
}

void PublishedDrafter::Observe(const DraftTree& tree, const NodeLogits& logits, const Accepted& accepted) {
  if (tree.drafted() == 0) {
    for (auto& row : table_) row.fill(kUnknown);
    return;
  }
  const auto& paths = LeafPaths();
  const std::vector<int32_t>* best = &paths[0];
  size_t most = 0;
  for (const auto& path : paths) {
    if (const size_t reward = Reward(path, tree, accepted.path); reward > most) {
      most = reward;
      best = &path;
    }
  }
  // The rejected rest of the best path is the trail: what the model says there fills the next table.
  for (int d = 0; d < kDepth; ++d) {
    table_[d].fill(kUnknown);
    if (most + d < best->size()) {
      const auto ids = logits.Ids((*best)[most + d]);
      std::copy(ids.begin(), ids.end(), table_[d].begin());
    }
  }
}

}  // namespace clamor
