// What store_bench appends, and what it asks about.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "bench/store/real_text.h"
#include "bench/store/varied_text.h"
#include "model/tokenizer/tokenizer.h"

namespace clamor::retrieval {

// Real text up to a limit or to its end, then variations of it (varied_text.h). Every kHeldOut-th document is
// kept back to be asked about.
class Corpus {
 public:
  // `scratch` is a file to be made.
  Corpus(const Tokenizer* tokenizer, uint64_t real_tokens, const std::string& scratch)
      : real_limit_(real_tokens),
        real_(tokenizer, {"/usr/share", "/usr/include", "/usr/lib/python3"}),
        varied_(scratch) {}

  // Empty if there is no text at all.
  std::vector<uint32_t> Next() {
    for (;;) {
      std::vector<uint32_t> tokens;
      if (real_so_far_ < real_limit_) tokens = real_.Next();
      const bool is_real = !tokens.empty();
      if (!is_real) {
        real_limit_ = 0;  // there is no more
        tokens = varied_.Next(800);
      }
      if (++taken_ % kHeldOut == 0 && tokens.size() >= 80) {
        held_out.push_back(std::move(tokens));
        if (held_out.size() > 5000) held_out.pop_front();
        continue;
      }
      if (is_real && varied_.Keep(tokens)) real_so_far_ += tokens.size();
      return tokens;
    }
  }
  uint64_t real() const { return real_so_far_; }  // tokens that were appended

  std::deque<std::vector<uint32_t>> held_out;  // the latest

 private:
  static constexpr size_t kHeldOut = 50;

  uint64_t real_limit_, real_so_far_ = 0, taken_ = 0;
  RealText real_;
  VariedText varied_;
};

}  // namespace clamor::retrieval
