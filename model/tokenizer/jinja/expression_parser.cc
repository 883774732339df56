// Over 400 lines, for it is one recursion: a function for each level of the grammar, in the order in which
// they bind.
#include "model/tokenizer/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "absl/strings/numbers.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/filters.h"
#include "model/tokenizer/jinja/predicates.h"

namespace clamor::jinja {
namespace {

using Kind = Expr::Kind;

// Binary operators from weak to strong.
constexpr size_t kLevels = 4;
constexpr std::string_view kOperators[kLevels][4] = {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}};

bool IsReserved(std::string_view name) {
  constexpr std::string_view kReserved[] = {"and", "else", "if", "in", "is", "not", "or"};
  return std::find(std::begin(kReserved), std::end(kReserved), name) != std::end(kReserved);
}

}  // namespace

std::unique_ptr<Expr> ExpressionParser::New(Kind kind, ExprPtr first) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = tokens_.line();
  if (first != nullptr) expr->args.push_back(std::move(first));
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Made(std::unique_ptr<Expr> expr) {
  for (const ExprPtr& arg : expr->args)
    expr->depth = std::max(expr->depth, arg == nullptr ? 0 : arg->depth + 1);
  for (const auto& [name, arg] : expr->named) expr->depth = std::max(expr->depth, arg->depth + 1);
  if (expr->depth > kMaxExprDepth) {
    return ErrorAt(expr->line, absl::StrCat("an expression of more than ", kMaxExprDepth, " levels"));
  }
  return ExprPtr(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Binary(Kind kind, std::string name, ExprPtr left, ExprPtr right) {
  auto expr = New(kind, std::move(left));
  expr->name = std::move(name);
  expr->args.push_back(std::move(right));
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Literal(Value value) {
  auto expr = New(Kind::kConst);
  expr->value = value;
  return Made(std::move(expr));
}

ExprPtr ExpressionParser::Name(std::string name) const {
  auto expr = New(Kind::kName);
  expr->name = std::move(name);
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Expression(bool conditional) {
  const Nesting nesting(depth_);
  CLAMOR_RETURN_IF_ERROR(nesting.Check(tokens_.line()));
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr expr, Or());
  while (conditional && tokens_.TakeWord("if")) {
    auto choice = New(Kind::kConditional);
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr condition, Or());
    choice->args.push_back(std::move(condition));
    choice->args.push_back(std::move(expr));
    choice->args.push_back(nullptr);
    if (tokens_.TakeWord("else")) {
      CLAMOR_ASSIGN_OR_RETURN(choice->args.back(), Expression());
    }
    CLAMOR_ASSIGN_OR_RETURN(expr, Made(std::move(choice)));
  }
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ExpressionOrTuple(bool conditional) {
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr first, Expression(conditional));
  if (!tokens_.IsOp(",")) return first;
  auto tuple = New(Kind::kTuple, std::move(first));
  while (tokens_.TakeOp(",")) {
    const Token::Kind next = tokens_.Peek().kind;
    if (next == Token::Kind::kBlockEnd || next == Token::Kind::kPrintEnd || tokens_.IsOp(")")) break;
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr item, Expression(conditional));
    tuple->args.push_back(std::move(item));
  }
  return Made(std::move(tuple));
}

absl::StatusOr<ExprPtr> ExpressionParser::Or() {
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr left, And());
  while (tokens_.TakeWord("or")) {
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr right, And());
    CLAMOR_ASSIGN_OR_RETURN(left, Binary(Kind::kOr, "", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::And() {
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (tokens_.TakeWord("and")) {
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr right, Not());
    CLAMOR_ASSIGN_OR_RETURN(left, Binary(Kind::kAnd, "", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::Not() {
  if (!tokens_.TakeWord("not")) return Comparison();
  const Nesting nesting(depth_);
  CLAMOR_RETURN_IF_ERROR(nesting.Check(tokens_.line()));
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr operand, Not());
  return Made(New(Kind::kNot, std::move(operand)));
}

absl::StatusOr<ExprPtr> ExpressionParser::Comparison() {
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr left, Arithmetic(0));
  auto comparison = New(Kind::kComparison);
  const auto take_operator = [&]() -> std::string {
    for (const char* op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (tokens_.TakeOp(op)) return op;
    }
    if (tokens_.TakeWord("in")) return "in";
    if (!tokens_.IsWord("not") || !tokens_.IsWord("in", 1)) return "";
    tokens_.Next();
    tokens_.Next();
    return "not in";
  };
  for (std::string op = take_operator(); !op.empty(); op = take_operator()) {
    comparison->ops.push_back(op);
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr right, Arithmetic(0));
    if (comparison->args.empty()) comparison->args.push_back(std::move(left));
    comparison->args.push_back(std::move(right));
  }
  return comparison->args.empty() ? Result(std::move(left)) : Made(std::move(comparison));
}

absl::StatusOr<ExprPtr> ExpressionParser::Arithmetic(size_t level) {
  if (level == kLevels) return Unary(/*with_filters=*/true);
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr left, Arithmetic(level + 1));
  while (true) {
    const auto op = std::find_if(
        std::begin(kOperators[level]), std::end(kOperators[level]),
        [&](std::string_view candidate) { return !candidate.empty() && tokens_.TakeOp(candidate); });
    if (op == std::end(kOperators[level])) return left;
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr right, Arithmetic(level + 1));
    CLAMOR_ASSIGN_OR_RETURN(left,
                            Binary(Kind::kArithmetic, std::string(*op), std::move(left), std::move(right)));
  }
}

// A sign binds tighter than a filter: -1 | abs is 1.
absl::StatusOr<ExprPtr> ExpressionParser::Unary(bool with_filters) {
  ExprPtr expr;
  const bool negative = tokens_.IsOp("-");
  if (negative || tokens_.IsOp("+")) {
    const Nesting nesting(depth_);
    CLAMOR_RETURN_IF_ERROR(nesting.Check(tokens_.line()));
    tokens_.Next();
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr operand, Unary(/*with_filters=*/false));
    CLAMOR_ASSIGN_OR_RETURN(expr,
                            Made(New(negative ? Kind::kNegative : Kind::kPositive, std::move(operand))));
  } else {
    CLAMOR_ASSIGN_OR_RETURN(expr, Primary());
  }
  CLAMOR_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
  while (with_filters) {
    if (tokens_.IsOp("|")) {
      CLAMOR_ASSIGN_OR_RETURN(expr, Filter(std::move(expr)));
    } else if (tokens_.IsWord("is")) {
      CLAMOR_ASSIGN_OR_RETURN(expr, Test(std::move(expr)));
    } else if (tokens_.IsOp("(")) {
      CLAMOR_ASSIGN_OR_RETURN(expr, Call(std::move(expr)));
    } else {
      break;
    }
  }
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Primary() {
  if (tokens_.IsOp("(")) return Parenthesized();
  if (tokens_.IsOp("[")) return ListLiteral();
  if (tokens_.IsOp("{")) return DictLiteral();
  const Token token = tokens_.Peek();
  switch (token.kind) {
    case Token::Kind::kString: {
      std::string text;  // strings side by side are one
      while (tokens_.Peek().kind == Token::Kind::kString) text += tokens_.Next().text;
      return Literal(constants_.String(std::move(text)));
    }
    case Token::Kind::kInteger: {
      int64_t number = 0;
      if (!absl::SimpleAtoi(token.text, &number))
        return ErrorAt(token.line, absl::StrCat("integer ", token.text));
      tokens_.Next();
      return Literal(Value::Int(number));
    }
    case Token::Kind::kFloat: {
      double number = 0;
      if (!absl::SimpleAtod(token.text, &number))
        return ErrorAt(token.line, absl::StrCat("number ", token.text));
      tokens_.Next();
      return Literal(Value::Float(number));
    }
    case Token::Kind::kName:
      if (IsReserved(token.text)) break;
      tokens_.Next();
      if (token.text == "true" || token.text == "True") return Literal(Value::Bool(true));
      if (token.text == "false" || token.text == "False") return Literal(Value::Bool(false));
      if (token.text == "none" || token.text == "None") return Literal(Value::None());
      return Name(token.text);
    default:
      break;
  }
  return tokens_.Unexpected("an expression");
}

absl::StatusOr<ExprPtr> ExpressionParser::Postfix(ExprPtr expr) {
  while (true) {
    if (tokens_.IsOp(".") || tokens_.IsOp("[")) {
      CLAMOR_ASSIGN_OR_RETURN(expr, Subscript(std::move(expr)));
    } else if (tokens_.IsOp("(")) {
      CLAMOR_ASSIGN_OR_RETURN(expr, Call(std::move(expr)));
    } else {
      return expr;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Subscript(ExprPtr expr) {
  if (tokens_.TakeOp(".")) {
    const Token token = tokens_.Peek();
    if (token.kind == Token::Kind::kName) {
      auto attribute = New(Kind::kAttribute, std::move(expr));
      attribute->name = tokens_.Next().text;
      return Made(std::move(attribute));
    }
    if (token.kind != Token::Kind::kInteger) return tokens_.Unexpected("a name");
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr index, Primary());
    return Binary(Kind::kItem, "", std::move(expr), std::move(index));
  }
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("["));
  std::vector<ExprPtr> bounds(1);
  if (!tokens_.IsOp(":")) {
    CLAMOR_ASSIGN_OR_RETURN(bounds[0], Expression());
  }
  while (bounds.size() < 3 && tokens_.TakeOp(":")) {
    bounds.emplace_back();
    if (tokens_.IsOp(":") || tokens_.IsOp("]")) continue;
    CLAMOR_ASSIGN_OR_RETURN(bounds.back(), Expression());
  }
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("]"));
  if (bounds.size() == 1) return Binary(Kind::kItem, "", std::move(expr), std::move(bounds[0]));
  bounds.resize(3);
  auto slice = New(Kind::kSlice, std::move(expr));
  for (ExprPtr& bound : bounds) slice->args.push_back(std::move(bound));
  return Made(std::move(slice));
}

absl::StatusOr<ExprPtr> ExpressionParser::Call(ExprPtr callee) {
  auto call = New(Kind::kCall, std::move(callee));
  CLAMOR_RETURN_IF_ERROR(Arguments(call.get()));
  return Made(std::move(call));
}

absl::Status ExpressionParser::Arguments(Expr* call) {
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("("));
  bool first = true;
  while (!tokens_.TakeOp(")")) {
    if (!first) CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp(","));
    first = false;
    if (tokens_.TakeOp(")")) break;
    if (tokens_.IsOp("*") || tokens_.IsOp("**"))
      return tokens_.Unexpected("an argument; * and ** are not supported");
    const bool named =
        tokens_.Peek().kind == Token::Kind::kName && tokens_.Is(Token::Kind::kOperator, "=", 1);
    if (named) {
      std::string name = tokens_.Next().text;
      tokens_.Next();
      CLAMOR_ASSIGN_OR_RETURN(ExprPtr value, Expression());
      call->named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call->named.empty()) return tokens_.Unexpected("a named argument");
      CLAMOR_ASSIGN_OR_RETURN(ExprPtr value, Expression());
      call->args.push_back(std::move(value));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> ExpressionParser::FilterChain(std::string input) {
  ExprPtr expr = Name(std::move(input));
  do {
    CLAMOR_ASSIGN_OR_RETURN(expr, Filter(std::move(expr)));
  } while (tokens_.IsOp("|"));
  return expr;
}

// At "| name", or for {% filter name %} at the name itself.
absl::StatusOr<ExprPtr> ExpressionParser::Filter(ExprPtr input) {
  tokens_.TakeOp("|");
  const Token token = tokens_.Peek();
  CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kName, "the name of a filter"));
  auto filter = New(Kind::kFilter, std::move(input));
  filter->name = token.text;
  filter->builtin = FindFilter(token.text);
  if (filter->builtin == nullptr)
    return ErrorAt(token.line, absl::StrCat("filter '", token.text, "' is not supported"));
  if (tokens_.IsOp("(")) CLAMOR_RETURN_IF_ERROR(Arguments(filter.get()));
  return Made(std::move(filter));
}

