// Documents of real text: the sources, headers and documents that are installed on this machine.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace clamor::retrieval {

// Reads text files under folders one after the other, in order of path, and cuts each into documents of about
// 4 KiB of text. Bytes that are no UTF-8 end a file.
class RealText {
 public:
  RealText(const Tokenizer* tokenizer, const std::vector<std::string>& folders) : tokenizer_(tokenizer) {
    using std::filesystem::recursive_directory_iterator;
    std::error_code error;
    for (const std::string& folder : folders) {
      recursive_directory_iterator it(folder, std::filesystem::directory_options::skip_permission_denied,
                                      error),
          end;
      for (; !error && it != end; it.increment(error)) {
        if (it->is_regular_file(error) && !it->is_symlink(error) && it->file_size(error) < kMaxFileBytes)
          paths_.push_back(it->path());
      }
    }
    std::sort(paths_.begin(), paths_.end());
  }

  // Empty at the end.
  std::vector<uint32_t> Next() {
    for (;;) {
      while (at_ >= text_.size()) {
        if (next_path_ == paths_.size()) return {};
        text_ = Read(paths_[next_path_++]);
        at_ = 0;
      }
      size_t end = text_.find('\n', std::min(text_.size(), at_ + kDocumentBytes));
      end = end == text_.npos || end > at_ + 2 * kDocumentBytes ? std::min(text_.size(), at_ + kDocumentBytes)
                                                                : end + 1;
      const auto ids =
          tokenizer_->Encode(std::string_view(text_).substr(at_, end - at_),
                             {.add_specials = false, .specials = Tokenizer::Specials::kPlainText});
      at_ = end;
      if (!ids.ok()) {
        at_ = text_.size();
      } else if (!ids->empty()) {
        return {ids->begin(), ids->end()};
      }
    }
  }

 private:
  static constexpr uint64_t kMaxFileBytes = 4 << 20;
  static constexpr size_t kDocumentBytes = 4096;

  // Nothing for what is not text.
  static std::string Read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(in), {}};
    return text.find('\0') == text.npos ? text : std::string();
  }

  const Tokenizer* const tokenizer_;
  std::vector<std::string> paths_;
  size_t next_path_ = 0, at_ = 0;
  std::string text_;
};

}  // namespace clamor::retrieval
