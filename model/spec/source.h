// Who proposed a draft token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace clamor {

enum class Source : uint8_t {
  kNone,       // not drafted: the target model's own token
  kJacobi,     // J: top-k of the rejected trail
  kContext,    // C: suffix automaton over prompt and output
  kStore,      // S: the shared store
  kAdjacency,  // A: last seen successors of a token
  kRecycled,   // R: n-grams of rejected tails
  kNoise,      // tokens drawn from the text, to give the model a tail to denoise
};
inline constexpr size_t kSources = 7;

// "none", "jacobi", "context", "store", "adjacency", "recycled", "noise": the labels of metrics and JSON.
inline constexpr std::string_view SourceName(Source source) {
  constexpr std::string_view kNames[kSources] = {"none",      "jacobi",   "context", "store",
                                                 "adjacency", "recycled", "noise"};
  return kNames[static_cast<size_t>(source)];
}

}  // namespace clamor
