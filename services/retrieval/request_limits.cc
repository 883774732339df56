#include "services/retrieval/request_limits.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"
#include "services/tenant.h"

namespace clamor {
namespace {

absl::Status CheckRange(absl::string_view field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("is ", value, ", must be ", low, " to ", high));
}

template <class Predicate>
absl::Status CheckName(absl::string_view field, const std::string& name, size_t max_length, Predicate allowed,
                       absl::string_view allowed_text) {
  if (name.empty() || name.size() > max_length) {
    return InvalidField(field, absl::StrCat("has ", name.size(), " characters, must have 1 to ", max_length));
  }
  if (std::all_of(name.begin(), name.end(), allowed)) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("has characters other than ", allowed_text));
}

absl::Status CheckTokens(absl::string_view field, const google::protobuf::RepeatedField<uint32_t>& tokens) {
  auto wrong = std::find_if(tokens.begin(), tokens.end(),
                            [](uint32_t token) { return token >= retrieval::kTokenLimit; });
  if (wrong == tokens.end()) return absl::OkStatus();
  return InvalidField(absl::StrCat(field, "[", wrong - tokens.begin(), "]"),
                      absl::StrCat("is ", *wrong, ", must be below ", retrieval::kTokenLimit));
}

absl::Status CheckDocument(const std::string& path, const v1::Document& document) {
  CLAMOR_RETURN_IF_ERROR(CheckDocumentId(absl::StrCat(path, ".id"), document.id()));
  CLAMOR_RETURN_IF_ERROR(CheckCount(absl::StrCat(path, ".tokens"), document.tokens_size(), 1 << 20));
  CLAMOR_RETURN_IF_ERROR(CheckTokens(absl::StrCat(path, ".tokens"), document.tokens()));
  return CheckRange(absl::StrCat(path, ".ttl_seconds"), document.ttl_seconds(), 0, uint64_t{1} << 32);
}

}  // namespace

absl::StatusOr<retrieval::Namespace> ToNamespace(const std::string& path, const v1::Namespace& proto) {
  CLAMOR_RETURN_IF_ERROR(CheckTenant(absl::StrCat(path, ".tenant"), proto.tenant()));
  CLAMOR_RETURN_IF_ERROR(CheckName(
      absl::StrCat(path, ".tokenizer_fingerprint"), proto.tokenizer_fingerprint(), 64,
      [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); }, "0-9 a-f"));
  return retrieval::Namespace{.tenant = proto.tenant(), .fingerprint = proto.tokenizer_fingerprint()};
}

absl::StatusOr<Lookup> ToLookup(const std::string& path, const v1::LookupQuery& query) {
  Lookup lookup;
  CLAMOR_ASSIGN_OR_RETURN(lookup.ns, ToNamespace(absl::StrCat(path, ".namespace"), query.namespace_()));
  if (query.context_size() > kMaxLookupContext) {
    return InvalidField(absl::StrCat(path, ".context"),
                        absl::StrCat("has ", query.context_size(), " ids, limit ", kMaxLookupContext));
  }
  CLAMOR_RETURN_IF_ERROR(CheckTokens(absl::StrCat(path, ".context"), query.context()));
  lookup.context = {query.context().data(), static_cast<size_t>(query.context_size())};
  retrieval::DraftOptions& options = lookup.options;
  auto take = [&](const char* name, bool given, uint32_t value, uint32_t high,
                  int32_t* option) -> absl::Status {
    if (!given) return absl::OkStatus();
    CLAMOR_RETURN_IF_ERROR(CheckRange(absl::StrCat(path, ".", name), value, 1, high));
    *option = static_cast<int32_t>(value);
    return absl::OkStatus();
  };
  CLAMOR_RETURN_IF_ERROR(
      take("max_match", query.has_max_match(), query.max_match(), 256, &options.max_match));
  options.min_match = std::min(options.min_match, options.max_match);
  CLAMOR_RETURN_IF_ERROR(
      take("min_match", query.has_min_match(), query.min_match(), options.max_match, &options.min_match));
  CLAMOR_RETURN_IF_ERROR(
      take("max_nodes", query.has_max_nodes(), query.max_nodes(), 1024, &options.max_nodes));
  CLAMOR_RETURN_IF_ERROR(
      take("max_depth", query.has_max_depth(), query.max_depth(), 256, &options.max_depth));
  return lookup;
}

absl::Status CheckCount(absl::string_view field, int count, int limit) {
  if (count >= 1 && count <= limit) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("has ", count, " elements, must have 1 to ", limit));
}

absl::Status CheckDocumentId(const std::string& field, const std::string& id) {
  return CheckName(
      field, id, 256, [](char c) { return c != '\0'; }, "non-zero bytes");
}

absl::StatusOr<std::vector<retrieval::Namespace>> CheckDocuments(const v1::AppendRequest& request) {
  CLAMOR_RETURN_IF_ERROR(CheckCount("documents", request.documents_size(), kMaxAppendDocuments));
  std::vector<retrieval::Namespace> namespaces;
  uint64_t tokens = 0;
  for (int i = 0; i < request.documents_size(); ++i) {
    const std::string path = absl::StrCat("documents[", i, "]");
    CLAMOR_ASSIGN_OR_RETURN(auto ns,
                            ToNamespace(absl::StrCat(path, ".namespace"), request.documents(i).namespace_()));
    CLAMOR_RETURN_IF_ERROR(CheckDocument(path, request.documents(i)));
    namespaces.push_back(std::move(ns));
    tokens += static_cast<uint64_t>(request.documents(i).tokens_size());
  }
  if (tokens <= retrieval::kMaxBatchTokens) return namespaces;
  return InvalidField("documents",
                      absl::StrCat("have ", tokens, " tokens, limit ", retrieval::kMaxBatchTokens));
}

absl::Status CheckFolderName(const std::string& name) {
  return CheckName(
      "name", name, 128, [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-'; },
      "A-Z a-z 0-9 _ -");
}

}  // namespace clamor
