#include "model/spec/merged_drafter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "model/spec/noise.h"

namespace clamor {
namespace {

// Something is left for a token that nobody proposed; little, for copied text runs deep.
constexpr float kMaxSiblingSum = 0.998f;
constexpr float kLeastSurvival = 1e-5f;
constexpr int kMostSources = 5;

}  // namespace

// Its rejected nodes are the next trail, so without it a step that accepts little would leave the next one
// blind.
int32_t MergedDrafter::TailOf(int32_t max_nodes) const {
  const bool jacobi = sources_ >> static_cast<int>(Source::kJacobi) & 1;
  return jacobi ? std::min(5, max_nodes / 3) : 0;
}

void MergedDrafter::Extend(std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) {
    automaton_.Extend(token);
    if (store_ != kNoStore) store_ = StoreChild(store_, token);
  }
  text_.insert(text_.end(), tokens.begin(), tokens.end());
}

int32_t MergedDrafter::StoreChild(int32_t node, int32_t token) const {
  for (size_t i = node + 1; i < trie_.nodes.size(); ++i) {
    if (trie_.nodes[i].parent == node && trie_.nodes[i].token == token) return static_cast<int32_t>(i);
  }
  return kNoStore;
}

void MergedDrafter::Offer(ContinuationSource::Answer answer) {
  const int64_t length = static_cast<int64_t>(text_.size());
  if (answer.position < 0 || answer.position > length) return;
  if (answer.trie.nodes.empty() || answer.trie.nodes.size() > kMaxTrieNodes) return;
  for (size_t i = 0; i < answer.trie.nodes.size(); ++i) {
    const ContinuationTrie::Node& node = answer.trie.nodes[i];
    if (node.token < 0 || node.token >= vocab_size_) return;
    if (node.parent < -1 || node.parent >= static_cast<int64_t>(i)) return;
    if (node.total != 0 && node.total < node.count) return;
  }
  trie_ = std::move(answer.trie);
  FillEvidence(static_cast<int32_t>(std::clamp<int64_t>(trie_.match_length, 0, answer.position)));
  store_ = -1;
  for (int64_t i = answer.position; i < length && store_ != kNoStore; ++i)
    store_ = StoreChild(store_, text_[i]);
}

// Of nodes that came without: a matched context of `match` tokens stands before the first.
void MergedDrafter::FillEvidence(int32_t match) {
  for (ContinuationTrie::Node& node : trie_.nodes) {
    if (node.total != 0) continue;
    const bool first = node.parent < 0;
    node.total = std::max(node.count, first ? trie_.occurrences : trie_.nodes[node.parent].count);
    node.match_length = first ? match : trie_.nodes[node.parent].match_length + 1;
  }
}

bool MergedDrafter::WantsAnswer() const {
  if (store_ == kNoStore) return true;
  return std::none_of(trie_.nodes.begin(), trie_.nodes.end(),
                      [this](const auto& node) { return node.parent == store_; });
}

void MergedDrafter::Draft(int32_t max_nodes, DraftTree& tree) {
  tree.Reset(text_.back());
  cursors_.assign(1, {.context = automaton_.End(), .store = store_});
  evidence_.assign(1, {});
  if (grammar_ != nullptr) states_.assign(1, grammar_->state());
  candidates_.clear();
  heap_.clear();
  const int32_t tail = TailOf(max_nodes);
  int32_t deepest = 0;
  Expand(tree, 0);
  while (!heap_.empty() && tree.drafted() + std::max(0, tail - deepest) < max_nodes) {
    std::pop_heap(heap_.begin(), heap_.end());
    const auto [survival, index] = heap_.back();
    heap_.pop_back();
    const Candidate& best = candidates_[index];
    const int32_t node = tree.Add(best.token, best.parent, best.source, survival);
    cursors_.push_back({.context = automaton_.Advance(cursors_[best.parent].context, best.token),
                        .store = best.store,
                        .on_trail = best.on_trail});
    evidence_.push_back(best.evidence);
    if (grammar_ != nullptr) {
      grammar_->Advance(&states_.emplace_back(states_[best.parent]), best.token);
    }
    deepest = std::max(deepest, tree.nodes[node].depth);
    if (tree.nodes[node].depth < kMaxDepth) Expand(tree, node);
  }
  AddTail(tree, max_nodes, tail);
}

void MergedDrafter::Trim(int32_t max_nodes, DraftTree& tree) {
  if (tree.drafted() <= max_nodes) return;
  // Nodes stand in the order of their survival, so the best of them are the first; the tail is grown again.
  const int32_t tail = TailOf(max_nodes);
  int32_t kept = 0, deepest = 0;
  for (; kept + std::max(0, tail - deepest) < max_nodes; ++kept) {
    deepest = std::max(deepest, tree.nodes[kept + 1].depth);
  }
  tree.nodes.resize(kept + 1);
  cursors_.resize(kept + 1);
  evidence_.resize(kept + 1);
  AddTail(tree, max_nodes, tail);
}

