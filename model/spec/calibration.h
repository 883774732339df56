// How often a guess turns out right, learned per kind of evidence from guesses that were put to the test.
//
// Each key holds a Beta posterior: hits and misses, decayed so that about the last two thousand trials count,
// on top of a prior mean. Only children of accepted nodes are trials; what lies below a miss was never
// tested. Threads: the engine's only. Tested by tests/model/spec/calibration_test.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "model/spec/source.h"

namespace clamor {

class Calibration {
 public:
  // Evidence of one proposal as a key; each function has a range of its own.
  using Key = uint16_t;

  // J: row of the trail (0: right under the root), rank in the row, probability there; whether the parent
  // node is itself the row above's best token.
  static Key Jacobi(int row, int rank, float log_probability, bool on_trail);
  // C and S: length of the matched context, count of the continuation among `total`, depth in the tree.
  static Key Context(int match_length, uint32_t count, uint32_t total, int depth);
  static Key Store(int match_length, uint32_t count, uint32_t total, int depth);
  // A: rank among the successors, probability when last seen, depth in the tree.
  static Key Adjacency(int rank, float log_probability, int depth);
  // R: tokens of context that agreed (1 or 2), depth in the tree.
  static Key Recycled(int match_length, int depth);
  // `sources` >= 2 proposals of one token, `best` the mean of the best of them.
  static Key Agreement(int sources, float best);
  // A proposal of another `source` where the text itself went on differently before, which is right with
  // probability `rival` >= kRival.
  static constexpr float kRival = 0.5f;
  static Key Against(float rival, Source source);

  // Of one proposal; kNone of an agreement or a rivalry.
  static Source SourceOf(Key key);

  Calibration();

  // The estimated probability that a proposal with this evidence is right.
  float Mean(Key key) const;
  void Learn(Key key, bool hit);

  // To keep what was learned and to have it again (knowledge_file.h): hits and misses of each key in turn.
  // Restore is false, and changes nothing, if some count is none that Learn could have led to.
  void Save(std::span<float> counts) const;  // REQUIRES: kCounts of them
  bool Restore(std::span<const float> counts);

 private:
  struct Beta {
    float prior, hits = 0, misses = 0;
  };
  static constexpr float kPriorTrials = 6;
  static constexpr float kDecay = 0.99965f;  // half-life of 2000 trials

  static constexpr int kProbabilityBuckets = 8, kLengthBuckets = 10, kRatioBuckets = 8, kDepthBuckets = 3;
  static constexpr int kJacobiRows = 8, kJacobiRanks = 5, kAdjacencyRanks = 8, kAgreeing = 4;
  static constexpr int kRivalBuckets = 4;
  static constexpr int kJacobiBegin = 0;
  static constexpr int kContextBegin = kJacobiBegin + kJacobiRows * 2 * kJacobiRanks * kProbabilityBuckets;
  static constexpr int kStoreBegin = kContextBegin + kLengthBuckets * kRatioBuckets * kDepthBuckets;
  static constexpr int kAdjacencyBegin = kStoreBegin + kLengthBuckets * kRatioBuckets * kDepthBuckets;
  static constexpr int kRecycledBegin =
      kAdjacencyBegin + kAdjacencyRanks * kDepthBuckets * kProbabilityBuckets;
  static constexpr int kAgreementBegin = kRecycledBegin + 2 * kDepthBuckets;
  static constexpr int kRivalBegin = kAgreementBegin + kAgreeing * kProbabilityBuckets;
  static constexpr int kKeys = kRivalBegin + kRivalBuckets * static_cast<int>(kSources);

 public:
  static constexpr size_t kCounts = 2 * kKeys;

 private:
  static int ProbabilityBucket(float probability);
  static int DepthBucket(int depth);
  static int CountBucket(int match_length, uint32_t count, uint32_t total, int depth);
  void SetPriors();

  std::array<Beta, kKeys> beta_;
};

}  // namespace clamor