absl::StatusOr<ExprPtr> ExpressionParser::Test(ExprPtr input) {
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectWord("is"));
  const bool negated = tokens_.TakeWord("not");
  const Token token = tokens_.Peek();
  CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kName, "the name of a test"));
  auto test = New(Kind::kTest, std::move(input));
  test->name = token.text;
  test->builtin = FindTest(token.text);
  if (test->builtin == nullptr)
    return ErrorAt(token.line, absl::StrCat("test '", token.text, "' is not supported"));
  if (tokens_.IsOp("(")) {
    CLAMOR_RETURN_IF_ERROR(Arguments(test.get()));
  } else {  // one argument may stand without parentheses
    const Token& next = tokens_.Peek();
    const bool literal = next.kind == Token::Kind::kString || next.kind == Token::Kind::kInteger ||
                         next.kind == Token::Kind::kFloat || tokens_.IsOp("[") || tokens_.IsOp("{");
    const bool name = next.kind == Token::Kind::kName && !IsReserved(next.text);
    if (literal || name) {
      CLAMOR_ASSIGN_OR_RETURN(ExprPtr arg, Primary());
      CLAMOR_ASSIGN_OR_RETURN(arg, Postfix(std::move(arg)));
      test->args.push_back(std::move(arg));
    }
  }
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr made, Made(std::move(test)));
  return negated ? Made(New(Kind::kNot, std::move(made))) : Result(std::move(made));
}

