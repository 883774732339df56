// The store as its contract reads, by search over all documents: the dull twin of SuffixStore.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "retrieval/draft.h"
#include "retrieval/key_codec.h"
#include "retrieval/trie.h"

namespace clamor::retrieval {

using Tokens = std::vector<uint32_t>;

// As BuildTrie, by way of a trie of all paths.
inline std::vector<Trie::Node> NaiveTrie(const std::vector<Tokens>& continuations, size_t max_nodes,
                                         size_t max_depth) {
  std::map<Tokens, uint32_t> counts;
  for (const Tokens& continuation : continuations) {
    for (size_t depth = 1; depth <= std::min(continuation.size(), max_depth); ++depth) {
      ++counts[Tokens(continuation.begin(), continuation.begin() + depth)];
    }
  }
  std::vector<std::pair<Tokens, uint32_t>> paths(counts.begin(), counts.end());
  std::sort(paths.begin(), paths.end(), [](const auto& a, const auto& b) {
    return std::tuple(b.second, a.first.size(), a.first) < std::tuple(a.second, b.first.size(), b.first);
  });
  if (paths.size() > max_nodes) paths.resize(max_nodes);
  std::map<Tokens, int32_t> index;
  std::vector<Trie::Node> nodes;
  for (const auto& [path, count] : paths) {
    const Tokens parent(path.begin(), path.end() - 1);
    nodes.push_back({path.back(), parent.empty() ? -1 : index.at(parent), count});
    index[path] = static_cast<int32_t>(nodes.size() - 1);
  }
  return nodes;
}

class NaiveStore {
 public:
  bool Append(const Namespace& ns, const std::string& id, const Tokens& tokens) {
    auto& documents = documents_[{ns.tenant, ns.fingerprint}];
    const auto found = documents.find(id);
    if (found != documents.end() && found->second.tokens == tokens) return false;
    documents[id] = {++clock_, tokens};
    return true;
  }
  bool DeleteDocument(const Namespace& ns, const std::string& id) {
    return documents_[{ns.tenant, ns.fingerprint}].erase(id) > 0;
  }
  uint64_t DeleteTenant(const std::string& tenant) {
    uint64_t count = 0;
    for (auto& [key, documents] : documents_) {
      if (key.first != tenant) continue;
      count += documents.size();
      documents.clear();
    }
    return count;
  }
  std::map<std::string, Tokens> Documents(const Namespace& ns) const {
    std::map<std::string, Tokens> all;
    const auto found = documents_.find({ns.tenant, ns.fingerprint});
    if (found == documents_.end()) return all;
    for (const auto& [id, document] : found->second) all[id] = document.tokens;
    return all;
  }

  Trie Draft(const Namespace& ns, std::span<const uint32_t> context, const DraftOptions& options) const {
    const auto found = documents_.find({ns.tenant, ns.fingerprint});
    if (found == documents_.end()) return {};
    Trie trie;
    std::map<Tokens, int32_t> index;
    size_t length = std::min<size_t>(context.size(), options.max_match);
    while (length >= static_cast<size_t>(options.min_match) && length > 0) {
      const auto suffix = context.last(length);
      struct Hit {
        uint64_t order;
        size_t position;
        const Tokens* tokens;
      };
      std::vector<Hit> hits;
      for (const auto& [id, document] : found->second) {
        for (size_t end = length; end < document.tokens.size(); ++end) {
          if (std::equal(suffix.begin(), suffix.end(), document.tokens.begin() + (end - length))) {
            hits.push_back({document.order, end, &document.tokens});
          }
        }
      }
      if (hits.empty()) {
        --length;
        continue;
      }
      std::sort(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) {
        return std::tuple(a.order, a.position) > std::tuple(b.order, b.position);
      });
      if (hits.size() > static_cast<size_t>(options.max_occurrences)) hits.resize(options.max_occurrences);
      std::vector<Tokens> continuations;
      for (const Hit& hit : hits)
        continuations.emplace_back(hit.tokens->begin() + hit.position, hit.tokens->end());
      if (trie.occurrences == 0) {
        trie = {static_cast<int32_t>(length), static_cast<uint32_t>(hits.size()), {}};
      }
      AddPaths(NaiveTrie(continuations, options.max_nodes, options.max_depth), hits.size(), length,
               options.max_nodes, trie, index);
      length /= 2;
    }
    return trie;
  }

 private:
  // The paths of `seen` that `trie` lacks; `index` has those that it has.
  static void AddPaths(const std::vector<Trie::Node>& seen, size_t occurrences, size_t length,
                       size_t max_nodes, Trie& trie, std::map<Tokens, int32_t>& index) {
    std::vector<Tokens> paths;
    for (const Trie::Node& node : seen) {
      const Tokens before = node.parent < 0 ? Tokens() : paths[node.parent];
      Tokens& path = paths.emplace_back(before);
      path.push_back(node.token);
      if (index.contains(path) || (!before.empty() && !index.contains(before))) continue;
      if (trie.nodes.size() == max_nodes) continue;
      index[path] = static_cast<int32_t>(trie.nodes.size());
      trie.nodes.push_back({node.token, before.empty() ? -1 : index[before], node.count,
                            node.parent < 0 ? static_cast<uint32_t>(occurrences) : seen[node.parent].count,
                            static_cast<int32_t>(length + before.size())});
    }
  }

  struct Stored {
    uint64_t order;
    Tokens tokens;
  };
  uint64_t clock_ = 0;
  std::map<std::pair<std::string, std::string>, std::map<std::string, Stored>> documents_;
};

}  // namespace clamor::retrieval
