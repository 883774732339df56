#include "model/tokenizer/bpe.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

constexpr char kIdRange[] = "an integer in [0, 4194303]";
static_assert(kMaxTokenId == 4194303);
constexpr int32_t kGone = -1;
constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Heap order: the top is the least rank, leftmost among equals.
bool Later(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

// The two halves of a merge, written "left right" or ["left", "right"].
std::optional<std::pair<std::string_view, std::string_view>> Halves(const nlohmann::json& merge) {
  if (merge.is_array()) {
    if (merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) return std::nullopt;
    return std::pair<std::string_view, std::string_view>(merge[0].get_ref<const std::string&>(),
                                                         merge[1].get_ref<const std::string&>());
  }
  if (!merge.is_string()) return std::nullopt;
  const std::string_view text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
    return std::nullopt;
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

// What a model may say that would change ids in ways this class does not know.
absl::Status RefuseUnknown(const nlohmann::json& json, const std::string& path) {
  const nlohmann::json& type = Field(json, "type");  // absent in the oldest files
  if (!type.is_null() && type != "BPE") return UnexpectedValue(absl::StrCat(path, ".type"), type, "BPE");
  const nlohmann::json& dropout = Field(json, "dropout");
  if (!dropout.is_null() && dropout != 0) {
    return UnexpectedValue(absl::StrCat(path, ".dropout"), dropout, "null");
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const nlohmann::json& field = Field(json, affix);
    if (!field.is_null() && field != "")
      return UnexpectedValue(absl::StrCat(path, ".", affix), field, "null");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Bpe> Bpe::FromJson(const nlohmann::json& json, const std::string& path) {
  if (!json.is_object()) return UnexpectedValue(path, json, "an object");
  CLAMOR_RETURN_IF_ERROR(RefuseUnknown(json, path));
  Bpe bpe;
  CLAMOR_RETURN_IF_ERROR(bpe.ReadVocab(json, path));
  CLAMOR_RETURN_IF_ERROR(bpe.ReadMerges(json, path));
  CLAMOR_RETURN_IF_ERROR(bpe.ReadFallbacks(json, path));
  CLAMOR_ASSIGN_OR_RETURN(bpe.ignore_merges_, BoolField(json, "ignore_merges", path, false));
  return bpe;
}

absl::Status Bpe::ReadVocab(const nlohmann::json& json, const std::string& path) {
  const nlohmann::json& vocab = Field(json, "vocab");
  const std::string where = absl::StrCat(path, ".vocab");
  if (!vocab.is_object()) return UnexpectedValue(where, vocab, "an object");
  tokens_.reserve(vocab.size());
  ids_.reserve(vocab.size());
  token_index_.reserve(vocab.size());
  for (const auto& [token, value] : vocab.items()) {
    if (!IsIntegerIn(value, 0, kMaxTokenId)) {
      return UnexpectedValue(absl::StrCat(where, "[", Shown(token), "]"), value, kIdRange);
    }
    const auto id = value.get<int32_t>();
    const auto [at, fresh] = token_index_.emplace(id, static_cast<uint32_t>(tokens_.size()));
    if (!fresh) {
      return UnexpectedValue(absl::StrCat(where, "[", Shown(token), "]"), value,
                             absl::StrCat("an id that is not that of ", Shown(tokens_[at->second])));
    }
    tokens_.push_back(token);
    ids_.emplace(tokens_.back(), id);
    largest_id_ = std::max(largest_id_, id);
  }
  return absl::OkStatus();
}

absl::Status Bpe::ReadMerges(const nlohmann::json& json, const std::string& path) {
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json* merges, ArrayField(json, "merges", path));
  merges_.reserve(merges->size());
  std::string joined;
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    const nlohmann::json& merge = (*merges)[rank];
    const auto where = [&] { return absl::StrCat(path, ".merges[", rank, "]"); };
    const auto halves = Halves(merge);
    if (!halves.has_value())
      return UnexpectedValue(where(), merge, "\"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"]");
    joined.assign(halves->first).append(halves->second);
    const auto left = TokenToId(halves->first);
    const auto right = TokenToId(halves->second);
    const auto merged = TokenToId(joined);
    if (!left.has_value() || !right.has_value() || !merged.has_value()) {
      return UnexpectedValue(where(), merge, "two tokens of the vocabulary that make a third");
    }
    // Of a pair that is listed twice the last place counts, as in the tokenizers library.
    merges_.insert_or_assign(PairKey(*left, *right), Merge{static_cast<uint32_t>(rank), *merged});
  }
  return absl::OkStatus();
}

absl::Status Bpe::ReadFallbacks(const nlohmann::json& json, const std::string& path) {
  CLAMOR_ASSIGN_OR_RETURN(const bool byte_fallback, BoolField(json, "byte_fallback", path, false));
  CLAMOR_ASSIGN_OR_RETURN(fuse_unk_, BoolField(json, "fuse_unk", path, false));
  if (byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_.push_back(TokenToId(absl::StrFormat("<0x%02X>", byte)).value_or(-1));
    }
  }
  if (const nlohmann::json& unk = Field(json, "unk_token"); !unk.is_null()) {
    CLAMOR_ASSIGN_OR_RETURN(const std::string token, StringField(json, "unk_token", path));
    unk_id_ = TokenToId(token);
    if (!unk_id_.has_value())
      return UnexpectedValue(absl::StrCat(path, ".unk_token"), unk, "a token of the vocabulary");
  }
  return absl::OkStatus();
}

std::optional<int32_t> Bpe::TokenToId(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* Bpe::IdToToken(int32_t id) const {
  const auto found = token_index_.find(id);
  return found == token_index_.end() ? nullptr : &tokens_[found->second];
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::Encode(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const auto id = TokenToId(piece)) return ids->push_back(*id);
  }
  AddSymbols(piece, scratch);
  MergeAll(scratch);
  for (const Scratch::Symbol& symbol : scratch->symbols) {
    if (symbol.id != kGone) ids->push_back(symbol.id);
  }
}

// Unknown characters wait in `unknown` to be fused with those that follow. The tokenizers library lets byte
// tokens pass them, and so do we.
void Bpe::AddSymbols(std::string_view piece, Scratch* scratch) const {
  scratch->symbols.clear();
  const auto add = [scratch](int32_t id) { scratch->symbols.push_back({id, kNone, kNone}); };
  bool unknown = false;
  ForEachChar(piece, [&](uint32_t, std::string_view character) {
    if (const auto id = TokenToId(character)) {
      if (unknown) add(*unk_id_);
      unknown = false;
      add(*id);
    } else if (!AddByteSymbols(character, scratch) && unk_id_.has_value()) {
      if (unknown && !fuse_unk_) add(*unk_id_);
      unknown = true;
    }
  });
  if (unknown) add(*unk_id_);
  const auto size = static_cast<uint32_t>(scratch->symbols.size());
  for (uint32_t i = 0; i < size; ++i) {
    scratch->symbols[i].previous = i == 0 ? kNone : i - 1;
    scratch->symbols[i].next = i + 1 == size ? kNone : i + 1;
  }
}

bool Bpe::AddByteSymbols(std::string_view character, Scratch* scratch) const {
  if (byte_ids_.empty()) return false;
  for (const char c : character) {
    if (byte_ids_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : character)
    scratch->symbols.push_back({byte_ids_[static_cast<unsigned char>(c)], kNone, kNone});
  return true;
}

void Bpe::PushCandidate(uint32_t left, Scratch* scratch) const {
  const uint32_t right = scratch->symbols[left].next;
  if (right == kNone) return;
  const Merge* merge = FindMerge(scratch->symbols[left].id, scratch->symbols[right].id);
  if (merge == nullptr) return;
  scratch->heap.push_back({merge->rank, left, merge->merged});
  std::push_heap(scratch->heap.begin(), scratch->heap.end(), Later);
}

void Bpe::MergeAll(Scratch* scratch) const {
  auto& [symbols, heap] = *scratch;
  heap.clear();
  for (uint32_t i = 0; i < symbols.size(); ++i) PushCandidate(i, scratch);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[best.left];
    // Either half may have been merged into another token since.
    if (left.id == kGone || left.next == kNone) continue;
    Scratch::Symbol& right = symbols[left.next];
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->merged != best.merged) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = kGone;
    if (left.next != kNone) symbols[left.next].previous = best.left;
    if (left.previous != kNone) PushCandidate(left.previous, scratch);
    PushCandidate(best.left, scratch);
  }
}

}  // namespace clamor