absl::StatusOr<ExprPtr> ExpressionParser::Parenthesized() {
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("("));
  if (tokens_.TakeOp(")")) return Made(New(Kind::kTuple));
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr inner, ExpressionOrTuple());
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp(")"));
  return inner;
}

absl::StatusOr<ExprPtr> ExpressionParser::ListLiteral() {
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("["));
  auto list = New(Kind::kList);
  while (!tokens_.TakeOp("]")) {
    if (!list->args.empty()) CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp(","));
    if (tokens_.TakeOp("]")) break;
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    list->args.push_back(std::move(item));
  }
  return Made(std::move(list));
}

absl::StatusOr<ExprPtr> ExpressionParser::DictLiteral() {
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("{"));
  auto dict = New(Kind::kDict);
  while (!tokens_.TakeOp("}")) {
    if (!dict->args.empty()) CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp(","));
    if (tokens_.TakeOp("}")) break;
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr key, Expression());
    CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp(":"));
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    dict->args.push_back(std::move(key));
    dict->args.push_back(std::move(value));
  }
  return Made(std::move(dict));
}

absl::StatusOr<ExprPtr> ExpressionParser::Target(bool with_attribute) {
  CLAMOR_ASSIGN_OR_RETURN(ExprPtr first, OneTarget(with_attribute));
  if (!tokens_.IsOp(",")) return first;
  auto tuple = New(Kind::kTuple, std::move(first));
  while (tokens_.TakeOp(",") && (tokens_.Peek().kind == Token::Kind::kName || tokens_.IsOp("("))) {
    if (tokens_.IsWord("in")) break;
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr target, OneTarget(with_attribute));
    tuple->args.push_back(std::move(target));
  }
  return Made(std::move(tuple));
}

