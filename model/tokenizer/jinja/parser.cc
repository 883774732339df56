#include "model/tokenizer/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/expression_parser.h"

namespace clamor::jinja {
namespace {

using Kind = Statement::Kind;
using EndWords = std::initializer_list<std::string_view>;

class Parser {
 public:
  Parser(std::vector<Token> tokens, Template* result)
      : tokens_(std::move(tokens)), expressions_(&tokens_, &result->constants, &depth_), result_(*result) {}

  absl::Status Run() {
    CLAMOR_ASSIGN_OR_RETURN(result_.body, Statements({}));
    return absl::OkStatus();
  }

 private:
  using Made = absl::StatusOr<std::unique_ptr<const Statement>>;

  std::unique_ptr<Statement> New(Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = tokens_.line();
    return statement;
  }

  // Up to a tag that begins with one of `ends`, whose word is next then; or to the end, if there are none.
  absl::StatusOr<Block> Statements(EndWords ends) {
    const Nesting nesting(&depth_);
    CLAMOR_RETURN_IF_ERROR(nesting.Check(tokens_.line()));
    Block block;
    while (tokens_.Peek().kind != Token::Kind::kEnd) {
      if (tokens_.Peek().kind == Token::Kind::kText) {
        auto text = New(Kind::kText);
        text->name = tokens_.Next().text;
        block.push_back(std::move(text));
      } else if (tokens_.Peek().kind == Token::Kind::kPrintBegin) {
        CLAMOR_ASSIGN_OR_RETURN(block.emplace_back(), Print());
      } else {
        CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kBlockBegin, "a tag"));
        const auto is_next = [this](std::string_view word) { return tokens_.IsWord(word); };
        if (std::any_of(ends.begin(), ends.end(), is_next)) return block;
        CLAMOR_ASSIGN_OR_RETURN(block.emplace_back(), Tag());
      }
    }
    if (ends.size() > 0) return tokens_.Unexpected(*(ends.end() - 1));
    return block;
  }

  absl::Status EndTag() { return tokens_.Expect(Token::Kind::kBlockEnd, "%}"); }

  // The rest of a tag's line, the block under it and its end tag.
  absl::StatusOr<Block> Body(std::string_view end) {
    CLAMOR_RETURN_IF_ERROR(EndTag());
    CLAMOR_ASSIGN_OR_RETURN(Block block, Statements({end}));
    tokens_.Next();
    CLAMOR_RETURN_IF_ERROR(EndTag());
    return block;
  }

  // Likewise where the block is a function of its own, out of which no break leads.
  absl::StatusOr<Block> FunctionBody(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    absl::StatusOr<Block> block = Body(end);
    loops_ = loops;
    return block;
  }

