#include "retrieval/segment.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"
#include "retrieval/key_codec.h"
#include "retrieval/mapped_files.h"
#include "retrieval/place_order.h"
#include "retrieval/place_sort.h"

namespace clamor::retrieval {
namespace {

constexpr uint32_t kMagic = 0x534d4c43;  // "CLMS"
constexpr uint32_t kVersion = 4;

struct Header {
  uint32_t magic, version;
  uint32_t prefix, documents, text, order;  // sizes: bytes, then entries
  uint64_t table_checksum, body_checksum;
};

// Where the parts of a block lie, in bytes.
struct Layout {
  explicit Layout(const Header& header)
      : prefix(sizeof(Header)),
        documents(prefix + (uint64_t{header.prefix} + 7) / 8 * 8),
        signs(documents + uint64_t{header.documents} * sizeof(Segment::Document)),
        text(signs + SignCount(header.order) * sizeof(Segment::Sign)),
        order(text + uint64_t{header.text} * sizeof(uint32_t)),
        peaks(order + uint64_t{header.order} * sizeof(uint32_t)),
        end(peaks + SpanCount(header.order) * sizeof(uint32_t)) {}
  static uint64_t SignCount(uint64_t order) { return (order + Segment::kSignSpan - 1) / Segment::kSignSpan; }
  static uint64_t SpanCount(uint64_t order) { return (order + Segment::kSpan - 1) / Segment::kSpan; }

  uint64_t prefix, documents, signs, text, order, peaks, end;
};

constexpr uint64_t kStride = 1 << 20;  // bytes or entries between two looks at how much is in memory

Header& HeaderOf(const SegmentStorage& storage) { return *reinterpret_cast<Header*>(storage.data()); }

}  // namespace

Segment::Segment(SegmentStorage storage) : storage_(std::move(storage)) {}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Allocate(std::string_view prefix,
                                                           std::span<const Source> documents,
                                                           std::string path) {
  uint64_t text = 1, order = 0;
  for (const Source& document : documents) {
    text += document.tokens.size() + 1;
    order += document.tokens.size() - 1;
  }
  if (text > kMaxSegmentTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("segment would have ", text, " tokens, limit is ", kMaxSegmentTokens));
  }
  const Header header{.magic = kMagic,
                      .version = kVersion,
                      .prefix = static_cast<uint32_t>(prefix.size()),
                      .documents = static_cast<uint32_t>(documents.size()),
                      .text = static_cast<uint32_t>(text),
                      .order = static_cast<uint32_t>(order),
                      .table_checksum = 0,
                      .body_checksum = 0};
  const Layout layout(header);
  absl::StatusOr<SegmentStorage> storage = path.empty()
                                               ? SegmentStorage::OnHeap(layout.end)
                                               : SegmentStorage::CreateFile(std::move(path), layout.end);
  if (!storage.ok()) return storage.status();
  HeaderOf(*storage) = header;
  std::memset(storage->data() + layout.prefix, 0, layout.documents - layout.prefix);
  std::ranges::copy(std::as_bytes(std::span(prefix)), storage->data() + layout.prefix);

  std::shared_ptr<Segment> segment(new Segment(*std::move(storage)));
  segment->SetSpans();
  segment->text_[0] = kEndMark;
  uint32_t start = 1;
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto size = static_cast<uint32_t>(documents[i].tokens.size());
    segment->documents_[i] = {documents[i].number, TokenChecksum(documents[i].tokens), start, size};
    MappedFiles::OfProcess().Look();
    std::ranges::copy(documents[i].tokens, segment->text_.begin() + start);
    segment->text_[start + size] = kEndMark;
    start += size + 1;
    segment->tokens_ += size;
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
  signs_ = {reinterpret_cast<Sign*>(storage_.data() + layout.signs), Layout::SignCount(header.order)};
  text_ = words(layout.text, header.text);
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
                                                              std::span<const Source> documents,
                                                              std::string path) {
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> segment, Allocate(prefix, documents, std::move(path)));
  auto place = segment->order_.begin();
  for (const Document& document : segment->documents_) {
    for (uint32_t i = 1; i < document.size; ++i) *place++ = document.start + i;
  }
  SortPlaces(segment->text_, segment->order_);
  CLAMOR_RETURN_IF_ERROR(segment->Seal());
  return segment;
}

