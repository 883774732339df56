#include "retrieval/recovery.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"

namespace clamor::retrieval {
namespace {

constexpr uint64_t kChunkTokens = 1u << 20;  // indexed at a time
constexpr uint64_t kMaxDocumentNumber = uint64_t{1} << 62;

absl::Status Remove(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path.string(), ": cannot be removed: ", error.message()));
}

}  // namespace

absl::StatusOr<SegmentFiles> OpenSegmentFiles(const std::string& folder) {
  SegmentFiles files;
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    paths.push_back(it->path());
  }
  if (error) return absl::InternalError(absl::StrCat(folder, ": cannot be listed: ", error.message()));
  for (const std::filesystem::path& path : paths) {
    uint64_t number = 0;
    if (path.extension() != ".seg" || !absl::SimpleAtoi(path.stem().string(), &number)) {
      CLAMOR_RETURN_IF_ERROR(Remove(path));
      continue;
    }
    files.next_file = std::max(files.next_file, number + 1);
    absl::StatusOr<std::shared_ptr<const Segment>> segment = Segment::Open(path);
    if (absl::IsDataLoss(segment.status())) {
      CLAMOR_RETURN_IF_ERROR(Remove(path));
      continue;
    }
    CLAMOR_RETURN_IF_ERROR(segment.status());
    files.next_document = std::max(files.next_document, (*segment)->documents().back().number + 1);
    files.by_prefix[std::string((*segment)->prefix())].push_back(*std::move(segment));
  }
  return files;
}

absl::StatusOr<std::vector<NamespaceCatalog>> ReadCatalog(const DocumentDb& db) {
  std::vector<NamespaceCatalog> catalogs;
  auto visit = [&](const Namespace& ns, std::string_view id, const CatalogEntry& entry) {
    if (entry.number >= kMaxDocumentNumber) {
      return absl::DataLossError(
          absl::StrCat("stored document number ", entry.number, ", limit is ", kMaxDocumentNumber));
    }
    if (catalogs.empty() || catalogs.back().ns != ns) catalogs.push_back({.ns = ns});
    catalogs.back().entries.push_back(entry);
    catalogs.back().count += CountOf(NamespacePrefix(ns), id, entry.tokens);
    return absl::OkStatus();
  };
  CLAMOR_RETURN_IF_ERROR(db.ForEach({}, visit));
  return catalogs;
}

absl::Status RestoreIndex(const DocumentDb& db, Compactor& compactor, NamespaceCatalog& catalog,
                          std::vector<std::shared_ptr<const Segment>> segments,
                          const std::shared_ptr<NamespaceIndex>& index) {
  std::vector<CatalogEntry>& entries = catalog.entries;
  std::ranges::sort(entries, {}, &CatalogEntry::number);
  const auto twice = std::ranges::adjacent_find(entries, {}, &CatalogEntry::number);
  if (twice != entries.end()) {
    return absl::DataLossError(absl::StrCat("stored document number ", twice->number, " is used twice"));
  }

  // A crash can leave a merged segment beside its inputs: the larger one takes the documents.
  std::ranges::sort(segments, [](const auto& a, const auto& b) { return a->tokens() > b->tokens(); });
  std::vector<bool> indexed(entries.size());
  for (std::shared_ptr<const Segment>& segment : segments) {
    auto dead = std::make_shared<Segment::DeadSet>(segment->documents().size());
    uint64_t dead_tokens = 0;
    for (size_t i = 0; i < dead->size(); ++i) {
      const Segment::Document& document = segment->documents()[i];
      const auto entry = std::ranges::lower_bound(entries, document.number, {}, &CatalogEntry::number);
      const size_t at = entry - entries.begin();
      const bool live = entry != entries.end() && entry->number == document.number &&
                        entry->checksum == document.checksum && entry->tokens == document.size &&
                        !indexed[at];
      (*dead)[i] = !live;
      if (live) indexed[at] = true;
      if (!live) dead_tokens += document.size;
    }
    if (dead_tokens == segment->tokens()) {
      CLAMOR_RETURN_IF_ERROR(Remove(segment->path()));
      continue;
    }
    index->Publish({.segment = std::move(segment),
                    .dead = dead_tokens > 0 ? std::move(dead) : nullptr,
                    .dead_tokens = dead_tokens},
                   {});
  }

  for (size_t next = 0; next < entries.size();) {
    std::vector<std::vector<uint32_t>> bodies;
    std::vector<Segment::Source> sources;
    uint64_t tokens = 0;
    for (; next < entries.size() && tokens < kChunkTokens; ++next) {
      if (indexed[next]) continue;
      CLAMOR_ASSIGN_OR_RETURN(std::vector<uint32_t> body, db.Read(index->prefix(), entries[next]));
      tokens += body.size();
      bodies.push_back(std::move(body));
      sources.push_back({entries[next].number, bodies.back()});
    }
    if (sources.empty()) break;
    CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<const Segment> segment,
                            Segment::Build(index->prefix(), sources, ""));
    index->Publish({.segment = std::move(segment), .dead = nullptr}, {});
    compactor.Schedule(index);
    CLAMOR_RETURN_IF_ERROR(compactor.WaitForRoom(index));
  }
  compactor.Schedule(index);
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
