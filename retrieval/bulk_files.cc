#include "retrieval/bulk_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"
#include "retrieval/segment_storage.h"

namespace clamor::retrieval {
namespace {

constexpr char kSegment[] = ".seg", kIds[] = ".ids";
constexpr size_t kMaxIdBytes = 256;

struct IdsHeader {
  uint32_t magic = 0x494d4c43;  // "CLMI"
  uint32_t version = 1;
  uint64_t ids = 0, checksum = 0;
};

std::string IdsPath(const std::string& segment_path) {
  return std::filesystem::path(segment_path).replace_extension(kIds);
}

uint64_t ChecksumOf(std::string_view bytes) { return Checksum(std::as_bytes(std::span(bytes))); }

absl::Status WriteIds(const std::string& path, uint64_t count, std::string_view ids) {
  const IdsHeader header{.ids = count, .checksum = ChecksumOf(ids)};
  CLAMOR_ASSIGN_OR_RETURN(SegmentStorage file, SegmentStorage::CreateFile(path, sizeof(header) + ids.size()));
  std::memcpy(file.data(), &header, sizeof(header));
  std::memcpy(file.data() + sizeof(header), ids.data(), ids.size());
  return file.Seal();
}

// `limit` is the number of documents.
absl::StatusOr<std::vector<std::string>> ReadIds(const std::string& path, size_t limit) {
  CLAMOR_ASSIGN_OR_RETURN(const SegmentStorage file, SegmentStorage::OpenFile(path));
  std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  IdsHeader header, known;
  if (bytes.size() < sizeof(header)) {
    return absl::DataLossError(
        absl::StrCat(path, ": has ", bytes.size(), " bytes, its header alone ", sizeof(header)));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  bytes.remove_prefix(sizeof(header));
  if (header.magic != known.magic || header.version != known.version) {
    return absl::DataLossError(absl::StrCat(path, ": is version ", header.version, " of kind ", header.magic,
                                            ", not version ", known.version, " of ", known.magic));
  }
  if (header.ids != limit) {
    return absl::DataLossError(
        absl::StrCat(path, ": has ", header.ids, " ids, its segment ", limit, " documents"));
  }
  if (const uint64_t sum = ChecksumOf(bytes); sum != header.checksum) {
    return absl::DataLossError(
        absl::StrCat(path, ": ids have checksum ", sum, ", the header says ", header.checksum));
  }
  std::vector<std::string> ids;
  std::unordered_set<std::string_view> seen;
  ids.reserve(limit);  // so that what `seen` refers to stays in its place
  for (uint16_t size = 0; ids.size() < limit; bytes.remove_prefix(size)) {
    if (bytes.size() < sizeof(size))
      return absl::DataLossError(absl::StrCat(path, ": ends at id ", ids.size()));
    std::memcpy(&size, bytes.data(), sizeof(size));
    bytes.remove_prefix(sizeof(size));
    if (size == 0 || size > kMaxIdBytes || size > bytes.size()) {
      return absl::DataLossError(absl::StrCat(path, ": id ", ids.size(), " has ", size,
                                              " bytes, must have 1 to ", kMaxIdBytes, ", and ", bytes.size(),
                                              " are left"));
    }
    ids.emplace_back(bytes.substr(0, size));
    if (!seen.insert(ids.back()).second)
      return absl::DataLossError(absl::StrCat(path, ": id ", ids.size() - 1, " is there twice"));
  }
  if (!bytes.empty())
    return absl::DataLossError(absl::StrCat(path, ": has ", bytes.size(), " bytes too many"));
  return ids;
}

}  // namespace

BulkWriter::BulkWriter(std::string folder, const Namespace& ns, uint32_t segment_tokens)
    : folder_(std::move(folder)), prefix_(NamespacePrefix(ns)), segment_tokens_(segment_tokens) {}

absl::Status BulkWriter::Add(std::string_view id, std::span<const uint32_t> tokens) {
  CLAMOR_RETURN_IF_ERROR(ValidateDocumentId(id));
  if (tokens.empty() || tokens.size() > segment_tokens_) {
    return absl::InvalidArgumentError(
        absl::StrCat("document has ", tokens.size(), " tokens, must have 1 to ", segment_tokens_));
  }
  const auto bad = std::ranges::find_if(tokens, [](uint32_t token) { return token >= kTokenLimit; });
  if (bad != tokens.end()) {
    return absl::InvalidArgumentError(absl::StrCat("document has token id ", *bad, " at ",
                                                   bad - tokens.begin(), ", limit is ", kTokenLimit));
  }
  if (tokens_.size() + tokens.size() > segment_tokens_) CLAMOR_RETURN_IF_ERROR(Finish());
  const auto [found, added] = by_id_.try_emplace(std::string(id), documents_.size());
  if (!added) {
    documents_[found->second].size = 0;
    found->second = documents_.size();
  }
  documents_.push_back({tokens_.size(), tokens.size(), found->first});
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return absl::OkStatus();
}

absl::Status BulkWriter::Finish() {
  std::vector<Segment::Source> sources;
  std::string ids;
  uint64_t sum = ChecksumOf(prefix_);
  for (const Range& document : documents_) {
    if (document.size == 0) continue;
    const std::span<const uint32_t> tokens = std::span(tokens_).subspan(document.begin, document.size);
    sources.push_back({sources.size() + 1, tokens});
    const auto size = static_cast<uint16_t>(document.id.size());
    ids.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(document.id);
    sum = Checksum(std::as_bytes(tokens), sum);
  }
  if (sources.empty()) return absl::OkStatus();
  sum = Checksum(std::as_bytes(std::span(ids)), sum);
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error)
    return absl::FailedPreconditionError(absl::StrCat(folder_, ": cannot be made: ", error.message()));
  const std::string path = absl::StrFormat("%s/%016x%s", folder_, sum, kSegment);
  CLAMOR_RETURN_IF_ERROR(WriteIds(IdsPath(path), sources.size(), ids));
  CLAMOR_RETURN_IF_ERROR(Segment::Build(prefix_, sources, path).status());
  ++segments_;
  tokens_.clear();
  documents_.clear();
  by_id_.clear();
  return absl::OkStatus();
}

absl::StatusOr<BulkSegment> OpenBulkSegment(const std::string& path) {
  BulkSegment bulk;
  CLAMOR_ASSIGN_OR_RETURN(bulk.segment, Segment::Open(path));
  CLAMOR_RETURN_IF_ERROR(bulk.segment->CheckIntegrity());
  CLAMOR_ASSIGN_OR_RETURN(auto key, SplitKey(bulk.segment->prefix()));
  if (!key.second.empty()) {
    return absl::DataLossError(
        absl::StrCat(path, ": its namespace has ", key.second.size(), " bytes too many"));
  }
  bulk.ns = std::move(key.first);
  CLAMOR_ASSIGN_OR_RETURN(bulk.ids, ReadIds(IdsPath(path), bulk.segment->documents().size()));
  return bulk;
}

absl::StatusOr<std::vector<std::string>> ListBulkSegments(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == kSegment) paths.push_back(it->path());
  }
  if (error) return absl::NotFoundError(absl::StrCat(folder, ": cannot be listed: ", error.message()));
  std::ranges::sort(paths);
  return paths;
}

}  // namespace clamor::retrieval
