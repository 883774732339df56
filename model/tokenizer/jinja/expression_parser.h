// The expression half of the parser. Operators bind as in Jinja2, from weak to strong:
//   x if y else z | or | and | not | comparisons, in | + - | ~ | * / // % | ** | unary + - | . [] () |
//   filters, tests
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/jinja/ast.h"
#include "model/tokenizer/jinja/token_stream.h"

namespace clamor::jinja {

class ExpressionParser {
 public:
  // All outlive this.
  ExpressionParser(TokenStream* tokens, Arena* constants, int* depth)
      : tokens_(*tokens), constants_(*constants), depth_(depth) {}

  // One expression; without `conditional` it ends before an `if`.
  absl::StatusOr<ExprPtr> Expression(bool conditional = true);
  // One expression, or several with commas: a tuple.
  absl::StatusOr<ExprPtr> ExpressionOrTuple(bool conditional = true);
  // Names to assign to; `with_attribute`: one may be name.attribute.
  absl::StatusOr<ExprPtr> Target(bool with_attribute);
  // "name(..) | name(..)" applied to the variable `input`; a bar before the first name may be there or not.
  absl::StatusOr<ExprPtr> FilterChain(std::string input);
  // "(name, name=default, ...)": the defaults are null where there are none.
  absl::Status Parameters(std::vector<std::string>* names, std::vector<ExprPtr>* defaults);

 private:
  using Result = absl::StatusOr<ExprPtr>;

  Result Or();
  Result And();
  Result Not();
  Result Comparison();
  Result Arithmetic(size_t level);
  Result Unary(bool with_filters);
  Result Primary();
  Result Postfix(ExprPtr expr);
  Result Subscript(ExprPtr expr);
  Result Call(ExprPtr callee);
  Result Filter(ExprPtr input);
  Result Test(ExprPtr input);
  Result Parenthesized();
  Result ListLiteral();
  Result DictLiteral();
  Result OneTarget(bool with_attribute);
  absl::Status Arguments(Expr* call);

  Result Literal(Value value);
  ExprPtr Name(std::string name) const;
  // Finishes `expr`: its depth, and the refusal of trees that are too deep.
  static Result Made(std::unique_ptr<Expr> expr);
  Result Binary(Expr::Kind kind, std::string name, ExprPtr left, ExprPtr right);
  std::unique_ptr<Expr> New(Expr::Kind kind, ExprPtr first = nullptr) const;

  TokenStream& tokens_;
  Arena& constants_;
  int* depth_;
};

}  // namespace clamor::jinja
