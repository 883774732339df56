// Third step of encoding: byte-pair encoding of one piece.
//
// The piece starts as its characters (or, with byte fallback, the bytes of characters without a token). Then
// the pair of neighbours whose merge comes first in the list, leftmost among equals, becomes one token, until
// no pair has a merge. Encode finds that pair with a heap over a linked list: O(n log n) for n characters.
// Immutable; may be used from any thread.
// Tested by tests/model/tokenizer/bpe_test.cc against a scan for the best pair.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

inline constexpr int64_t kMaxTokenId = (4 << 20) - 1;

class Bpe {
 public:
  // Memory of one encoding, kept between pieces.
  struct Scratch {
    struct Symbol {
      int32_t id;  // kGone: merged into its left neighbour
      uint32_t previous;
      uint32_t next;
    };
    struct Candidate {
      uint32_t rank;
      uint32_t left;  // index of the symbol
      int32_t merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // The field `model`. INVALID_ARGUMENT names field and value: another type, dropout, affixes, ids that are
  // doubled or outside [0, kMaxTokenId], merges of tokens that do not exist.
  static absl::StatusOr<Bpe> FromJson(const nlohmann::json& json, const std::string& path);

  Bpe(Bpe&&) = default;
  Bpe& operator=(Bpe&&) = default;

  // Appends the ids of `piece`, valid UTF-8 of at most 2^31 bytes. Characters without a token become the
  // unknown token, or nothing if the model has none.
  void Encode(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const;

  std::optional<int32_t> TokenToId(std::string_view token) const;
  const std::string* IdToToken(int32_t id) const;     // null if `id` has no token
  int32_t largest_id() const { return largest_id_; }  // -1: no tokens

 private:
  struct Merge {
    uint32_t rank;
    int32_t merged;
  };

  Bpe() = default;
  absl::Status ReadVocab(const nlohmann::json& json, const std::string& path);
  absl::Status ReadMerges(const nlohmann::json& json, const std::string& path);
  absl::Status ReadFallbacks(const nlohmann::json& json, const std::string& path);
  void AddSymbols(std::string_view piece, Scratch* scratch) const;
  bool AddByteSymbols(std::string_view character, Scratch* scratch) const;
  const Merge* FindMerge(int32_t left, int32_t right) const;
  void PushCandidate(uint32_t left, Scratch* scratch) const;
  void MergeAll(Scratch* scratch) const;

  std::vector<std::string> tokens_;
  absl::flat_hash_map<std::string_view, int32_t, std::hash<std::string_view>> ids_;  // views into tokens_
  absl::flat_hash_map<int32_t, uint32_t> token_index_;                               // id to index in tokens_
  absl::flat_hash_map<uint64_t, Merge> merges_;                                      // left id, right id
  std::vector<int32_t> byte_ids_;  // [256], -1 where missing; empty without byte fallback
  std::optional<int32_t> unk_id_;
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;  // a piece that is a token is that token
  int32_t largest_id_ = -1;
};

}  // namespace clamor
