// Checking segments, when they are opened and whole; segment.cc makes them.
#include <algorithm>
#include <functional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"
#include "retrieval/key_codec.h"
#include "retrieval/mapped_files.h"
#include "retrieval/place_order.h"
#include "retrieval/segment_layout.h"

namespace clamor::retrieval {

using layout::Header;
using layout::HeaderOf;
using layout::kStride;
using layout::Layout;

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
    if (i % kSignSpan == 0 && signs_[i / kSignSpan] != MakePlace(text_, order_[i]).key) {
      return absl::DataLossError(absl::StrCat("entry ", i, " has another sign than its place"));
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
