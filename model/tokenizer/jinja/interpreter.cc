// Over 400 lines, for it is one recursion: statements evaluate expressions, and calls of macros execute
// statements.
#include "model/tokenizer/jinja/interpreter.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/print.h"
#include "model/tokenizer/jinja/subscript.h"

namespace clamor::jinja {
namespace {

using Result = absl::StatusOr<Value>;

constexpr int kMaxRecursion = 600;  // of statements and expressions in each other, macros among them

class Interpreter {
 public:
  Interpreter(Scope* globals, Arena* arena) : arena_(*arena), scope_(globals) {
    globals->Set("raise_exception",
                 arena_.NewFunction({"raise_exception", [this](const Args& args) { return Raise(args); }}));
  }

  absl::StatusOr<MarkedText> Run(const Template& source) {
    MarkedText text;
    out_ = &text;
    const absl::Status status = Execute(source.body).status();
    if (status.ok()) return text;
    if (raised_) return status;
    return absl::Status(status.code(),
                        absl::StrCat("chat template line ", error_line_, ": ", status.message()));
  }

 private:
  enum class Flow { kNext, kBreak, kContinue };

  Result Raise(const Args& args) {
    MarkedText message;
    if (!args.positional.empty()) CLAMOR_RETURN_IF_ERROR(AppendStr(args.positional[0], &message));
    raised_ = true;
    return absl::InvalidArgumentError(message.text());
  }

  // Counts the recursion that a visit of a node at `line` is, and remembers the line of the first error.
  template <typename Visit>
  auto Within(int line, Visit visit) -> decltype(visit()) {
    absl::Status allowed = arena_.Spend(1);
    if (allowed.ok() && depth_ >= kMaxRecursion) {
      allowed =
          absl::ResourceExhaustedError(absl::StrCat("recursion deeper than ", kMaxRecursion, " levels"));
    }
    ++depth_;
    decltype(visit()) result = allowed.ok() ? visit() : decltype(visit())(allowed);
    --depth_;
    if (!result.ok() && error_line_ == 0) error_line_ = line;
    return result;
  }

  // --- Statements

