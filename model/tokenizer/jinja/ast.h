// A parsed template. Immutable once parsed; a tree is at most kMaxExprDepth deep, so it can be walked by
// recursion.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer/jinja/builtin.h"
#include "model/tokenizer/jinja/value.h"

namespace clamor::jinja {

inline constexpr int kMaxExprDepth = 200;

struct Expr;
using ExprPtr = std::unique_ptr<const Expr>;

struct Expr {
  enum class Kind {
    kConst,        // value
    kName,         // name
    kList,         // args
    kTuple,        // args
    kDict,         // args: key, value, key, value, ...
    kAttribute,    // args[0].name
    kItem,         // args[0][args[1]]
    kSlice,        // args[0][args[1]:args[2]:args[3]], the bounds null if open
    kCall,         // args[0](args[1], ..., named)
    kFilter,       // args[0] | name(args[1], ..., named)
    kTest,         // args[0] is name(args[1], ..., named)
    kNot,          // not args[0]
    kNegative,     // -args[0]
    kPositive,     // +args[0]
    kArithmetic,   // args[0] name args[1]
    kComparison,   // args[0] ops[0] args[1] ops[1] args[2] ...
    kAnd,          // args[0] and args[1]
    kOr,           // args[0] or args[1]
    kConditional,  // args[1] if args[0] else args[2], which may be null
  };
  Kind kind;
  int line;
  int depth = 1;  // of the tree below, this included
  std::string name;
  Value value;
  const Builtin* builtin = nullptr;  // of kFilter and kTest
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> ops;
};

struct Statement;
using Block = std::vector<std::unique_ptr<const Statement>>;

struct Statement {
  enum class Kind {
    kText,         // name: what to put out
    kPrint,        // exprs[0]
    kIf,           // blocks[i] if exprs[i]; one block more is the else
    kFor,          // target in exprs[0], if exprs[1] (may be null); blocks[0], else blocks[1]
    kSet,          // target = exprs[0]
    kSetBlock,     // target = blocks[0] as text, through exprs[0] if not null
    kFilterBlock,  // blocks[0] as text, through exprs[0]
    kMacro,        // name(params): blocks[0]; exprs[i] is the default of params[i] or null
    kCallBlock,  // exprs[0], a kCall, with caller(params): blocks[0]; defaults as in kMacro from exprs[1] on
    kWith,       // params[i] = exprs[i] within blocks[0]
    kBreak,
    kContinue,
  };
  Kind kind;
  int line;
  std::string name;
  ExprPtr target;  // kName, kTuple of targets, or kAttribute of a kName
  std::vector<ExprPtr> exprs;
  std::vector<std::string> params;
  std::vector<Block> blocks;
};

// The variable that holds a block's text while filters run over it; no name in a template is spelled so.
inline constexpr char kBlockText[] = "{block}";

struct Template {
  Arena constants;
  Block body;
};

}  // namespace clamor::jinja
