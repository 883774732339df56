#include "model/tokenizer/jinja/text.h"

#include <string.h>
#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/value.h"
#include "model/tokenizer/utf8.h"

namespace clamor::jinja {
namespace {

bool IsLetter(uint32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

std::string UpperOf(uint32_t code) {
  if (code == 0xDF) return "SS";  // the common one of the few that become two characters
  std::string out;
  AppendUtf8(static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code))), &out);
  return out;
}

std::string LowerOf(uint32_t code) {
  if (code == 0x130) return "i\xCC\x87";
  std::string out;
  AppendUtf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))), &out);
  return out;
}

// Rewrites each character by `map(code)`.
template <typename Map>
MarkedText MapChars(const MarkedText& text, Map map) {
  MarkedText out;
  size_t at = 0;
  ForEachChar(text.text(), [&](uint32_t code, std::string_view part) {
    out.Append(map(code), text.AnyMarked(at, at + part.size()));
    at += part.size();
  });
  return out;
}

// Cuts at white space, from the left, at most `limit` times.
std::vector<MarkedText> SplitAtSpace(const MarkedText& text, int64_t limit) {
  std::vector<MarkedText> parts;
  size_t at = 0;
  size_t begin = std::string::npos;
  const auto space = [](uint32_t code) { return IsPythonSpace(code); };
  while (at < text.size()) {
    const Utf8Char c = FirstChar(std::string_view(text.text()).substr(at));
    if (begin == std::string::npos && !space(c.code)) {
      begin = at;
      if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
        parts.push_back(text.Slice(begin, text.size()));
        return parts;
      }
    } else if (begin != std::string::npos && space(c.code)) {
      parts.push_back(text.Slice(begin, at));
      begin = std::string::npos;
    }
    at += c.size;
  }
  if (begin != std::string::npos) parts.push_back(text.Slice(begin, text.size()));
  return parts;
}

absl::Status CheckSeparator(const std::string& separator) {
  if (!separator.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("empty separator");
}

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

bool EndsLine(uint32_t code) {
  return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 || code == 0x2028 ||
         code == 0x2029;
}

}  // namespace

bool IsPythonSpace(uint32_t code) { return IsWhitespace(code) || (code >= 0x1C && code <= 0x1F); }

size_t Find(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return found == nullptr ? std::string_view::npos : static_cast<const char*>(found) - text.data();
}

size_t FindLast(std::string_view text, std::string_view needle) {
  const std::string backwards(text.rbegin(), text.rend());
  const std::string needle_backwards(needle.rbegin(), needle.rend());
  const size_t at = Find(backwards, needle_backwards);
  return at == std::string_view::npos ? at : text.size() - at - needle.size();
}

std::vector<size_t> CharOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (!IsContinuation(text[i])) offsets.push_back(i);
  }
  offsets.push_back(text.size());
  return offsets;
}

size_t CountChars(std::string_view text) {
  return text.size() - std::count_if(text.begin(), text.end(), IsContinuation);
}

absl::StatusOr<MarkedText> Strip(const MarkedText& text, const std::optional<std::string>& chars,
                                 Sides sides) {
  constexpr size_t kMaxChars = 64;
  if (chars.has_value() && chars->size() > kMaxChars) {
    return absl::InvalidArgumentError(
        absl::StrCat("strip of ", chars->size(), " bytes, limit is ", kMaxChars));
  }
  const auto strips = [&](std::string_view character) {
    return chars.has_value() ? Find(*chars, character) != std::string_view::npos
                             : IsPythonSpace(FirstChar(character).code);
  };
  std::string_view rest = text.text();
  size_t begin = 0;
  while (sides != Sides::kRight && !rest.empty()) {
    const size_t size = FirstChar(rest).size;
    if (!strips(rest.substr(0, size))) break;
    rest.remove_prefix(size);
    begin += size;
  }
  while (sides != Sides::kLeft && !rest.empty()) {
    size_t last = rest.size() - 1;
    while (IsContinuation(rest[last])) --last;
    if (!strips(rest.substr(last))) break;
    rest = rest.substr(0, last);
  }
  return text.Slice(begin, begin + rest.size());
}

