"""As much of PromQL as it takes to ask whether what an expression names is there."""
import re

TOKEN = re.compile(r'''
    (?P<space>\s+) | (?P<string>"(?:[^"\\]|\\.)*") | (?P<range>\[[^\]]*\]) | (?P<number>[0-9.]+(?:e[0-9]+)?[smhd]?)
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*) | (?P<operator>[=!><]=|=~|!~|[^\s])''', re.VERBOSE)
AGGREGATIONS = {"sum", "avg", "min", "max", "count", "topk", "quantile"}
GROUPINGS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
SETS = {"and", "or", "unless"}
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}


def tokens(expression):
    """(kind, text) of each, without spaces."""
    return [(found.lastgroup, found.group()) for found in TOKEN.finditer(expression) if found.lastgroup != "space"]


def selectors(expression):
    """Every `metric{matchers}` in it, without ranges."""
    found, parts = [], tokens(expression)
    i = 0
    while i < len(parts):
        kind, text = parts[i]
        following = parts[i + 1][1] if i + 1 < len(parts) else ""
        i += 1
        if kind != "name" or text in AGGREGATIONS | SETS | {"offset", "bool"}:
            continue
        if text in GROUPINGS:
            while parts[i][1] != ")":
                i += 1
        elif following == "{":
            end = next(j for j in range(i, len(parts)) if parts[j][1] == "}")
            found.append(text + "".join(part for _, part in parts[i:end + 1]))
            i = end + 1
        elif following != "(":
            found.append(text)
    return found


def grouping_labels(expression):
    """Every label that it groups or joins by."""
    labels, parts = set(), tokens(expression)
    for i, (_, text) in enumerate(parts):
        if text in GROUPINGS and parts[i + 1][1] == "(":
            end = next(j for j in range(i, len(parts)) if parts[j][1] == ")")
            labels |= {part for kind, part in parts[i:end] if kind == "name"} - GROUPINGS
    return labels


def operands(expression):
    """What it compares and joins: of `(a > 2) and b < 3` that is a, 2, b and 3."""
    parts, depth, pieces = tokens(expression), 0, [[]]
    for kind, text in parts:
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(text, 0)
        if depth == 0 and (text in COMPARISONS or (kind == "name" and text in SETS)):
            pieces.append([])
        else:
            pieces[-1].append(text)
    if len(pieces) > 1:
        return [one for piece in pieces for one in operands(" ".join(piece))]
    if parts and parts[0][1] == "(" and parts[-1][1] == ")" and _one_pair(parts):
        return operands(" ".join(text for _, text in parts[1:-1]))
    return [expression]


def _one_pair(parts):
    """Whether the first parenthesis closes with the last."""
    depth = 0
    for i, (_, text) in enumerate(parts):
        depth += {"(": 1, ")": -1}.get(text, 0)
        if depth == 0:
            return i == len(parts) - 1
    return False
