#include "retrieval/segment.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/container/flat_hash_map.h"
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
constexpr uint32_t kVersion = 5;

struct Header {
  uint32_t magic, version;
  uint32_t prefix, documents, text, order, dictionary;  // sizes: bytes, then entries
  uint32_t reserved;                                    // 0
  uint64_t table_checksum, body_checksum;
};

// Where the parts of a block lie, in bytes. REQUIRES: the dictionary has at least 2 entries.
struct Layout {
  explicit Layout(const Header& header)
      : prefix(sizeof(Header)),
        documents(prefix + (uint64_t{header.prefix} + 7) / 8 * 8),
        dictionary(documents + uint64_t{header.documents} * sizeof(Segment::Document)),
        signs(dictionary + (uint64_t{header.dictionary} + 1) / 2 * 2 * sizeof(uint32_t)),
        text(signs + SignCount(header.order) * sizeof(uint64_t)),
        order(text + TokenText::Bytes(header.dictionary, header.text)),
        peaks(order + uint64_t{header.order} * sizeof(uint32_t)),
        end(peaks + SpanCount(header.order) * sizeof(uint32_t)) {}
  static uint64_t SignCount(uint64_t order) { return (order + Segment::kSignSpan - 1) / Segment::kSignSpan; }
  static uint64_t SpanCount(uint64_t order) { return (order + Segment::kSpan - 1) / Segment::kSpan; }

  uint64_t prefix, documents, dictionary, signs, text, order, peaks, end;
};

constexpr uint64_t kStride = 1 << 20;  // bytes between two looks at how much is in memory

Header& HeaderOf(const SegmentStorage& storage) { return *reinterpret_cast<Header*>(storage.data()); }

}  // namespace

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
  const auto ids = dictionary_.first(text_.end_code());
  if (std::ranges::adjacent_find(ids, std::greater_equal()) != ids.end() || ids.back() >= kTokenLimit ||
      dictionary_.back() != kEndMark) {
    return absl::DataLossError(absl::StrCat("dictionary is not ", ids.size(), " rising ids below ",
                                            kTokenLimit, " and the end mark"));
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

uint64_t Segment::SignOf(uint32_t position) const {
  uint32_t before = 0;
  while (before < text_.per_key() && text_.Code(position - 1 - before) != text_.end_code()) ++before;
  return MakePlace(text_, position, before).key;
}

std::vector<uint32_t> Segment::Text(const Document& document) const {
  std::vector<uint32_t> tokens(document.size);
  for (uint32_t i = 0; i < document.size; ++i) tokens[i] = text_[document.start + i];
  return tokens;
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
  if (text_.Key(1, 1) != text_.end_code()) return absl::DataLossError("text does not begin with an end mark");
  for (const Document& document : documents_) {
    MappedFiles::OfProcess().Look();
    const uint32_t end = document.start + document.size;
    uint32_t at = document.start;
    while (at < end && text_[at] != kEndMark) ++at;
    if (at < end || text_.Key(end + 1, 1) != text_.end_code()) {
      return absl::DataLossError(absl::StrCat("document ", document.number, " of ", document.size,
                                              " tokens has no end mark behind it, or one after ",
                                              at - document.start));
    }
  }
  std::vector<bool> listed(text_.size());
  Place last = {};
  for (size_t i = 0; i < order_.size(); ++i) {
    if (i % kSpan == 0) MappedFiles::OfProcess().Look();
    const uint32_t position = Bounded(order_[i]);
    const Document* document = LiveDocumentAt(position, nullptr);
    if (document == nullptr || listed[position]) {
      return absl::DataLossError(
          absl::StrCat("entry ", i, " lists ", position, ", which is no place or listed before"));
    }
    listed[position] = true;
    const Place place = MakePlace(text_, position, position - document->start);
    if (i > 0 && !PlaceLess{text_}(last, place)) {
      return absl::DataLossError(absl::StrCat("entries ", i - 1, " and ", i, " are not in order"));
    }
    last = place;
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