// Lengthens the deepest path to `length` by the trail's best tokens, then by noise.
void MergedDrafter::AddTail(DraftTree& tree, int32_t max_nodes, int32_t length) {
  int32_t end = 0;
  for (int32_t i = 1; i < static_cast<int32_t>(tree.nodes.size()); ++i) {
    if (tree.nodes[i].depth > tree.nodes[end].depth) end = i;
  }
  while (tree.nodes[end].depth < length && tree.drafted() < max_nodes) {
    const int32_t row = tree.nodes[end].depth;
    const bool known = row < trail_rows_;
    const int32_t token = known ? trail_[row].tokens[0] : NoiseToken(text_, random_);
    end = tree.Add(token, end, known ? Source::kJacobi : Source::kNoise, 0);
    cursors_.push_back({});
    evidence_.push_back({});
  }
}

bool MergedDrafter::FromContext(const Evidence& evidence) {
  return std::any_of(evidence.keys.begin(), evidence.keys.begin() + evidence.size,
                     [](Calibration::Key key) { return Calibration::SourceOf(key) == Source::kContext; });
}

// Puts the children that all sources propose for `node` on the heap.
void MergedDrafter::Expand(const DraftTree& tree, int32_t node) {
  const DraftNode& parent = tree.nodes[node];
  const Cursors cursors = cursors_[node];
  const int32_t before = parent.parent >= 0 ? tree.nodes[parent.parent].token
                         : text_.size() > 1 ? text_[text_.size() - 2]
                                            : -1;
  proposals_.clear();
  ProposeJacobi(parent.depth, cursors.on_trail);
  ProposeContext(cursors, parent.depth);
  ProposeStore(cursors, parent.depth);
  ProposeAdjacency(parent.token, parent.depth);
  ProposeRecycled(before, parent.token, parent.depth);
  if (grammar_ != nullptr) {
    std::erase_if(proposals_, [&](const Proposal& p) {
      GrammarState after = states_[node];
      return !grammar_->Advance(&after, p.token);
    });
  }

  WeighTogether();
  // At most one child is right. The mean of a proposal was learned beside whatever its own source proposed,
  // and blind to the others: where they contradict it, it has what they leave.
  std::sort(proposals_.begin(), proposals_.end(),
            [](const Proposal& a, const Proposal& b) { return a.best > b.best; });
  float left = kMaxSiblingSum;
  std::array<float, kSources> taken{};
  for (const Proposal& p : proposals_) {
    float& own = taken[static_cast<size_t>(p.source)];
    const float others = kMaxSiblingSum - left - own;
    const float share = std::min(left, p.rivalled ? p.best : p.best * (1 - others));
    own += share;
    left -= share;
    const float survival = parent.survival * share;
    if (survival < kLeastSurvival) break;
    heap_.push_back({.survival = survival, .candidate = static_cast<int32_t>(candidates_.size())});
    std::push_heap(heap_.begin(), heap_.end());
    candidates_.push_back({.parent = node,
                           .token = p.token,
                           .store = p.store,
                           .source = p.source,
                           .on_trail = p.on_trail,
                           .evidence = p.evidence});
  }
}

// Sources that agree are right more often than the best of them says; and one that says something else than
// the text said before is right less often: what it is worth on average, it is worth where both agree.
void MergedDrafter::WeighTogether() {
  float rival = 0;
  const auto weigh = [this](Proposal& p, Calibration::Key key) {
    p.evidence.keys[p.evidence.size++] = key;
    return calibration_.Mean(key);
  };
  for (Proposal& p : proposals_) {
    if (FromContext(p.evidence)) rival = std::max(rival, p.best);
  }
  for (Proposal& p : proposals_) {
    const bool rivalled = rival >= Calibration::kRival && !FromContext(p.evidence);
    if (p.sources > 1) p.best = std::max(p.best, weigh(p, Calibration::Agreement(p.sources, p.best)));
    if (!rivalled) continue;
    const float mean = weigh(p, Calibration::Against(rival, p.source));
    p.rivalled = mean < p.best;
    p.best = std::min(p.best, mean);
  }
}

