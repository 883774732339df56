#include "model/spec/calibration.h"

#include <algorithm>
#include <cmath>

namespace clamor {
namespace {

// Lower bounds of the probability buckets, and a value that stands for each.
constexpr float kProbabilityBounds[] = {0.9f, 0.7f, 0.5f, 0.3f, 0.15f, 0.06f, 0.02f};
constexpr float kProbabilityMeans[] = {0.95f, 0.8f, 0.6f, 0.4f, 0.22f, 0.1f, 0.04f, 0.01f};

// The same of a rival.
constexpr float kRivalBounds[] = {0.97f, 0.9f, 0.7f};
constexpr float kRivalMeans[] = {0.985f, 0.94f, 0.8f, 0.6f};

int RankBucket(int rank) { return rank < 3 ? rank : rank < 5 ? 3 : 4; }

int LengthBucket(int length) {
  constexpr int kBounds[] = {2, 3, 4, 5, 7, 10, 16, 32, 64};
  return static_cast<int>(std::upper_bound(std::begin(kBounds), std::end(kBounds), length) -
                          std::begin(kBounds));
}

// A continuation that always came is stronger evidence the more often it did.
int RatioBucket(uint32_t count, uint32_t total) {
  const float ratio = static_cast<float>(count) / static_cast<float>(std::max<uint32_t>(total, 1));
  if (ratio >= 0.95f) return total >= 3 ? 0 : 1;
  constexpr float kBounds[] = {0.7f, 0.45f, 0.25f, 0.1f, 0.04f};
  for (int i = 0; i < 5; ++i) {
    if (ratio >= kBounds[i]) return 2 + i;
  }
  return 7;
}

}  // namespace

int Calibration::ProbabilityBucket(float probability) {
  for (int i = 0; i < kProbabilityBuckets - 1; ++i) {
    if (probability >= kProbabilityBounds[i]) return i;
  }
  return kProbabilityBuckets - 1;
}

int Calibration::DepthBucket(int depth) { return depth <= 1 ? 0 : depth <= 3 ? 1 : 2; }

int Calibration::CountBucket(int match_length, uint32_t count, uint32_t total, int depth) {
  return (LengthBucket(match_length) * kRatioBuckets + RatioBucket(count, total)) * kDepthBuckets +
         DepthBucket(depth);
}

Calibration::Key Calibration::Jacobi(int row, int rank, float log_probability, bool on_trail) {
  row = std::min(row, kJacobiRows - 1);
  return kJacobiBegin +
         ((row * 2 + (on_trail ? 0 : 1)) * kJacobiRanks + RankBucket(rank)) * kProbabilityBuckets +
         ProbabilityBucket(std::exp(log_probability));
}

Calibration::Key Calibration::Context(int match_length, uint32_t count, uint32_t total, int depth) {
  return kContextBegin + CountBucket(match_length, count, total, depth);
}

Calibration::Key Calibration::Store(int match_length, uint32_t count, uint32_t total, int depth) {
  return kStoreBegin + CountBucket(match_length, count, total, depth);
}

Calibration::Key Calibration::Adjacency(int rank, float log_probability, int depth) {
  return kAdjacencyBegin +
         (std::min(rank, kAdjacencyRanks - 1) * kDepthBuckets + DepthBucket(depth)) * kProbabilityBuckets +
         ProbabilityBucket(std::exp(log_probability));
}

Calibration::Key Calibration::Recycled(int match_length, int depth) {
  return kRecycledBegin + (match_length > 1 ? 1 : 0) * kDepthBuckets + DepthBucket(depth);
}

Calibration::Key Calibration::Agreement(int sources, float best) {
  return kAgreementBegin + (std::clamp(sources, 2, kAgreeing + 1) - 2) * kProbabilityBuckets +
         ProbabilityBucket(best);
}

Calibration::Key Calibration::Against(float rival, Source source) {
  int bucket = 0;
  while (bucket < kRivalBuckets - 1 && rival < kRivalBounds[bucket]) ++bucket;
  return kRivalBegin + bucket * static_cast<int>(kSources) + static_cast<int>(source);
}

Source Calibration::SourceOf(Key key) {
  if (key < kContextBegin) return Source::kJacobi;
  if (key < kStoreBegin) return Source::kContext;
  if (key < kAdjacencyBegin) return Source::kStore;
  if (key < kRecycledBegin) return Source::kAdjacency;
  return key < kAgreementBegin ? Source::kRecycled : Source::kNone;
}

Calibration::Calibration() { SetPriors(); }

// Starting points only; a few dozen trials of a key outweigh them.
void Calibration::SetPriors() {
  constexpr float kRankFactor[kJacobiRanks] = {0.8f, 0.6f, 0.5f, 0.4f, 0.3f};
  for (int row = 0; row < kJacobiRows; ++row) {
    for (int off = 0; off < 2; ++off) {
      for (int rank = 0; rank < kJacobiRanks; ++rank) {
        for (int p = 0; p < kProbabilityBuckets; ++p) {
          const int key = kJacobiBegin + ((row * 2 + off) * kJacobiRanks + rank) * kProbabilityBuckets + p;
          beta_[key].prior =
              kProbabilityMeans[p] * kRankFactor[rank] * std::pow(0.8f, row) * (off ? 0.7f : 1.0f);
        }
      }
    }
  }
  constexpr float kLengthFactor[kLengthBuckets] = {0.25f, 0.45f, 0.6f,  0.7f,  0.8f,
                                                   0.85f, 0.9f,  0.95f, 0.97f, 0.98f};
  constexpr float kRatioMean[kRatioBuckets] = {0.98f, 0.75f, 0.7f, 0.5f, 0.3f, 0.15f, 0.06f, 0.02f};
  for (const int begin : {kContextBegin, kStoreBegin}) {
    for (int i = 0; i < kLengthBuckets * kRatioBuckets * kDepthBuckets; ++i) {
      const int length = i / (kRatioBuckets * kDepthBuckets), ratio = i / kDepthBuckets % kRatioBuckets;
      // What came once behind a long match comes again.
      beta_[begin + i].prior =
          kLengthFactor[length] * (ratio == 1 && length >= 4 ? 0.98f : kRatioMean[ratio]);
    }
  }
  for (int rank = 0; rank < kAdjacencyRanks; ++rank) {
    for (int i = 0; i < kDepthBuckets * kProbabilityBuckets; ++i) {
      beta_[kAdjacencyBegin + rank * kDepthBuckets * kProbabilityBuckets + i].prior =
          0.5f * kProbabilityMeans[i % kProbabilityBuckets] + 0.04f / static_cast<float>(rank + 1);
    }
  }
  for (int i = 0; i < 2 * kDepthBuckets; ++i)
    beta_[kRecycledBegin + i].prior = i < kDepthBuckets ? 0.1f : 0.25f;
  for (int i = 0; i < kAgreeing * kProbabilityBuckets; ++i) {
    const float best = kProbabilityMeans[i % kProbabilityBuckets];
    beta_[kAgreementBegin + i].prior = best + 0.25f * (1 - best);
  }
  for (int i = 0; i < kRivalBuckets * static_cast<int>(kSources); ++i) {
    beta_[kRivalBegin + i].prior = 1 - kRivalMeans[i / static_cast<int>(kSources)];
  }
}

float Calibration::Mean(Key key) const {
  const Beta& b = beta_[key];
  return (b.hits + kPriorTrials * b.prior) / (b.hits + b.misses + kPriorTrials);
}

void Calibration::Learn(Key key, bool hit) {
  Beta& b = beta_[key];
  b.hits = b.hits * kDecay + (hit ? 1.0f : 0.0f);
  b.misses = b.misses * kDecay + (hit ? 0.0f : 1.0f);
}

void Calibration::Save(std::span<float> counts) const {
  for (size_t key = 0; key < beta_.size(); ++key) {
    counts[2 * key] = beta_[key].hits;
    counts[2 * key + 1] = beta_[key].misses;
  }
}

bool Calibration::Restore(std::span<const float> counts) {
  constexpr float kMost = 1.01f / (1 - kDecay);  // where a series of hits converges, and some rounding
  const auto possible = [](float count) { return count >= 0 && count <= kMost; };  // NaN is not
  if (counts.size() != kCounts || !std::all_of(counts.begin(), counts.end(), possible)) return false;
  for (size_t key = 0; key < beta_.size(); ++key) {
    beta_[key].hits = counts[2 * key];
    beta_[key].misses = counts[2 * key + 1];
  }
  return true;
}

}  // namespace clamor
