#include "retrieval/segment.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"
#include "retrieval/key_codec.h"
#include "retrieval/mapped_files.h"
#include "retrieval/place_order.h"
#include "retrieval/place_sort.h"
#include "retrieval/segment_layout.h"

namespace clamor::retrieval {

using layout::Header;
using layout::HeaderOf;
using layout::kMagic;
using layout::kStride;
using layout::kVersion;
using layout::Layout;

Segment::Segment(SegmentStorage storage) : storage_(std::move(storage)) {}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Allocate(std::string_view prefix,
                                                           std::vector<Document> documents,
                                                           std::span<const uint32_t> dictionary,
                                                           std::string path) {
  uint64_t text = 1, order = 0;
  for (Document& document : documents) {
    document.start = static_cast<uint32_t>(text);
    text += document.size + 1;
    order += document.size - 1;
    if (text > kMaxSegmentTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("segment would have over ", text, " tokens, limit is ", kMaxSegmentTokens));
    }
  }
  const Header header{.magic = kMagic,
                      .version = kVersion,
                      .prefix = static_cast<uint32_t>(prefix.size()),
                      .documents = static_cast<uint32_t>(documents.size()),
                      .text = static_cast<uint32_t>(text),
                      .order = static_cast<uint32_t>(order),
                      .dictionary = static_cast<uint32_t>(dictionary.size()),
                      .reserved = 0,
                      .table_checksum = 0,
                      .body_checksum = 0};
  const Layout layout(header);
  absl::StatusOr<SegmentStorage> storage = path.empty()
                                               ? SegmentStorage::OnHeap(layout.end)
                                               : SegmentStorage::CreateFile(std::move(path), layout.end);
  if (!storage.ok()) return storage.status();
  HeaderOf(*storage) = header;
  std::ranges::copy(std::as_bytes(std::span(prefix)), storage->data() + layout.prefix);

  std::shared_ptr<Segment> segment(new Segment(*std::move(storage)));
  segment->SetSpans();
  std::ranges::copy(documents, segment->documents_.begin());
  std::ranges::copy(dictionary, segment->dictionary_.begin());
  TokenText& written = segment->text_;
  written.Set(0, written.end_code());
  for (const Document& document : documents) {
    written.Set(document.start + document.size, written.end_code());
    segment->tokens_ += document.size;
  }
  segment->IndexDocuments();
  return segment;
}

void Segment::SetSpans() {
  const Header& header = HeaderOf(storage_);
  const Layout layout(header);
  auto words = [&](uint64_t at, size_t count) {
    return std::span(reinterpret_cast<uint32_t*>(storage_.data() + at), count);
  };
  prefix_ = {reinterpret_cast<const char*>(storage_.data() + layout.prefix), header.prefix};
  documents_ = {reinterpret_cast<Document*>(storage_.data() + layout.documents), header.documents};
  dictionary_ = words(layout.dictionary, header.dictionary);
  signs_ = {reinterpret_cast<uint64_t*>(storage_.data() + layout.signs), Layout::SignCount(header.order)};
  text_ = TokenText(dictionary_, {storage_.data() + layout.text, layout.order - layout.text}, header.text);
  order_ = words(layout.order, header.order);
  peaks_ = words(layout.peaks, Layout::SpanCount(header.order));
}

// REQUIRES: the table is sound.
void Segment::IndexDocuments() {
  first_documents_.reserve(text_.size() / kBlock + 1);
  uint32_t document = 0;
  for (uint64_t at = 0; at < text_.size(); at += kBlock) {
    while (document + 1 < documents_.size() && documents_[document + 1].start <= at) ++document;
    first_documents_.push_back(document);
  }
}

absl::StatusOr<std::shared_ptr<const Segment>> Segment::Build(std::string_view prefix,
                                                              std::span<const Source> sources,
                                                              std::string path) {
  absl::flat_hash_map<uint32_t, uint32_t> codes;
  std::vector<Document> documents;
  for (const auto& [number, tokens] : sources) {
    documents.push_back({number, TokenChecksum(tokens), 0, static_cast<uint32_t>(tokens.size())});
    for (const uint32_t token : tokens) codes.try_emplace(token);
  }
  std::vector<uint32_t> dictionary;
  for (const auto& [token, code] : codes) dictionary.push_back(token);
  std::ranges::sort(dictionary);
  for (uint32_t code = 0; code < dictionary.size(); ++code) codes[dictionary[code]] = code;
  dictionary.push_back(kEndMark);
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> segment,
                          Allocate(prefix, std::move(documents), dictionary, std::move(path)));
  auto place = segment->order_.begin();
  for (size_t i = 0; i < sources.size(); ++i) {
    const uint32_t start = segment->documents_[i].start;
    for (uint32_t j = 0; j < sources[i].tokens.size(); ++j) {
      segment->text_.Set(start + j, codes.find(sources[i].tokens[j])->second);
      if (j > 0) *place++ = start + j;
    }
  }
  SortPlaces(segment->text_, segment->order_);
  CLAMOR_RETURN_IF_ERROR(segment->Seal());
  return segment;
}