absl::StatusOr<std::shared_ptr<const Segment>> Segment::Renumber(const Segment& from, uint64_t first_number,
                                                                 std::string path) {
  std::vector<Source> documents;
  for (const Document& document : from.documents_)
    documents.push_back({first_number + documents.size(), from.Text(document)});
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> segment,
                          Allocate(from.prefix_, documents, std::move(path)));
  for (size_t at = 0; at < from.order_.size(); at += kStride) {
    MappedFiles::OfProcess().Look();
    const auto some = from.order_.subspan(at, std::min<size_t>(kStride, from.order_.size() - at));
    std::ranges::copy(some, segment->order_.begin() + static_cast<std::ptrdiff_t>(at));
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

absl::Status Segment::CheckTable() const {
  if (const uint64_t sum = TableChecksum(); sum != HeaderOf(storage_).table_checksum) {
    return absl::DataLossError(
        absl::StrCat("table has checksum ", sum, ", its header says ", HeaderOf(storage_).table_checksum));
  }
  if (documents_.empty()) return absl::DataLossError("segment has 0 documents");
  uint64_t start = 1, order = 0, previous = 0;
  for (const Document& document : documents_) {
    if (document.start != start || document.size == 0 || (start > 1 && document.number <= previous)) {
      return absl::DataLossError(
          absl::StrCat("document ", document.number, " is out of place at ", document.start));
    }
    start += uint64_t{document.size} + 1;
    order += document.size - 1;
    previous = document.number;
  }
  if (start != text_.size() || order != order_.size()) {
    return absl::DataLossError(absl::StrCat("documents fill ", start, " tokens and ", order,
                                            " places, the header says ", text_.size(), " and ",
                                            order_.size()));
  }
  return absl::OkStatus();
}

absl::Status Segment::CheckBody() const {
  if (const uint64_t sum = BodyChecksum(); sum != HeaderOf(storage_).body_checksum) {
    return absl::DataLossError(absl::StrCat(path(), ": text and order have checksum ", sum,
                                            ", the header says ", HeaderOf(storage_).body_checksum));
  }
  return absl::OkStatus();
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
      signs_[(i * kSpan + at) / kSignSpan] = SignOf(under[at]);
    peaks_[i] = *std::ranges::max_element(under);
  }
}

Segment::Sign Segment::SignOf(uint32_t position) const {
  Sign sign{};
  for (uint32_t i = 0; i < sign.tokens.size(); ++i) {
    sign.tokens[i] = i < position ? text_[position - 1 - i] : kEndMark;
    if (sign.tokens[i] == kEndMark) break;
  }
  return sign;
}

uint64_t Segment::TableChecksum() const {
  Header header = HeaderOf(storage_);
  header.table_checksum = 0;
  const uint64_t sum = Checksum(std::as_bytes(std::span(&header, 1)));
  const Layout layout(header);
  return Checksum({storage_.data() + layout.prefix, layout.text - layout.prefix}, sum);
}

uint64_t Segment::BodyChecksum() const {
  const Layout layout(HeaderOf(storage_));
  uint64_t sum = 0;
  storage_.ReadAhead(layout.text, kStride);
  for (uint64_t at = layout.text; at < layout.end; at += kStride) {
    MappedFiles::OfProcess().Look();
    storage_.ReadAhead(at + kStride, kStride);
    sum = Checksum({storage_.data() + at, std::min(kStride, layout.end - at)}, sum);
  }
  return sum;
}

absl::Status Segment::CheckIntegrity() const {
  CLAMOR_RETURN_IF_ERROR(CheckTable());
  CLAMOR_RETURN_IF_ERROR(CheckBody());
  // The marks first: comparing places relies on them.
  if (text_.front() != kEndMark) return absl::DataLossError("text does not begin with an end mark");
  for (const Document& document : documents_) {
    MappedFiles::OfProcess().Look();
    const auto text = Text(document);
    if (std::ranges::any_of(text, [](uint32_t token) { return token >= kTokenLimit; })) {
      return absl::DataLossError(
          absl::StrCat("document ", document.number, " has a token id over the limit"));
    }
    if (text_[document.start + document.size] != kEndMark)
      return absl::DataLossError(absl::StrCat("document ", document.number, " has no end mark behind it"));
  }
  std::vector<bool> listed(text_.size());
  for (size_t i = 0; i < order_.size(); ++i) {
    if (i % kSpan == 0) MappedFiles::OfProcess().Look();
    const uint32_t position = Bounded(order_[i]);
    if (LiveDocumentAt(position, nullptr) == nullptr || listed[position]) {
      return absl::DataLossError(
          absl::StrCat("entry ", i, " lists ", position, ", which is no place or listed before"));
    }
    listed[position] = true;
    if (i > 0 && !PlaceLess{text_}(MakePlace(text_, order_[i - 1]), MakePlace(text_, position))) {
      return absl::DataLossError(absl::StrCat("entries ", i - 1, " and ", i, " are not in order"));
    }
  }
  for (size_t i = 0; i < order_.size(); ++i) {
    if (order_[i] > peaks_[i / kSpan]) {
      return absl::DataLossError(absl::StrCat("entry ", i, " is over its peak ", peaks_[i / kSpan]));
    }
    if (i % kSignSpan == 0 && signs_[i / kSignSpan] != SignOf(order_[i])) {
      return absl::DataLossError(absl::StrCat("entry ", i, " has another sign than its place"));
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