  absl::StatusOr<Flow> Execute(const Block& block) {
    for (const auto& statement : block) {
      CLAMOR_ASSIGN_OR_RETURN(const Flow flow,
                              Within(statement->line, [&] { return ExecuteOne(*statement); }));
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> ExecuteOne(const Statement& statement) {
    switch (statement.kind) {
      case Statement::Kind::kText:
        out_->Append(statement.name);
        return CheckOutput();
      case Statement::Kind::kPrint:
        return Print(statement);
      case Statement::Kind::kIf:
        return If(statement);
      case Statement::Kind::kFor:
        return For(statement);
      case Statement::Kind::kSet:
        return Set(statement);
      case Statement::Kind::kSetBlock:
        return SetBlock(statement);
      case Statement::Kind::kFilterBlock:
        return FilterBlock(statement);
      case Statement::Kind::kMacro:
        return Macro(statement);
      case Statement::Kind::kCallBlock:
        return CallBlock(statement);
      case Statement::Kind::kWith:
        return With(statement);
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> CheckOutput() {
    CLAMOR_RETURN_IF_ERROR(CheckStringSize(out_->size()));
    return Flow::kNext;
  }

  absl::StatusOr<Flow> Print(const Statement& statement) {
    CLAMOR_ASSIGN_OR_RETURN(const Value value, Eval(*statement.exprs[0]));
    CLAMOR_RETURN_IF_ERROR(AppendStr(value, out_));
    return CheckOutput();
  }

  absl::StatusOr<Flow> If(const Statement& statement) {
    for (size_t i = 0; i < statement.exprs.size(); ++i) {
      CLAMOR_ASSIGN_OR_RETURN(const Value condition, Eval(*statement.exprs[i]));
      if (Truthy(condition)) return Execute(statement.blocks[i]);
    }
    if (statement.blocks.size() > statement.exprs.size()) return Execute(statement.blocks.back());
    return Flow::kNext;
  }

  // Runs `block` in a scope of its own under `parent`, after `prepare` has set its variables.
  template <typename Prepare>
  absl::StatusOr<Flow> ExecuteIn(Scope* parent, const Block& block, Prepare prepare) {
    Scope* const outer = std::exchange(scope_, arena_.NewScope(parent));
    absl::Status prepared = prepare();
    absl::StatusOr<Flow> flow = prepared.ok() ? Execute(block) : absl::StatusOr<Flow>(prepared);
    scope_ = outer;
    return flow;
  }

  // Likewise, with what it writes as text.
  template <typename Prepare>
  absl::StatusOr<std::pair<Flow, Value>> Capture(Scope* parent, const Block& block, Prepare prepare) {
    MarkedText text;
    MarkedText* const outer = std::exchange(out_, &text);
    absl::StatusOr<Flow> flow = ExecuteIn(parent, block, prepare);
    out_ = outer;
    CLAMOR_RETURN_IF_ERROR(flow.status());
    return std::pair(*flow, arena_.String(std::move(text)));
  }

  static absl::Status Nothing() { return absl::OkStatus(); }

  // The items of a loop that its condition lets through.
  absl::StatusOr<std::vector<Value>> LoopItems(const Statement& statement) {
    CLAMOR_ASSIGN_OR_RETURN(const Value iterable, Eval(*statement.exprs[0]));
    CLAMOR_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(iterable, &arena_));
    if (statement.exprs[1] == nullptr) return items;
    std::vector<Value> kept;
    for (const Value& item : items) {
      Scope* const outer = std::exchange(scope_, arena_.NewScope(scope_));
      absl::Status assigned = Assign(*statement.target, item);
      Result condition = assigned.ok() ? Eval(*statement.exprs[1]) : Result(assigned);
      scope_ = outer;
      CLAMOR_RETURN_IF_ERROR(condition.status());
      if (Truthy(*condition)) kept.push_back(item);
    }
    return kept;
  }

  absl::StatusOr<Flow> For(const Statement& statement) {
    CLAMOR_ASSIGN_OR_RETURN(std::vector<Value> found, LoopItems(statement));
    if (found.empty()) return ExecuteIn(scope_, statement.blocks[1], Nothing);
    const Value list = arena_.NewList(std::move(found));
    Loop* loop = nullptr;
    const Value variable = arena_.NewLoop(&loop);
    *loop = {&list.list->items, 0, ++loop_depth_};
    absl::StatusOr<Flow> flow = Flow::kNext;
    for (; loop->index0 < loop->items->size() && flow.ok() && *flow != Flow::kBreak; ++loop->index0) {
      flow = ExecuteIn(scope_, statement.blocks[0], [&] {
        scope_->Set("loop", variable);
        return Assign(*statement.target, (*loop->items)[loop->index0]);
      });
    }
    --loop_depth_;
    CLAMOR_RETURN_IF_ERROR(flow.status());
    return Flow::kNext;
  }

  absl::StatusOr<Flow> Set(const Statement& statement) {
    CLAMOR_ASSIGN_OR_RETURN(const Value value, Eval(*statement.exprs[0]));
    CLAMOR_RETURN_IF_ERROR(Assign(*statement.target, value));
    return Flow::kNext;
  }

  absl::StatusOr<Flow> SetBlock(const Statement& statement) {
    CLAMOR_ASSIGN_OR_RETURN(const auto captured, Capture(scope_, statement.blocks[0], Nothing));
    if (captured.first != Flow::kNext) return captured.first;
    Value value = captured.second;
    if (statement.exprs[0] != nullptr) {
      CLAMOR_ASSIGN_OR_RETURN(value, FilterText(*statement.exprs[0], value));
    }
    CLAMOR_RETURN_IF_ERROR(Assign(*statement.target, value));
    return Flow::kNext;
  }

  absl::StatusOr<Flow> FilterBlock(const Statement& statement) {
    CLAMOR_ASSIGN_OR_RETURN(const auto captured, Capture(scope_, statement.blocks[0], Nothing));
    if (captured.first != Flow::kNext) return captured.first;
    CLAMOR_ASSIGN_OR_RETURN(const Value value, FilterText(*statement.exprs[0], captured.second));
    CLAMOR_RETURN_IF_ERROR(AppendStr(value, out_));
    return CheckOutput();
  }

  // `filters` over the text of a block.
  Result FilterText(const Expr& filters, const Value& text) {
    Scope* const outer = std::exchange(scope_, arena_.NewScope(scope_));
    scope_->Set(kBlockText, text);
    Result result = Eval(filters);
    scope_ = outer;
    return result;
  }

  absl::StatusOr<Flow> Macro(const Statement& statement) {
    scope_->Set(statement.name, MakeFunction(statement.name, statement, 0));
    return Flow::kNext;
  }

  // {% call(x) f() %}: f is given the block as the function `caller`.
  absl::StatusOr<Flow> CallBlock(const Statement& statement) {
    const Expr& call = *statement.exprs[0];
    CLAMOR_ASSIGN_OR_RETURN(const Value callee, Eval(*call.args[0]));
    CLAMOR_ASSIGN_OR_RETURN(Args args, Arguments(call));
    args.named.emplace_back("caller", MakeFunction("caller", statement, 1));
    CLAMOR_ASSIGN_OR_RETURN(const Value value, Invoke(callee, args));
    CLAMOR_RETURN_IF_ERROR(AppendStr(value, out_));
    return CheckOutput();
  }

  absl::StatusOr<Flow> With(const Statement& statement) {
    std::vector<Value> values;
    for (const ExprPtr& expr : statement.exprs) {
      CLAMOR_ASSIGN_OR_RETURN(values.emplace_back(), Eval(*expr));
    }
    return ExecuteIn(scope_, statement.blocks[0], [&] {
      for (size_t i = 0; i < values.size(); ++i) scope_->Set(statement.params[i], values[i]);
      return absl::OkStatus();
    });
  }

  // The block of `statement` as a function of its parameters, in the scope it is defined in. The default of
  // parameter i is expression `first_default` + i.
  Value MakeFunction(const std::string& name, const Statement& statement, size_t first_default) {
    return arena_.NewFunction(
        {name, [this, name, &statement, first_default, scope = scope_](const Args& args) -> Result {
           CLAMOR_ASSIGN_OR_RETURN(const auto captured, Capture(scope, statement.blocks[0], [&] {
                                     return SetParameters(name, statement, first_default, args);
                                   }));
           return captured.second;
         }});
  }

  absl::Status SetParameters(const std::string& name, const Statement& statement, size_t first_default,
                             const Args& args) {
    const auto& params = statement.params;
    if (args.positional.size() > params.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("macro '", name, "' takes not more than ", params.size(), " argument(s)"));
    }
    for (size_t i = 0; i < args.positional.size(); ++i) scope_->Set(params[i], args.positional[i]);
    for (const auto& [key, value] : args.named) {
      const bool known = key == "caller" || std::find(params.begin(), params.end(), key) != params.end();
      if (!known) {
        return absl::InvalidArgumentError(
            absl::StrCat("macro '", name, "' takes no keyword argument '", std::string(key), "'"));
      }
      scope_->Set(key, value);
    }
    for (size_t i = args.positional.size(); i < params.size(); ++i) {
      const bool given = std::any_of(args.named.begin(), args.named.end(),
                                     [&](const auto& arg) { return arg.first == params[i]; });
      if (given) continue;
      const Expr* fallback = statement.exprs[first_default + i].get();
      if (fallback == nullptr) {
        scope_->Set(params[i],
                    arena_.Undefined(absl::StrCat("parameter '", params[i], "' was not provided")));
        continue;
      }
      CLAMOR_ASSIGN_OR_RETURN(const Value value, Eval(*fallback));
      scope_->Set(params[i], value);
    }
    return absl::OkStatus();
  }

  absl::Status Assign(const Expr& target, const Value& value) {
    if (target.kind == Expr::Kind::kName) {
      scope_->Set(target.name, value);
      return absl::OkStatus();
    }
    if (target.kind == Expr::Kind::kAttribute) {
      const Value* owner = scope_->Find(target.args[0]->name);
      if (owner == nullptr || !owner->Is(Value::Kind::kNamespace)) {
        return absl::InvalidArgumentError("cannot assign attribute on non-namespace object");
      }
      owner->fields->Set(arena_.String(target.name), value);
      return absl::OkStatus();
    }
    CLAMOR_ASSIGN_OR_RETURN(const std::vector<Value> parts, Iterate(value, &arena_));
    if (parts.size() != target.args.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot unpack ", parts.size(), " values into ", target.args.size(), " names"));
    }
    for (size_t i = 0; i < parts.size(); ++i) CLAMOR_RETURN_IF_ERROR(Assign(*target.args[i], parts[i]));
    return absl::OkStatus();
  }

  // --- Expressions

  Result Eval(const Expr& expr) {
    return Within(expr.line, [&] { return EvalOne(expr); });
  }

  Result EvalOne(const Expr& expr) {
    switch (expr.kind) {
      case Expr::Kind::kConst:
        return expr.value;
      case Expr::Kind::kName:
        return Name(expr);
      case Expr::Kind::kList:
      case Expr::Kind::kTuple:
        return ListLiteral(expr);
      case Expr::Kind::kDict:
        return DictLiteral(expr);
      case Expr::Kind::kAttribute:
      case Expr::Kind::kItem:
      case Expr::Kind::kSlice:
        return Subscript(expr);
      case Expr::Kind::kCall:
        return Call(expr);
      case Expr::Kind::kFilter:
      case Expr::Kind::kTest:
        return Apply(expr);
      case Expr::Kind::kNot:
      case Expr::Kind::kNegative:
      case Expr::Kind::kPositive:
        return Unary(expr);
      case Expr::Kind::kArithmetic:
        return Binary(expr);
      case Expr::Kind::kComparison:
        return Comparison(expr);
      case Expr::Kind::kAnd:
      case Expr::Kind::kOr:
        return Logic(expr);
      case Expr::Kind::kConditional:
        return Conditional(expr);
    }
    return Value::None();
  }

  Result Name(const Expr& expr) {
    if (const Value* value = scope_->Find(expr.name)) return *value;
    return arena_.Undefined(absl::StrCat("'", expr.name, "' is undefined"));
  }

  absl::StatusOr<std::vector<Value>> EvalAll(const std::vector<ExprPtr>& exprs, size_t from) {
    std::vector<Value> values;
    for (size_t i = from; i < exprs.size(); ++i) {
      values.emplace_back();
      if (exprs[i] == nullptr) continue;
      CLAMOR_ASSIGN_OR_RETURN(values.back(), Eval(*exprs[i]));
    }
    return values;
  }

  Result ListLiteral(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(auto items, EvalAll(expr.args, 0));
    return arena_.NewList(std::move(items), expr.kind == Expr::Kind::kTuple);
  }

  Result DictLiteral(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const auto values, EvalAll(expr.args, 0));
    Dict dict;
    for (size_t i = 0; i < values.size(); i += 2) {
      if (!values[i].Is(Value::Kind::kString)) {
        return absl::InvalidArgumentError(
            absl::StrCat("a dict with a key of type '", TypeName(values[i]), "'"));
      }
      dict.Set(values[i], values[i + 1]);
    }
    return arena_.NewDict(std::move(dict));
  }

  Result Subscript(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const auto values, EvalAll(expr.args, 0));
    if (expr.kind == Expr::Kind::kAttribute) return Attribute(values[0], expr.name, &arena_);
    if (expr.kind == Expr::Kind::kItem) return Item(values[0], values[1], &arena_);
    return Slice(values[0], values[1], values[2], values[3], &arena_);
  }

