// Text that remembers which of its bytes a user wrote.
//
// Special tokens are honoured in a template's own text and never in what a user typed. So the bytes of a
// message are marked where they enter, and every step that cuts, joins or rewrites text carries the marks
// along. Unmarked text, which is all text but that of ChatTemplate::Encode, costs nothing more than a string.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace clamor {

class MarkedText {
 public:
  MarkedText() = default;
  explicit MarkedText(std::string text, bool marked = false)
      : text_(std::move(text)), marks_(marked ? text_.size() : 0, '\1') {}

  const std::string& text() const { return text_; }
  size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  // Whether a byte of [begin, end) is marked.
  bool AnyMarked(size_t begin, size_t end) const {
    if (marks_.empty()) return false;
    return std::string_view(marks_).substr(begin, end - begin).find('\1') != std::string_view::npos;
  }
  bool AnyMarked() const { return AnyMarked(0, size()); }
  size_t memory() const { return text_.size() + marks_.size(); }

  void Append(std::string_view text, bool marked = false) {
    text_.append(text);
    if (marked && marks_.empty()) marks_.assign(text_.size() - text.size(), '\0');
    if (marked || !marks_.empty()) marks_.append(text.size(), marked ? '\1' : '\0');
  }
  void Append(const MarkedText& other, size_t begin, size_t end) {
    text_.append(other.text_, begin, end - begin);
    if (marks_.empty() && other.marks_.empty()) return;
    marks_.resize(text_.size() - (end - begin), '\0');
    if (other.marks_.empty()) {
      marks_.append(end - begin, '\0');
    } else {
      marks_.append(other.marks_, begin, end - begin);
    }
  }
  void Append(const MarkedText& other) { Append(other, 0, other.size()); }
  MarkedText Slice(size_t begin, size_t end) const {
    MarkedText slice;
    slice.Append(*this, begin, end);
    return slice;
  }

 private:
  std::string text_;
  std::string marks_;  // one byte for each of text_, or empty if none is marked
};

}  // namespace clamor
