#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/tokenizer_rep.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

// The tokens that tokenizer_config.json names: a string, or an added token with its `content`.
absl::StatusOr<std::map<std::string, std::string>> ReadNamedTokens(const TokenizerFiles& files) {
  std::map<std::string, std::string> named;
  const auto file = files.contents.find(kTokenizerConfigJson);
  if (file == files.contents.end()) return named;
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json config,
                          ParseUntrustedJson(kTokenizerConfigJson, file->second));
  if (!config.is_object()) return UnexpectedValue(kTokenizerConfigJson, config, "an object");
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token") || value.is_null() || value.is_boolean()) continue;
    const nlohmann::json& text = value.is_object() ? Field(value, "content") : value;
    if (!text.is_string()) {
      return UnexpectedValue(absl::StrCat(kTokenizerConfigJson, ": ", key), value,
                             "a string or an added token");
    }
    named.emplace(key, text.get<std::string>());
  }
  return named;
}

const std::string& NamedToken(const std::map<std::string, std::string>& named, const char* key) {
  static const std::string& unset = *new std::string;
  const auto found = named.find(key);
  return found == named.end() ? unset : found->second;
}

}  // namespace

Tokenizer::Tokenizer() = default;
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const TokenizerFiles& files) {
  const auto file = files.contents.find(kTokenizerJson);
  if (file == files.contents.end())
    return absl::InvalidArgumentError(absl::StrCat(kTokenizerJson, ": missing"));
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json json, ParseUntrustedJson(kTokenizerJson, file->second));
  if (!json.is_object()) return UnexpectedValue(kTokenizerJson, json, "an object");
  const auto path = [](const char* field) { return absl::StrCat(kTokenizerJson, ": ", field); };

  CLAMOR_ASSIGN_OR_RETURN(Bpe bpe, Bpe::FromJson(Field(json, "model"), path("model")));
  CLAMOR_ASSIGN_OR_RETURN(Normalizer normalizer,
                          Normalizer::FromJson(Field(json, "normalizer"), path("normalizer")));
  CLAMOR_ASSIGN_OR_RETURN(AddedTokens added, AddedTokens::FromJson(Field(json, "added_tokens"),
                                                                   path("added_tokens"), bpe, normalizer));
  CLAMOR_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                          PreTokenizer::FromJson(Field(json, "pre_tokenizer"), path("pre_tokenizer")));
  CLAMOR_ASSIGN_OR_RETURN(Decoder decoder, Decoder::FromJson(Field(json, "decoder"), path("decoder")));
  int32_t largest_id = bpe.largest_id();
  for (const AddedTokens::Token& token : added.tokens()) largest_id = std::max(largest_id, token.id);
  CLAMOR_ASSIGN_OR_RETURN(
      PostProcessor post_processor,
      PostProcessor::FromJson(Field(json, "post_processor"), path("post_processor"), largest_id + 1));
  CLAMOR_ASSIGN_OR_RETURN(auto named_tokens, ReadNamedTokens(files));

  auto tokenizer = std::unique_ptr<Tokenizer>(new Tokenizer);
  tokenizer->rep_.reset(new Rep{std::move(normalizer), std::move(added), std::move(pre_tokenizer),
                                std::move(bpe), std::move(post_processor), std::move(decoder), largest_id + 1,
                                std::move(named_tokens)});
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", text.size(), " bytes, limit is ", kMaxTextBytes));
  }
  if (const auto offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("text is not valid UTF-8 at byte ", *offset, " of ", text.size()));
  }
  CLAMOR_ASSIGN_OR_RETURN(std::vector<int32_t> ids, rep_->EncodeMarked(MarkedText(std::string(text)),
                                                                       options.specials == Specials::kParse));
  if (options.add_specials) {
    const PostProcessor& post = rep_->post_processor;
    ids.insert(ids.begin(), post.prefix.begin(), post.prefix.end());
    ids.insert(ids.end(), post.suffix.begin(), post.suffix.end());
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Rep::EncodeMarked(const MarkedText& text,
                                                                  bool parse_specials) const {
  using Segment = AddedTokens::Segment;
  std::vector<int32_t> ids;
  std::vector<Piece> pieces;
  Bpe::Scratch scratch;
  for (const Segment& raw : added.Find(text, AddedTokens::Stage::kRaw, parse_specials)) {
    if (raw.token != nullptr) {
      ids.push_back(raw.token->id);
      continue;
    }
    MarkedText normalized = text.Slice(raw.begin, raw.end);
    CLAMOR_RETURN_IF_ERROR(normalizer.Apply(&normalized));
    for (const Segment& segment : added.Find(normalized, AddedTokens::Stage::kNormalized, parse_specials)) {
      if (segment.token != nullptr) {
        ids.push_back(segment.token->id);
        continue;
      }
      pieces.clear();
      pieces.push_back({normalized.text().substr(segment.begin, segment.end - segment.begin),
                        raw.begin == 0 && segment.begin == 0});
      CLAMOR_RETURN_IF_ERROR(pre_tokenizer.Apply(&pieces));
      for (const Piece& piece : pieces) bpe.Encode(piece.text, &scratch, &ids);
    }
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool skip_specials) const {
  std::string text;
  const auto chain = rep_->decoder.NewChain(&text);
  for (const int32_t id : ids) {
    if (id < 0 || id >= rep_->vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside [0, ", rep_->vocab_size, ")"));
    }
    if (const std::string* token = rep_->TokenText(id, skip_specials))
      chain->Push(*token, /*ends_token=*/true);
  }
  chain->Finish();
  return text;
}

std::string Tokenizer::TokenBytes(int32_t id) const {
  const std::string* token = rep_->TokenText(id, /*skip_specials=*/true);
  if (token == nullptr) return "";
  // Decoders that look at neighbours or at the ends of a text see letters there, which they leave alone.
  std::string text;
  const auto chain = rep_->decoder.NewChain(&text, Decoder::Incomplete::kKept);
  chain->Push("a", /*ends_token=*/true);
  chain->Push(*token, /*ends_token=*/true);
  chain->Push("a", /*ends_token=*/true);
  chain->Finish();
  return text.size() < 2 ? "" : text.substr(1, text.size() - 2);
}

const std::string* Tokenizer::Rep::TokenText(int32_t id, bool skip_specials) const {
  if (const AddedTokens::Token* token = added.ById(id)) {
    return token->special && skip_specials ? nullptr : &token->content;
  }
  return bpe.IdToToken(id);
}

int32_t Tokenizer::vocab_size() const { return rep_->vocab_size; }

bool Tokenizer::IsSpecial(int32_t id) const {
  const AddedTokens::Token* token = rep_->added.ById(id);
  return token != nullptr && token->special;
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  if (const AddedTokens::Token* added = rep_->added.ByContent(token)) return added->id;
  return rep_->bpe.TokenToId(token);
}

const std::string& Tokenizer::bos_token() const { return NamedToken(rep_->named_tokens, "bos_token"); }
const std::string& Tokenizer::eos_token() const { return NamedToken(rep_->named_tokens, "eos_token"); }

}  // namespace clamor
