// As much text as is wanted, made of text that there is: passages of it in another order, with some words
// changed.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace clamor::retrieval {

// Keeps the text in a file, so that it is no memory of the process, and removes it in the end.
class VariedText {
 public:
  explicit VariedText(std::string path)
      : path_(std::move(path)), file_(open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {}
  VariedText(const VariedText&) = delete;
  ~VariedText() {
    close(file_);
    unlink(path_.c_str());
  }

  // False if the disk refuses.
  bool Keep(std::span<const uint32_t> tokens) {
    const std::span<const std::byte> bytes = std::as_bytes(tokens);
    if (pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(kept_ * sizeof(uint32_t))) !=
        static_cast<ssize_t>(bytes.size()))
      return false;
    kept_ += tokens.size();
    return true;
  }

  // Passages of 16 to 128 tokens from anywhere in the text, until there are `length`; one token in 20 is some
  // other of its passage. Nothing before 128 tokens were kept, or if they cannot be read.
  std::vector<uint32_t> Next(size_t length) {
    std::vector<uint32_t> tokens;
    while (tokens.size() < length && kept_ >= 128) {
      const std::vector<uint32_t> passage = Read(16 + random_() % 113);
      if (passage.empty()) return {};
      for (const uint32_t token : passage)
        tokens.push_back(random_() % 20 == 0 ? passage[random_() % passage.size()] : token);
    }
    return tokens;
  }

 private:
  std::vector<uint32_t> Read(size_t count) {
    std::vector<uint32_t> tokens(count);
    const uint64_t at = random_() % (kept_ - count + 1);
    const ssize_t size =
        pread(file_, tokens.data(), count * sizeof(uint32_t), static_cast<off_t>(at * sizeof(uint32_t)));
    tokens.resize(size < 0 ? 0 : static_cast<size_t>(size) / sizeof(uint32_t));
    return tokens;
  }

  const std::string path_;
  const int file_;
  uint64_t kept_ = 0;  // tokens
  std::mt19937_64 random_{2};
};

}  // namespace clamor::retrieval
