// One best-first tree from all sources.
//
// Each source proposes children of a node with evidence; Calibration turns evidence into a probability of
// being right; the product along the path is a node's survival. Survival never grows downwards, so the B best
// nodes always form a tree, and taking the best candidate B times finds it (as EAGLE-2, arXiv 2406.16858,
// does with draft-model probabilities). A child keeps the cursor of every source that can go on from it, so a
// store path may continue where the trail ends. Tested by tests/model/spec/merged_drafter_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/spec/adjacency.h"
#include "model/spec/answer_grammar.h"
#include "model/spec/calibration.h"
#include "model/spec/context_automaton.h"
#include "model/spec/drafter.h"
#include "model/spec/sampler.h"
#include "model/spec/source_trust.h"

namespace clamor {

// What is learned across the sequences of one tenant. Owned by the engine, outlives the drafters that use it.
struct DraftKnowledge {
  Adjacency adjacency;
  Calibration greedy, sampled;  // guesses at drawn tokens come true less often
};

class MergedDrafter : public Drafter {
 public:
  static constexpr int32_t kMaxDepth = 32;
  static constexpr int32_t kTrailRows = 8;
  static constexpr size_t kMaxTrieNodes = 1024;

  // What may propose nodes, for experiments: bit i stands for static_cast<Source>(i).
  using Sources = uint32_t;
  static constexpr Sources kAllSources = ~Sources{0};

  // Answers of the store that are malformed, name tokens outside [0, vocab_size) or have over kMaxTrieNodes
  // nodes are dropped.
  // `sampling` is the request's: where tokens are drawn, the noise of the very draw that will be made at a
  // position is added to the probabilities that a guess for it was last seen with, which says what will win.
  MergedDrafter(DraftKnowledge* knowledge, int32_t vocab_size, const SamplingOptions& sampling,
                Sources sources = kAllSources)
      : knowledge_(knowledge),
        calibration_(sampling.greedy() ? knowledge->greedy : knowledge->sampled),
        vocab_size_(vocab_size),
        sources_(sources),
        temperature_(sampling.temperature),
        seed_(sampling.seed),
        random_(sampling.seed) {}

  // From now on only guesses that `grammar` allows after the answer, which it keeps up with; the tail alone
  // is as it was. Null: any. Must outlive this.
  void Obey(const AnswerGrammar* grammar) { grammar_ = grammar; }

  void Extend(std::span<const int32_t> tokens) override;
  void Draft(int32_t max_nodes, DraftTree& tree) override;
  void Trim(int32_t max_nodes, DraftTree& tree) override;
  void Observe(const DraftTree& tree, const NodeLogits& logits, const Accepted& accepted) override;
  void Offer(ContinuationSource::Answer answer) override;
  bool WantsAnswer() const override;

 private:
  static constexpr int32_t kNoStore = -2;  // a store cursor that fell off the trie; -1 is the trie's root

  // The kinds of evidence that speak for one node: at most one a source, and their agreement, or for all but
  // the context that it proposes another.
  struct Evidence {
    std::array<Calibration::Key, 7> keys;
    uint8_t size = 0;
  };
  // Where each source stands at a node.
  struct Cursors {
    ContextAutomaton::Cursor context;
    int32_t store = kNoStore;
    bool on_trail = true;  // the path is the trail's own best chain
  };
  // A child that some sources agree on.
  struct Proposal {
    int32_t token;
    Source source;   // of the best evidence
    float best;      // its mean
    int8_t sources;  // how many proposed it
    int32_t store;   // trie node, or kNoStore
    bool on_trail;
    bool rivalled = false;  // `best` is what it is worth against what the text said before
    Evidence evidence;
  };
  struct Candidate {
    int32_t parent, token;
    int32_t store;
    Source source;
    bool on_trail;
    Evidence evidence;
  };
  // Of a candidate, for the heap: what moves there should be small.
  struct Standing {
    float survival;
    int32_t candidate;  // index into candidates_
    friend bool operator<(const Standing& a, const Standing& b) { return a.survival < b.survival; }
  };
  // One rejected node's best successors: row r predicts depth r + 1 under the new root.
  struct TrailRow {
    std::array<int32_t, kTopK> tokens;
    std::array<float, kTopK> log_probabilities;
  };

  // Likely tokens, best first; with the draw's noise these are the likely winners.
  struct Ranking {
    std::array<int32_t, kTopK> tokens;
    std::array<float, kTopK> log_probabilities;
    int size = 0;
  };
  Ranking Rank(std::span<const int32_t> tokens, std::span<const float> log_probabilities,
               int32_t depth) const;
  void Expand(const DraftTree& tree, int32_t node);
  static bool FromContext(const Evidence& evidence);
  void WeighTogether();
  void ProposeJacobi(int32_t depth, bool on_trail);
  void ProposeContext(const Cursors& cursors, int32_t depth);
  void ProposeStore(const Cursors& cursors, int32_t depth);
  void ProposeAdjacency(int32_t token, int32_t depth);
  void ProposeRecycled(int32_t before, int32_t token, int32_t depth);
  void Propose(int32_t token, Source source, Calibration::Key key, int32_t store = kNoStore,
               bool on_trail = false);
  // Length of the chain that is kept under the root whatever its survival.
  int32_t TailOf(int32_t max_nodes) const;
  void AddTail(DraftTree& tree, int32_t max_nodes, int32_t length);
  void LearnCalibration(const DraftTree& tree, const Accepted& accepted);
  void KeepTrail(const DraftTree& tree, const NodeLogits& logits, int32_t last_accepted, int32_t next);
  void FillEvidence(int32_t match);
  int32_t StoreChild(int32_t node, int32_t token) const;

  DraftKnowledge* knowledge_;
  Calibration& calibration_;
  SourceTrust trust_;  // in this text
  int32_t vocab_size_;
  Sources sources_;
  float temperature_;
  uint64_t seed_;
  uint64_t random_;
  const AnswerGrammar* grammar_ = nullptr;
  std::vector<int32_t> text_;
  ContextAutomaton automaton_;

  int32_t trail_rows_ = 0;
  std::array<TrailRow, kTrailRows> trail_;
  std::vector<bool> below_;  // of KeepTrail: the nodes under the last accepted one

  // Rejected continuations, a ring of short n-grams; each starts with the token that was right.
  struct Recycled {
    std::array<int32_t, 6> tokens;
    int32_t size = 0;
  };
  std::array<Recycled, 24> recycled_;
  size_t next_recycled_ = 0;

  ContinuationTrie trie_;
  int32_t store_ = kNoStore;  // where the text's end stands in trie_

  // Of the tree of the last Draft, per node; and scratch.
  std::vector<Cursors> cursors_;
  std::vector<Evidence> evidence_;
  std::vector<GrammarState> states_;  // none without a grammar
  std::vector<Candidate> candidates_;
  std::vector<Standing> heap_;
  std::vector<Proposal> proposals_;
};

}  // namespace clamor
