// Folders and random input for the tests of the store.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "retrieval/draft.h"
#include "retrieval/suffix_store.h"
#include "tests/retrieval/naive_store.h"

namespace clamor::retrieval {

// Sanitizers make everything many times slower: loops shrink by this.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kSlow = 8;
#else
inline constexpr int kSlow = 1;
#endif

// A folder that goes when it does.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "clamor-store-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::unique_ptr<SuffixStore> OpenStore(const std::string& path, uint32_t hot_tokens = 2u << 20) {
  auto store = SuffixStore::Open({.path = path, .hot_tokens = hot_tokens});
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

inline Tokens RandomTokens(std::mt19937_64& random, size_t length, uint32_t alphabet) {
  Tokens tokens(length);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % alphabet);
  return tokens;
}

inline DraftOptions RandomOptions(std::mt19937_64& random) {
  DraftOptions options;
  options.max_match = 1 + static_cast<int32_t>(random() % 12);
  options.min_match = 1 + static_cast<int32_t>(random() % options.max_match);
  options.max_nodes = 1 + static_cast<int32_t>(random() % 40);
  options.max_depth = 1 + static_cast<int32_t>(random() % 8);
  options.max_occurrences = 1 + static_cast<int32_t>(random() % (random() % 2 ? 5 : 300));
  return options;
}

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::vector<std::filesystem::path> FilesUnder(const std::string& folder,
                                                     const std::string& extension = "") {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    if (extension.empty() || entry.path().extension() == extension) files.push_back(entry.path());
  }
  return files;
}

// How GoogleTest shows a trie.
inline void PrintTo(const Trie& trie, std::ostream* out) {
  *out << "match " << trie.match_length << " of " << trie.occurrences << ":";
  for (const Trie::Node& node : trie.nodes) {
    *out << " {" << node.token << " <" << node.parent << " x" << node.count << "}";
  }
}

}  // namespace clamor::retrieval