  absl::StatusOr<Args> Arguments(const Expr& expr) {
    Args args;
    CLAMOR_ASSIGN_OR_RETURN(args.positional, EvalAll(expr.args, 1));
    for (const auto& [name, arg] : expr.named) {
      CLAMOR_ASSIGN_OR_RETURN(const Value value, Eval(*arg));
      args.named.emplace_back(name, value);
    }
    return args;
  }

  Result Call(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const Value callee, Eval(*expr.args[0]));
    CLAMOR_ASSIGN_OR_RETURN(const Args args, Arguments(expr));
    return Invoke(callee, args);
  }

  Result Invoke(const Value& callee, const Args& args) {
    if (callee.Is(Value::Kind::kUndefined)) return UndefinedError(callee);
    if (!callee.Is(Value::Kind::kFunction)) {
      return absl::InvalidArgumentError(absl::StrCat("'", TypeName(callee), "' object is not callable"));
    }
    return callee.function->call(args);
  }

  Result Apply(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const Value input, Eval(*expr.args[0]));
    CLAMOR_ASSIGN_OR_RETURN(const Args args, Arguments(expr));
    return CallBuiltin(*expr.builtin, input, args, &arena_);
  }

  Result Unary(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0]));
    if (expr.kind == Expr::Kind::kNot) return Value::Bool(!Truthy(value));
    CLAMOR_ASSIGN_OR_RETURN(const Value negative, Negate(value));
    return expr.kind == Expr::Kind::kNegative ? Result(negative) : Negate(negative);
  }

  Result Binary(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const Value left, Eval(*expr.args[0]));
    CLAMOR_ASSIGN_OR_RETURN(const Value right, Eval(*expr.args[1]));
    return Arithmetic(expr.name, left, right, &arena_);
  }

  // a < b < c holds if each neighbour does; the rest is not looked at once one does not.
  Result Comparison(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0]));
    for (size_t i = 0; i < expr.ops.size(); ++i) {
      CLAMOR_ASSIGN_OR_RETURN(const Value right, Eval(*expr.args[i + 1]));
      CLAMOR_ASSIGN_OR_RETURN(const bool holds, Compare(expr.ops[i], left, right, &arena_));
      if (!holds) return Value::Bool(false);
      left = right;
    }
    return Value::Bool(true);
  }

  Result Logic(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const Value left, Eval(*expr.args[0]));
    return Truthy(left) == (expr.kind == Expr::Kind::kOr) ? Result(left) : Eval(*expr.args[1]);
  }

  Result Conditional(const Expr& expr) {
    CLAMOR_ASSIGN_OR_RETURN(const Value condition, Eval(*expr.args[0]));
    if (Truthy(condition)) return Eval(*expr.args[1]);
    if (expr.args[2] != nullptr) return Eval(*expr.args[2]);
    return arena_.Undefined("the inline if-expression evaluated to false and no else section was defined.");
  }

  Arena& arena_;
  Scope* scope_;
  MarkedText* out_ = nullptr;
  int depth_ = 0;
  int64_t loop_depth_ = 0;
  int error_line_ = 0;
  bool raised_ = false;  // the error is the template's own word
};

}  // namespace

absl::StatusOr<MarkedText> Render(const Template& source, Scope* globals, Arena* arena) {
  return Interpreter(globals, arena).Run(source);
}

}  // namespace clamor::jinja
