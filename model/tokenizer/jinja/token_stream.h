// Tokens read from front to back, with the errors of not finding what must come.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/tokenizer/jinja/lexer.h"

namespace clamor::jinja {

class TokenStream {
 public:
  // REQUIRES: the last token is kEnd.
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token Next() {
    const Token& token = Peek();
    if (token.kind != Token::Kind::kEnd) ++at_;
    return token;
  }
  int line() const { return Peek().line; }

  bool Is(Token::Kind kind, std::string_view text, size_t ahead = 0) const {
    return Peek(ahead).kind == kind && Peek(ahead).text == text;
  }
  bool IsOp(std::string_view text) const { return Is(Token::Kind::kOperator, text); }
  bool IsWord(std::string_view text, size_t ahead = 0) const { return Is(Token::Kind::kName, text, ahead); }
  bool TakeOp(std::string_view text) { return Take(Token::Kind::kOperator, text); }
  bool TakeWord(std::string_view text) { return Take(Token::Kind::kName, text); }

  absl::Status ExpectOp(std::string_view text) { return TakeOp(text) ? absl::OkStatus() : Unexpected(text); }
  absl::Status ExpectWord(std::string_view text) {
    return TakeWord(text) ? absl::OkStatus() : Unexpected(text);
  }
  absl::Status Expect(Token::Kind kind, std::string_view what) {
    if (Peek().kind != kind) return Unexpected(what);
    Next();
    return absl::OkStatus();
  }

  absl::Status Unexpected(std::string_view expected) const {
    return ErrorAt(line(), absl::StrCat("found ", Describe(Peek()), ", expected ", std::string(expected)));
  }

 private:
  bool Take(Token::Kind kind, std::string_view text) {
    if (!Is(kind, text)) return false;
    Next();
    return true;
  }

  static std::string Describe(const Token& token) {
    switch (token.kind) {
      case Token::Kind::kText:
        return "text";
      case Token::Kind::kBlockBegin:
        return "'{%'";
      case Token::Kind::kBlockEnd:
        return "'%}'";
      case Token::Kind::kPrintBegin:
        return "'{{'";
      case Token::Kind::kPrintEnd:
        return "'}}'";
      case Token::Kind::kEnd:
        return "the end of the template";
      default:
        return absl::StrCat("'", token.text.substr(0, 40), "'");
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
};

// Counts how deep the parser has recursed; made on entry, undone on exit.
class Nesting {
 public:
  explicit Nesting(int* depth) : depth_(depth) { ++*depth_; }
  ~Nesting() { --*depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  absl::Status Check(int line) const {
    constexpr int kMaxNesting = 100;
    return *depth_ <= kMaxNesting
               ? absl::OkStatus()
               : ErrorAt(line, absl::StrCat("nested deeper than ", kMaxNesting, " levels"));
  }

 private:
  int* depth_;
};

}  // namespace clamor::jinja
