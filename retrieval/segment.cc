#include "retrieval/segment.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"
#include "retrieval/key_codec.h"
#include "retrieval/place_order.h"

namespace clamor::retrieval {
namespace {

constexpr uint32_t kMagic = 0x534d4c43;  // "CLMS"
constexpr uint32_t kVersion = 1;

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
        text(documents + uint64_t{header.documents} * sizeof(Segment::Document)),
        order(text + uint64_t{header.text} * sizeof(uint32_t)),
        peaks(order + uint64_t{header.order} * sizeof(uint32_t)),
        end(peaks + PeakCount(header.order) * sizeof(uint32_t)) {}
  static uint64_t PeakCount(uint64_t order) { return (order + Segment::kPeakSpan - 1) / Segment::kPeakSpan; }

  uint64_t prefix, documents, text, order, peaks, end;
};

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
    std::ranges::copy(documents[i].tokens, segment->text_.begin() + start);
    segment->text_[start + size] = kEndMark;
    start += size + 1;
    segment->tokens_ += size;
  }
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
  text_ = words(layout.text, header.text);
  order_ = words(layout.order, header.order);
  peaks_ = words(layout.peaks, Layout::PeakCount(header.order));
}

absl::StatusOr<std::shared_ptr<const Segment>> Segment::Build(std::string_view prefix,
                                                              std::span<const Source> documents,
                                                              std::string path) {
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> segment, Allocate(prefix, documents, std::move(path)));
  std::vector<Place> places;
  places.reserve(segment->order_.size());
  for (const Document& document : segment->documents_) {
    for (uint32_t i = 1; i < document.size; ++i)
      places.push_back(MakePlace(segment->text_, document.start + i));
  }
  std::ranges::sort(places, PlaceLess{segment->text_});
  std::ranges::transform(places, segment->order_.begin(), &Place::position);
  CLAMOR_RETURN_IF_ERROR(segment->Seal());
  return segment;
}

absl::StatusOr<std::shared_ptr<const Segment>> Segment::Merge(std::string_view prefix,
                                                              std::span<const Input> inputs, std::string path,
                                                              const std::atomic<bool>& cancelled) {
  // The text first: then places can be compared where they will be.
  std::vector<Source> live;
  for (const auto& [segment, dead] : inputs) {
    if (!segment->path().empty()) CLAMOR_RETURN_IF_ERROR(segment->CheckBody());
    for (size_t i = 0; i < segment->documents_.size(); ++i) {
      if (dead != nullptr && (*dead)[i]) continue;
      live.push_back({segment->documents_[i].number, segment->Text(segment->documents_[i])});
    }
  }
  std::ranges::sort(live, {}, &Source::number);
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> merged, Allocate(prefix, live, std::move(path)));

  // Each input is already sorted, and moving its places into the new text keeps them so.
  struct Head {
    const Segment* from;
    std::vector<uint32_t> starts;  // of each document in the new text; 0: dead
    size_t next = 0;               // in from->order_
    Place place = {};
  };
  auto advance = [&](Head& head) {  // to the next live place; false at the end
    const Segment& from = *head.from;
    while (head.next < from.order_.size()) {
      const uint32_t position = from.Bounded(from.order_[head.next++]);
      const Document* document = from.LiveDocumentAt(position, nullptr);
      if (document == nullptr) continue;
      const uint32_t start = head.starts[document - from.documents_.data()];
      if (start == 0) continue;
      head.place = MakePlace(merged->text_, start + (position - document->start));
      return true;
    }
    return false;
  };
  const PlaceLess less{merged->text_};
  auto after = [&](const Head& a, const Head& b) { return less(b.place, a.place); };
  std::vector<Head> heads;
  for (const auto& [segment, dead] : inputs) {
    Head head{.from = segment, .starts = std::vector<uint32_t>(segment->documents_.size())};
    for (size_t i = 0; i < head.starts.size(); ++i) {
      if (dead != nullptr && (*dead)[i]) continue;
      head.starts[i] = merged->documents_[*merged->Find(segment->documents_[i].number)].start;
    }
    if (advance(head)) heads.push_back(std::move(head));
  }
  std::ranges::make_heap(heads, after);
  size_t count = 0;
  while (!heads.empty() && count < merged->order_.size()) {
    if (count % 65536 == 0 && cancelled.load(std::memory_order_relaxed))
      return absl::CancelledError("merge cancelled");
    std::ranges::pop_heap(heads, after);
    merged->order_[count++] = heads.back().place.position;
    if (advance(heads.back())) {
      std::ranges::push_heap(heads, after);
    } else {
      heads.pop_back();
    }
  }
  if (!heads.empty() || count != merged->order_.size()) {
    return absl::DataLossError(absl::StrCat("segments to merge list ", count,
                                            heads.empty() ? "" : " and more",
                                            " places, their documents have ", merged->order_.size()));
  }
  CLAMOR_RETURN_IF_ERROR(merged->Seal());
  return merged;
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
  if (const uint64_t end = Layout(header).end; storage.size() != end || header.text > kMaxSegmentTokens) {
    return absl::DataLossError(absl::StrCat(path, ": has ", storage.size(), " bytes, its header says ", end));
  }
  std::shared_ptr<Segment> segment(new Segment(std::move(storage)));
  segment->SetSpans();
  if (absl::Status valid = segment->CheckTable(); !valid.ok()) {
    return absl::DataLossError(absl::StrCat(path, ": ", valid.message()));
  }
  for (const Document& document : segment->documents_) segment->tokens_ += document.size;
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
  FillPeaks();
  Header& header = HeaderOf(storage_);
  header.body_checksum = BodyChecksum();
  header.table_checksum = TableChecksum();
  return storage_.Seal();
}

void Segment::FillPeaks() {
  for (size_t i = 0; i < peaks_.size(); ++i) {
    const auto under =
        order_.subspan(i * kPeakSpan, std::min<size_t>(kPeakSpan, order_.size() - i * kPeakSpan));
    peaks_[i] = *std::ranges::max_element(under);
  }
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
  return Checksum({storage_.data() + layout.text, layout.end - layout.text});
}

absl::Status Segment::CheckIntegrity() const {
  CLAMOR_RETURN_IF_ERROR(CheckTable());
  CLAMOR_RETURN_IF_ERROR(CheckBody());
  std::vector<bool> listed(text_.size());
  for (size_t i = 0; i < order_.size(); ++i) {
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
  for (const Document& document : documents_) {
    const auto text = Text(document);
    if (std::ranges::any_of(text, [](uint32_t token) { return token >= kTokenLimit; })) {
      return absl::DataLossError(
          absl::StrCat("document ", document.number, " has a token id over the limit"));
    }
  }
  for (size_t i = 0; i < order_.size(); ++i) {
    if (order_[i] > peaks_[i / kPeakSpan]) {
      return absl::DataLossError(absl::StrCat("entry ", i, " is over its peak ", peaks_[i / kPeakSpan]));
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
