// The text of one answer as its tokens come, ending before the first stop string that appears.
//
// What could still become a stop string, and bytes of an unfinished character, are held back. Threads: the
// engine's only. Tested by tests/model/spec/answer_text_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace clamor {

class AnswerText {
 public:
  // Without a tokenizer all text is empty and no stop string ever appears. `tokenizer` must outlive this. A
  // stop string that one of the first `min_tokens` tokens completes is text like any other; one that only
  // begins in them ends the answer.
  AnswerText(const Tokenizer* tokenizer, std::vector<std::string> stops, int64_t min_tokens = 0);

  // Appends to `text` what became certain with `id`. True if a stop string is complete: nothing follows it.
  bool Add(int32_t id, std::string& text);
  // Bytes of text that the newest token completed, held back or not.
  size_t newest_bytes() const { return newest_bytes_; }
  // Appends what was held back; no stop string can appear any more.
  void Finish(std::string& text);

  const std::string& matched_stop() const { return matched_stop_; }  // empty: none

 private:
  bool Grow(const std::string& piece, std::string& text);

  std::optional<StreamDecoder> decoder_;
  std::vector<std::string> stops_;
  int64_t min_tokens_;
  int64_t tokens_ = 0;
  size_t newest_bytes_ = 0;
  std::string held_;
  std::string matched_stop_;
};

}  // namespace clamor
