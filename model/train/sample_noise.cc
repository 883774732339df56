#include "model/train/sample_noise.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/random.h"
#include "model/tokenizer/tokenizer.h"

namespace clamor {
namespace {

constexpr std::array<std::string_view, 4> kKindNames = {"none", "ahead", "uniform", "jacobi"};
constexpr int32_t kMaxLength = 1024;
constexpr int32_t kMaxSegments = 64;

absl::Status CheckRange(const char* name, int32_t value, int32_t high) {
  if (value >= 1 && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("noise ", name, " is ", value, ", must be from 1 to ", high));
}

// Segments in ascending order.
std::vector<Span> PlaceSegments(const std::vector<Span>& responses, const NoiseOptions& options,
                                uint64_t& state) {
  std::vector<Span> segments;
  std::vector<Span> free = responses;
  for (Span& span : free) --span.end;  // the last token of a response stays clean
  const auto starts_in = [&](const Span& span) {
    return static_cast<uint64_t>(std::max(0, span.size() - options.length + 1));
  };
  for (int32_t i = 0; i < options.segments; ++i) {
    uint64_t starts = 0;
    for (const Span& span : free) starts += starts_in(span);
    if (starts == 0) break;
    uint64_t start = RandomBelow(state, starts);
    auto span = free.begin();
    for (; start >= starts_in(*span); ++span) start -= starts_in(*span);
    const int32_t begin = span->begin + static_cast<int32_t>(start);
    segments.push_back({begin, begin + options.length});
    const Span rest{segments.back().end, span->end};
    span->end = begin;
    free.insert(span + 1, rest);
  }
  std::sort(segments.begin(), segments.end(), [](Span a, Span b) { return a.begin < b.begin; });
  return segments;
}

// A token of `vocabulary` that is not special; each is equally likely. REQUIRES: there is one.
int32_t DrawUniform(const NoiseVocabulary& vocabulary, uint64_t& state) {
  auto token = static_cast<int32_t>(RandomBelow(state, vocabulary.size - vocabulary.specials.size()));
  for (const int32_t special : vocabulary.specials) {
    if (special > token) break;
    ++token;
  }
  return token;
}

}  // namespace

absl::StatusOr<NoiseKind> ParseNoiseKind(std::string_view name) {
  const auto found = std::find(kKindNames.begin(), kKindNames.end(), name);
  if (found != kKindNames.end()) return static_cast<NoiseKind>(found - kKindNames.begin());
  return absl::InvalidArgumentError(absl::StrCat("noise is '",
                                                 absl::CHexEscape(std::string(name.substr(0, 40))),
                                                 "', must be none, ahead, uniform or jacobi"));
}

std::string_view NoiseKindName(NoiseKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

absl::Status NoiseOptions::Validate() const {
  if (absl::Status status = CheckRange("length", length, kMaxLength); !status.ok()) return status;
  return CheckRange("segments", segments, kMaxSegments);
}

NoiseVocabulary NoiseVocabulary::Of(const Tokenizer& tokenizer) {
  NoiseVocabulary vocabulary{.size = tokenizer.vocab_size(), .specials = {}};
  for (int32_t id = 0; id < vocabulary.size; ++id) {
    if (tokenizer.IsSpecial(id)) vocabulary.specials.push_back(id);
  }
  return vocabulary;
}

bool NoiseVocabulary::IsSpecial(int32_t id) const {
  return std::binary_search(specials.begin(), specials.end(), id);
}

std::vector<int32_t> NoisyInputs(const Sample& sample, const NoiseOptions& options,
                                 const NoiseVocabulary& vocabulary, uint64_t state,
                                 std::vector<Span>* noised) {
  std::vector<int32_t> inputs = sample.ids;
  noised->clear();
  if (options.kind == NoiseKind::kNone) return inputs;

  // What may be drawn at a position: a list, so that one draw finds a token however rare such tokens are.
  std::vector<int32_t> before;
  const bool uniform = options.kind == NoiseKind::kUniform;
  int32_t at = 0;
  for (const Span& segment : PlaceSegments(sample.responses, options, state)) {
    for (; at < segment.end; ++at) {
      if (vocabulary.IsSpecial(inputs[at])) continue;
      if (at >= segment.begin && (uniform || !before.empty())) {
        inputs[at] = uniform ? DrawUniform(vocabulary, state) : before[RandomBelow(state, before.size())];
        if (noised->empty() || noised->back().end != at) noised->push_back({at, at});
        noised->back().end = at + 1;
      }
      before.push_back(inputs[at]);
    }
  }
  return inputs;
}

}  // namespace clamor