  Made Print() {
    auto print = New(Kind::kPrint);
    tokens_.Next();
    CLAMOR_ASSIGN_OR_RETURN(print->exprs.emplace_back(), expressions_.ExpressionOrTuple());
    CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kPrintEnd, "}}"));
    return print;
  }

  Made Tag() {
    const Token word = tokens_.Peek();
    CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kName, "a statement"));
    if (word.text == "if") return If();
    if (word.text == "for") return For();
    if (word.text == "set") return Set();
    if (word.text == "macro") return Macro();
    if (word.text == "call") return CallBlock();
    if (word.text == "filter") return FilterBlock();
    if (word.text == "with") return With();
    if (word.text == "generation") return Generation();
    if (word.text == "break") return Jump(Kind::kBreak);
    if (word.text == "continue") return Jump(Kind::kContinue);
    return ErrorAt(word.line,
                   absl::StrCat("statement '", word.text.substr(0, 40), "' is not supported here"));
  }

  Made If() {
    auto choice = New(Kind::kIf);
    do {
      CLAMOR_ASSIGN_OR_RETURN(choice->exprs.emplace_back(),
                              expressions_.ExpressionOrTuple(/*conditional=*/false));
      CLAMOR_RETURN_IF_ERROR(EndTag());
      CLAMOR_ASSIGN_OR_RETURN(choice->blocks.emplace_back(), Statements({"elif", "else", "endif"}));
    } while (tokens_.TakeWord("elif"));
    if (tokens_.TakeWord("else")) {
      CLAMOR_RETURN_IF_ERROR(EndTag());
      CLAMOR_ASSIGN_OR_RETURN(choice->blocks.emplace_back(), Statements({"endif"}));
    }
    CLAMOR_RETURN_IF_ERROR(tokens_.ExpectWord("endif"));
    CLAMOR_RETURN_IF_ERROR(EndTag());
    return choice;
  }

  Made For() {
    auto loop = New(Kind::kFor);
    CLAMOR_ASSIGN_OR_RETURN(loop->target, expressions_.Target(/*with_attribute=*/false));
    CLAMOR_RETURN_IF_ERROR(tokens_.ExpectWord("in"));
    CLAMOR_ASSIGN_OR_RETURN(loop->exprs.emplace_back(),
                            expressions_.ExpressionOrTuple(/*conditional=*/false));
    loop->exprs.emplace_back();
    if (tokens_.TakeWord("if")) {
      CLAMOR_ASSIGN_OR_RETURN(loop->exprs.back(), expressions_.Expression());
    }
    CLAMOR_RETURN_IF_ERROR(EndTag());
    ++loops_;
    absl::StatusOr<Block> body = Statements({"else", "endfor"});
    --loops_;
    CLAMOR_RETURN_IF_ERROR(body.status());
    loop->blocks.push_back(*std::move(body));
    loop->blocks.emplace_back();
    if (tokens_.TakeWord("else")) {
      CLAMOR_RETURN_IF_ERROR(EndTag());
      CLAMOR_ASSIGN_OR_RETURN(loop->blocks.back(), Statements({"endfor"}));
    }
    CLAMOR_RETURN_IF_ERROR(tokens_.ExpectWord("endfor"));
    CLAMOR_RETURN_IF_ERROR(EndTag());
    return loop;
  }

  Made Set() {
    auto set = New(Kind::kSet);
    CLAMOR_ASSIGN_OR_RETURN(set->target, expressions_.Target(/*with_attribute=*/true));
    if (tokens_.TakeOp("=")) {
      CLAMOR_ASSIGN_OR_RETURN(set->exprs.emplace_back(), expressions_.ExpressionOrTuple());
      CLAMOR_RETURN_IF_ERROR(EndTag());
      return set;
    }
    set->kind = Kind::kSetBlock;
    set->exprs.emplace_back();
    if (tokens_.IsOp("|")) {
      CLAMOR_ASSIGN_OR_RETURN(set->exprs.back(), expressions_.FilterChain(kBlockText));
    }
    CLAMOR_ASSIGN_OR_RETURN(set->blocks.emplace_back(), Body("endset"));
    return set;
  }

  Made Macro() {
    auto macro = New(Kind::kMacro);
    macro->name = tokens_.Peek().text;
    CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kName, "the name of a macro"));
    CLAMOR_RETURN_IF_ERROR(expressions_.Parameters(&macro->params, &macro->exprs));
    CLAMOR_ASSIGN_OR_RETURN(macro->blocks.emplace_back(), FunctionBody("endmacro"));
    return macro;
  }

  Made CallBlock() {
    auto call = New(Kind::kCallBlock);
    std::vector<ExprPtr> defaults;
    if (tokens_.IsOp("(")) CLAMOR_RETURN_IF_ERROR(expressions_.Parameters(&call->params, &defaults));
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr callee, expressions_.Expression());
    if (callee->kind != Expr::Kind::kCall) return ErrorAt(call->line, "call without a call");
    call->exprs.push_back(std::move(callee));
    for (ExprPtr& fallback : defaults) call->exprs.push_back(std::move(fallback));
    CLAMOR_ASSIGN_OR_RETURN(call->blocks.emplace_back(), FunctionBody("endcall"));
    return call;
  }

  Made FilterBlock() {
    auto filter = New(Kind::kFilterBlock);
    CLAMOR_ASSIGN_OR_RETURN(filter->exprs.emplace_back(), expressions_.FilterChain(kBlockText));
    CLAMOR_ASSIGN_OR_RETURN(filter->blocks.emplace_back(), Body("endfilter"));
    return filter;
  }

  Made With() {
    auto with = New(Kind::kWith);
    while (tokens_.Peek().kind == Token::Kind::kName) {
      with->params.push_back(tokens_.Next().text);
      CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("="));
      CLAMOR_ASSIGN_OR_RETURN(with->exprs.emplace_back(), expressions_.Expression());
      if (!tokens_.TakeOp(",")) break;
    }
    CLAMOR_ASSIGN_OR_RETURN(with->blocks.emplace_back(), Body("endwith"));
    return with;
  }

  // Marks what the assistant says, for training masks; here it is only a block.
  Made Generation() {
    auto generation = New(Kind::kWith);
    CLAMOR_ASSIGN_OR_RETURN(generation->blocks.emplace_back(), FunctionBody("endgeneration"));
    return generation;
  }

  Made Jump(Kind kind) {
    auto jump = New(kind);
    if (loops_ == 0) return ErrorAt(jump->line, "break or continue outside of a loop");
    CLAMOR_RETURN_IF_ERROR(EndTag());
    return jump;
  }

  TokenStream tokens_;
  int depth_ = 0;
  int loops_ = 0;  // around this place
  ExpressionParser expressions_;
  Template& result_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Template>> Parse(std::string_view source) {
  CLAMOR_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  auto result = std::make_unique<Template>();
  CLAMOR_RETURN_IF_ERROR(Parser(std::move(tokens), result.get()).Run());
  return std::unique_ptr<const Template>(std::move(result));
}

}  // namespace clamor::jinja
