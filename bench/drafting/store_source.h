// Source S in this process: a real store. Its answers come at once or, as the retrieval service's would, a
// step later.
//
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/spec/continuation_source.h"
#include "retrieval/suffix_store.h"

namespace clamor {

class StoreSource final : public ContinuationSource {
 public:
  struct Options {
    int32_t nodes = 64;     // of an answer
    int32_t min_match = 2;  // tokens
    bool late = true;       // by a step
  };

  // A store in a new folder, which goes with it.
  static absl::StatusOr<std::unique_ptr<StoreSource>> Create(const Options& options) {
    const std::filesystem::path folder = std::filesystem::temp_directory_path() / "clamor-store-XXXXXX";
    std::string name = folder.string();
    if (mkdtemp(name.data()) == nullptr) {
      return absl::UnavailableError(absl::StrCat(name, ": cannot make a folder"));
    }
    CLAMOR_ASSIGN_OR_RETURN(auto store, retrieval::SuffixStore::Open({.path = name}));
    return std::unique_ptr<StoreSource>(new StoreSource(std::move(store), name, options));
  }
  ~StoreSource() override {
    store_ = nullptr;
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  absl::Status Add(const std::string& id, std::span<const int32_t> tokens) {
    const std::vector<uint32_t> ids(tokens.begin(), tokens.end());
    return store_->Append(kNamespace, id, ids).status();
  }
  absl::Status Remove(const std::string& id) { return store_->DeleteDocument(kNamespace, id).status(); }
  retrieval::Stats stats() const { return store_->GetStats(); }

  void Ask(uint64_t sequence, const std::string&, std::span<const int32_t> context,
           int64_t position) override {
    const std::vector<uint32_t> ids(context.begin(), context.end());
    const auto start = std::chrono::steady_clock::now();
    const auto trie =
        store_->Draft(kNamespace, ids, {.min_match = options_.min_match, .max_nodes = options_.nodes});
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ++lookups_;
    if (!trie.ok()) return;
    Answer answer{.position = position};
    answer.trie.match_length = trie->match_length;
    answer.trie.occurrences = trie->occurrences;
    for (const auto& node : trie->nodes) {
      answer.trie.nodes.push_back(
          {static_cast<int32_t>(node.token), node.parent, node.count, node.total, node.match_length});
    }
    open_[sequence].second = std::move(answer);
  }
  std::optional<Answer> Take(uint64_t sequence) override {
    auto& [ready, asked] = open_[sequence];
    if (!options_.late) return std::exchange(asked, std::nullopt);
    return std::exchange(ready, std::exchange(asked, std::nullopt));
  }
  void Forget(uint64_t sequence) override { open_.erase(sequence); }

  int64_t lookups() const { return lookups_; }
  double lookup_seconds() const { return seconds_; }

 private:
  inline static const retrieval::Namespace kNamespace = {.tenant = "bench", .fingerprint = "0"};

  StoreSource(std::unique_ptr<retrieval::SuffixStore> store, std::string folder, const Options& options)
      : store_(std::move(store)), folder_(std::move(folder)), options_(options) {}

  std::unique_ptr<retrieval::SuffixStore> store_;
  std::string folder_;
  const Options options_;
  // Of each sequence: what the next Take gives, and what the one after it gives.
  std::map<uint64_t, std::pair<std::optional<Answer>, std::optional<Answer>>> open_;
  int64_t lookups_ = 0;
  double seconds_ = 0;
};

}  // namespace clamor