absl::StatusOr<std::vector<MarkedText>> Split(const MarkedText& text,
                                              const std::optional<std::string>& separator, int64_t limit) {
  std::vector<MarkedText> parts;
  if (!separator.has_value()) {
    CLAMOR_RETURN_IF_ERROR(CheckItemCount(text.size() / 2));
    return SplitAtSpace(text, limit);
  }
  CLAMOR_RETURN_IF_ERROR(CheckSeparator(*separator));
  size_t begin = 0;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t end = Find(text.text(), *separator, begin);
    if (end == std::string_view::npos) break;
    parts.push_back(text.Slice(begin, end));
    CLAMOR_RETURN_IF_ERROR(CheckItemCount(parts.size()));
    begin = end + separator->size();
  }
  parts.push_back(text.Slice(begin, text.size()));
  return parts;
}

absl::StatusOr<std::vector<MarkedText>> SplitFromRight(const MarkedText& text,
                                                       const std::optional<std::string>& separator,
                                                       int64_t limit) {
  if (limit < 0) return Split(text, separator, limit);
  if (!separator.has_value()) return absl::InvalidArgumentError("rsplit with a limit needs a separator");
  CLAMOR_RETURN_IF_ERROR(CheckSeparator(*separator));
  // From the left in the text spelled backwards, for there the search is linear.
  const std::string backwards(text.text().rbegin(), text.text().rend());
  const std::string separator_backwards(separator->rbegin(), separator->rend());
  std::vector<MarkedText> parts;
  size_t end = text.size();
  while (static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = Find(backwards, separator_backwards, text.size() - end);
    if (at == std::string_view::npos) break;
    parts.push_back(text.Slice(text.size() - at, end));
    CLAMOR_RETURN_IF_ERROR(CheckItemCount(parts.size()));
    end = text.size() - at - separator->size();
  }
  parts.push_back(text.Slice(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

absl::StatusOr<std::vector<MarkedText>> SplitLines(const MarkedText& text) {
  std::vector<MarkedText> lines;
  const std::string_view all = text.text();
  size_t begin = 0;
  for (size_t at = 0; at < all.size();) {
    const Utf8Char c = FirstChar(all.substr(at));
    size_t next = at + c.size;
    if (EndsLine(c.code)) {
      if (c.code == '\r' && all.substr(next, 1) == "\n") ++next;
      lines.push_back(text.Slice(begin, at));
      CLAMOR_RETURN_IF_ERROR(CheckItemCount(lines.size()));
      begin = next;
    }
    at = next;
  }
  if (begin < all.size()) lines.push_back(text.Slice(begin, all.size()));
  return lines;
}

absl::StatusOr<MarkedText> Replace(const MarkedText& text, std::string_view from, const MarkedText& to,
                                   int64_t limit) {
  MarkedText out;
  size_t done = 0;
  size_t search = 0;
  for (int64_t n = 0; limit < 0 || n < limit; ++n) {
    const size_t at = Find(text.text(), from, search);
    if (at == std::string_view::npos) break;
    out.Append(text, done, at);
    out.Append(to);
    CLAMOR_RETURN_IF_ERROR(CheckStringSize(out.size()));
    done = at + from.size();
    // Between any two characters there is an empty string.
    search = done;
    if (from.empty())
      search += done < text.size() ? FirstChar(std::string_view(text.text()).substr(done)).size : 1;
  }
  out.Append(text, done, text.size());
  CLAMOR_RETURN_IF_ERROR(CheckStringSize(out.size()));
  return out;
}

absl::StatusOr<MarkedText> Repeat(const MarkedText& text, int64_t times) {
  MarkedText out;
  if (text.empty() || times <= 0) return out;
  if (static_cast<uint64_t>(times) > kMaxStringBytes / text.size())
    return CheckStringSize(kMaxStringBytes + 1);
  for (int64_t i = 0; i < times; ++i) out.Append(text);
  return out;
}

MarkedText Upper(const MarkedText& text) { return MapChars(text, UpperOf); }
MarkedText Lower(const MarkedText& text) { return MapChars(text, LowerOf); }

MarkedText Capitalize(const MarkedText& text) {
  return MapChars(text, [first = true](uint32_t code) mutable {
    return std::exchange(first, false) ? UpperOf(code) : LowerOf(code);
  });
}

MarkedText Title(const MarkedText& text) {
  return MapChars(text, [in_word = false](uint32_t code) mutable {
    return std::exchange(in_word, IsLetter(code)) ? LowerOf(code) : UpperOf(code);
  });
}

MarkedText TitleWords(const MarkedText& text) {
  return MapChars(text, [first = true](uint32_t code) mutable {
    const bool begins_word =
        IsPythonSpace(code) || (code < 0x80 && Find("-({[<", std::string(1, code)) != std::string::npos);
    return std::exchange(first, begins_word) ? UpperOf(code) : LowerOf(code);
  });
}

}  // namespace clamor::jinja