absl::StatusOr<ExprPtr> ExpressionParser::OneTarget(bool with_attribute) {
  const Nesting nesting(depth_);
  CLAMOR_RETURN_IF_ERROR(nesting.Check(tokens_.line()));
  if (tokens_.TakeOp("(")) {
    CLAMOR_ASSIGN_OR_RETURN(ExprPtr inner, Target(with_attribute));
    CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp(")"));
    return inner;
  }
  const Token token = tokens_.Peek();
  if (token.kind != Token::Kind::kName || IsReserved(token.text))
    return tokens_.Unexpected("a name to assign to");
  tokens_.Next();
  ExprPtr name = Name(token.text);
  if (!with_attribute || !tokens_.TakeOp(".")) return name;
  auto attribute = New(Kind::kAttribute, std::move(name));
  attribute->name = tokens_.Peek().text;
  CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kName, "a name"));
  return Made(std::move(attribute));
}

absl::Status ExpressionParser::Parameters(std::vector<std::string>* names, std::vector<ExprPtr>* defaults) {
  CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp("("));
  while (!tokens_.TakeOp(")")) {
    if (!names->empty()) CLAMOR_RETURN_IF_ERROR(tokens_.ExpectOp(","));
    if (tokens_.TakeOp(")")) break;
    names->push_back(tokens_.Peek().text);
    CLAMOR_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kName, "the name of a parameter"));
    defaults->emplace_back();
    if (tokens_.TakeOp("=")) {
      CLAMOR_ASSIGN_OR_RETURN(defaults->back(), Expression());
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor::jinja