// One source may propose a token once per node; its first word, which is its best, counts.
void MergedDrafter::Propose(int32_t token, Source source, Calibration::Key key, int32_t store,
                            bool on_trail) {
  if ((sources_ >> static_cast<int>(source) & 1) == 0) return;
  const float mean = trust_.Adjust(source, calibration_.Mean(key));
  for (Proposal& p : proposals_) {
    if (p.token != token) continue;
    if (p.sources == kMostSources) return;  // a store that names one child twice
    p.evidence.keys[p.evidence.size++] = key;
    ++p.sources;
    p.on_trail |= on_trail;
    if (store != kNoStore) p.store = store;
    if (mean > p.best) {
      p.best = mean;
      p.source = source;
    }
    return;
  }
  proposals_.push_back({.token = token,
                        .source = source,
                        .best = mean,
                        .sources = 1,
                        .store = store,
                        .on_trail = on_trail,
                        .evidence = {.keys = {key}, .size = 1}});
}

// `depth`: of the parent. A drawn token is the argmax of logit / temperature + noise, and the noise is a
// function of seed, position and token (Gumbel coupling, arXiv 2408.07978).
MergedDrafter::Ranking MergedDrafter::Rank(std::span<const int32_t> tokens,
                                           std::span<const float> log_probabilities, int32_t depth) const {
  Ranking ranking;
  for (size_t i = 0; i < tokens.size() && tokens[i] >= 0; ++i) {
    ranking.tokens[i] = tokens[i];
    ranking.log_probabilities[i] = log_probabilities[i];
    ++ranking.size;
  }
  if (temperature_ == 0) return ranking;
  const int64_t position = static_cast<int64_t>(text_.size()) + depth;
  std::array<std::pair<float, int32_t>, kTopK> values;
  float best = -std::numeric_limits<float>::infinity(), sum = 0;
  for (int i = 0; i < ranking.size; ++i) {
    const int32_t token = ranking.tokens[i];
    float value = ranking.log_probabilities[i] / temperature_ + GumbelNoise(seed_, position, token);
    if (!(value > -1e30f)) value = -1e30f;  // of a model that answers NaN
    values[i] = {-value, token};
    best = std::max(best, value);
  }
  std::sort(values.begin(), values.begin() + ranking.size);
  for (int i = 0; i < ranking.size; ++i) sum += std::exp(-values[i].first - best);
  for (int i = 0; i < ranking.size; ++i) {
    ranking.tokens[i] = values[i].second;
    ranking.log_probabilities[i] = -values[i].first - best - std::log(sum);
  }
  return ranking;
}

void MergedDrafter::ProposeJacobi(int32_t depth, bool on_trail) {
  if (depth >= trail_rows_) return;
  const Ranking likely = Rank(trail_[depth].tokens, trail_[depth].log_probabilities, depth);
  for (int rank = 0; rank < likely.size; ++rank) {
    const Calibration::Key key = Calibration::Jacobi(depth, rank, likely.log_probabilities[rank], on_trail);
    Propose(likely.tokens[rank], Source::kJacobi, key, kNoStore, on_trail && rank == 0);
  }
}

void MergedDrafter::ProposeContext(const Cursors& cursors, int32_t depth) {
  std::array<int32_t, 16> seen;
  size_t n = 0;
  automaton_.Continuations(cursors.context, 2, [&](const ContextAutomaton::Continuation& c) {
    if (n == seen.size() || std::find(seen.begin(), seen.begin() + n, c.token) != seen.begin() + n) return;
    seen[n++] = c.token;
    Propose(c.token, Source::kContext, Calibration::Context(c.match_length, c.count, c.total, depth));
  });
}

void MergedDrafter::ProposeStore(const Cursors& cursors, int32_t depth) {
  if (cursors.store == kNoStore) return;
  int proposed = 0;
  for (size_t i = cursors.store + 1; i < trie_.nodes.size() && proposed < 8; ++i) {
    const ContinuationTrie::Node& child = trie_.nodes[i];
    if (child.parent != cursors.store) continue;
    ++proposed;
    Propose(child.token, Source::kStore,
            Calibration::Store(child.match_length, child.count, child.total, depth), static_cast<int32_t>(i));
  }
}

void MergedDrafter::ProposeAdjacency(int32_t token, int32_t depth) {
  const Adjacency::Entry* entry = knowledge_->adjacency.Find(token);
  if (entry == nullptr) return;
  const Ranking likely = Rank(entry->tokens, entry->log_probabilities, depth);
  for (int rank = 0; rank < likely.size; ++rank) {
    Propose(likely.tokens[rank], Source::kAdjacency,
            Calibration::Adjacency(rank, likely.log_probabilities[rank], depth));
  }
}