absl::StatusOr<std::shared_ptr<const Segment>> Segment::Renumber(const Segment& from, uint64_t first_number,
                                                                 std::string path) {
  std::vector<Document> documents(from.documents_.begin(), from.documents_.end());
  for (size_t i = 0; i < documents.size(); ++i) documents[i].number = first_number + i;
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> segment,
                          Allocate(from.prefix_, std::move(documents), from.dictionary_, std::move(path)));
  const Layout layout(HeaderOf(from.storage_));
  for (uint64_t at = layout.text; at < layout.peaks; at += kStride) {
    MappedFiles::OfProcess().Look();
    std::copy_n(from.storage_.data() + at, std::min(kStride, layout.peaks - at),
                segment->storage_.data() + at);
  }
  CLAMOR_RETURN_IF_ERROR(segment->Seal());
  return segment;
}

absl::StatusOr<std::shared_ptr<const Segment>> Segment::Open(std::string path) {
  CLAMOR_ASSIGN_OR_RETURN(SegmentStorage storage, SegmentStorage::OpenFile(path));
  if (storage.size() < sizeof(Header)) {
    return absl::DataLossError(
        absl::StrCat(path, ": has ", storage.size(), " bytes, its header alone ", sizeof(Header)));
  }
  const Header& header = HeaderOf(storage);
  if (header.magic != kMagic || header.version != kVersion) {
    return absl::DataLossError(absl::StrCat(path, ": is version ", header.version, " of kind ", header.magic,
                                            ", not version ", kVersion, " of ", kMagic));
  }
  if (header.dictionary < 2) {
    return absl::DataLossError(
        absl::StrCat(path, ": has a dictionary of ", header.dictionary, ", must have at least 2"));
  }
  const Layout layout(header);
  if (storage.size() != layout.end || header.text > kMaxSegmentTokens) {
    return absl::DataLossError(
        absl::StrCat(path, ": has ", storage.size(), " bytes, its header says ", layout.end));
  }
  storage.ReadAhead(0, layout.text);
  std::shared_ptr<Segment> segment(new Segment(std::move(storage)));
  segment->SetSpans();
  if (absl::Status valid = segment->CheckTable(); !valid.ok()) {
    return absl::DataLossError(absl::StrCat(path, ": ", valid.message()));
  }
  for (const Document& document : segment->documents_) segment->tokens_ += document.size;
  segment->IndexDocuments();
  segment->Serve();
  return segment;
}

absl::Status Segment::Seal() {
  FillSpans();
  Header& header = HeaderOf(storage_);
  header.body_checksum = BodyChecksum();
  header.table_checksum = TableChecksum();
  CLAMOR_RETURN_IF_ERROR(storage_.Seal());
  Serve();
  return absl::OkStatus();
}

void Segment::Serve() const {
  const Layout layout(HeaderOf(storage_));
  storage_.Serve({.newest = documents_.back().number,
                  .index_bytes = layout.text,
                  .piece_bytes = {layout.order - layout.text, layout.end - layout.order}});
}

void Segment::FillSpans() {
  for (size_t i = 0; i < peaks_.size(); ++i) {
    MappedFiles::OfProcess().Look();
    const auto under = order_.subspan(i * kSpan, std::min<size_t>(kSpan, order_.size() - i * kSpan));
    for (size_t at = 0; at < under.size(); at += kSignSpan)
      signs_[(i * kSpan + at) / kSignSpan] = MakePlace(text_, under[at]).key;
    peaks_[i] = *std::ranges::max_element(under);
  }
}

std::vector<uint32_t> Segment::Text(const Document& document) const {
  std::vector<uint32_t> tokens(document.size);
  for (uint32_t i = 0; i < document.size; ++i) tokens[i] = text_[document.start + i];
  return tokens;
}

}  // namespace clamor::retrieval