void MergedDrafter::ProposeRecycled(int32_t before, int32_t token, int32_t depth) {
  std::array<int32_t, 4> seen;
  size_t n = 0;
  for (size_t i = 0; i < recycled_.size() && n < seen.size(); ++i) {
    const Recycled& r = recycled_[(next_recycled_ + recycled_.size() - 1 - i) % recycled_.size()];
    for (int32_t j = 0; j + 1 < r.size && n < seen.size(); ++j) {
      if (r.tokens[j] != token) continue;
      const int32_t follower = r.tokens[j + 1];
      if (std::find(seen.begin(), seen.begin() + n, follower) != seen.begin() + n) continue;
      seen[n++] = follower;
      const int match = j > 0 && r.tokens[j - 1] == before ? 2 : 1;
      Propose(follower, Source::kRecycled, Calibration::Recycled(match, depth));
    }
  }
}

void MergedDrafter::Observe(const DraftTree& tree, const NodeLogits& logits, const Accepted& accepted) {
  LearnCalibration(tree, accepted);
  std::array<float, Adjacency::kSuccessors> log_probabilities;
  for (int32_t i = static_cast<int32_t>(tree.nodes.size()) - 1; i >= 0;
       --i) {  // the root last: it is certain
    for (int32_t rank = 0; rank < Adjacency::kSuccessors; ++rank)
      log_probabilities[rank] = logits.LogProbability(i, rank);
    knowledge_->adjacency.Observe(tree.nodes[i].token, logits.Ids(i).first(Adjacency::kSuccessors),
                                  log_probabilities);
  }
  KeepTrail(tree, logits, accepted.path.empty() ? 0 : accepted.path.back(), accepted.next);
}

// Trials are the children of the root and of accepted nodes. Trust in other sources than the context is
// learned where that does not agree: they are right along with it where a text is copied, and would be taken
// for good guessers beside it.
void MergedDrafter::LearnCalibration(const DraftTree& tree, const Accepted& accepted) {
  size_t depth = 0;
  int32_t visited = 0;
  while (true) {
    const int32_t hit = depth < accepted.path.size() ? accepted.path[depth] : -1;
    for (int32_t i = visited + 1; i < static_cast<int32_t>(tree.nodes.size()); ++i) {
      if (tree.nodes[i].parent != visited) continue;
      const bool copied = FromContext(evidence_[i]);
      for (int k = 0; k < evidence_[i].size; ++k) {
        const Calibration::Key key = evidence_[i].keys[k];
        const Source source = Calibration::SourceOf(key);
        if (source == Source::kContext || !copied) trust_.Learn(source, calibration_.Mean(key), i == hit);
        calibration_.Learn(key, i == hit);
      }
    }
    if (hit < 0) return;
    visited = hit;
    ++depth;
  }
}

// The deepest chain under the last accepted node was rejected; what the model said there is the trail.
void MergedDrafter::KeepTrail(const DraftTree& tree, const NodeLogits& logits, int32_t last_accepted,
                              int32_t next) {
  const int32_t nodes = static_cast<int32_t>(tree.nodes.size());
  below_.assign(nodes, false);
  below_[last_accepted] = true;
  int32_t end = last_accepted;
  for (int32_t i = last_accepted + 1; i < nodes; ++i) {
    const DraftNode& node = tree.nodes[i];
    below_[i] = below_[node.parent];
    if (!below_[i]) continue;
    const DraftNode& best = tree.nodes[end];
    if (node.depth > best.depth || (node.depth == best.depth && node.survival > best.survival)) end = i;
  }
  const int32_t length = tree.nodes[end].depth - tree.nodes[last_accepted].depth;
  trail_rows_ = std::min(length, kTrailRows);
  Recycled recycled;
  recycled.tokens[recycled.size++] = next;
  for (int32_t i = end; i != last_accepted; i = tree.nodes[i].parent) {
    const int32_t row = tree.nodes[i].depth - tree.nodes[last_accepted].depth - 1;
    if (row >= kTrailRows) continue;
    std::copy_n(logits.Ids(i).begin(), kTopK, trail_[row].tokens.begin());
    for (int32_t rank = 0; rank < kTopK; ++rank)
      trail_[row].log_probabilities[rank] = logits.LogProbability(i, rank);
  }
  // A row of NaN has no best token: nothing is known from there on.
  for (int32_t row = 0; row < trail_rows_; ++row) {
    if (trail_[row].tokens[0] < 0) trail_rows_ = row;
  }
  for (int32_t row = 0; row < trail_rows_ && recycled.size < static_cast<int32_t>(recycled.tokens.size());
       ++row) {
    recycled.tokens[recycled.size++] = trail_[row].tokens[0];
  }
  if (recycled.size > 1) {
    recycled_[next_recycled_] = recycled;
    next_recycled_ = (next_recycled_ + 1) % recycled_.size();
  }
}

}  // namespace clamor
