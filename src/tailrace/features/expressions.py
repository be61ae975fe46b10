"""Expressions over the fields of an event, as text: `where="amount > 100 and channel == 'web'"`.

Text and not a function, since it is part of the identity of what is stored: a changed expression is another state, and
one that only moved to another line is not. It is read by Python's parser, checked, and turned into one call a column.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Fields = Callable[[str], NDArray[Any]]
"""Gives the column of a field, (rows,)."""
Part = Callable[[Fields], Any]

LENGTH_MAX: Final = 1_000
"""Characters of one expression."""
DEPTH_MAX: Final = 50
"""Of what is within what, in one expression."""


def _truth(column: Any) -> Any:
    """Return which values are true; NaN, which a null is, is not."""
    values = np.asarray(column)
    return (values != 0) & ~np.isnan(values) if values.dtype.kind == "f" else values


def _not(column: Any) -> Any:
    return np.logical_not(_truth(column))


def _and(one: Any, other: Any) -> Any:
    return np.logical_and(_truth(one), _truth(other))


def _or(one: Any, other: Any) -> Any:
    return np.logical_or(_truth(one), _truth(other))


def _remainder(one: Any, other: Any) -> Any:
    """Return the remainder; by zero no number, where NumPy gives 0 for whole ones. Its type depends on no value."""
    rest = operator.mod(one, other)
    if isinstance(other, int | float) and other:
        return rest
    return np.where(other == 0, np.nan, rest)


_BINARY: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: _remainder,
}  # fmt: skip
_UNARY: Final[Mapping[type, Callable[[Any], Any]]] = {ast.USub: operator.neg, ast.Not: _not}
_COMPARE: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_BOOLEAN: Final[Mapping[type, Callable[[Any, Any], Any]]] = {ast.And: _and, ast.Or: _or}


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression.

    text: in one spelling, whatever blanks it was written with. fields: the names that it reads. value: computes it.
    """

    text: str
    fields: tuple[str, ...]
    value: Part = field(compare=False, repr=False)

    def column(self, fields: Fields, rows: int) -> NDArray[Any]:
        """Return its value for each event, (rows,)."""
        with np.errstate(all="ignore"):  # a division by zero is no number, which no aggregate counts
            return np.broadcast_to(np.asarray(self.value(fields)), (rows,))


def parse_expression(text: str) -> Expression:
    """Return an expression. Raises ValueError, saying what is wrong with it."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{text!r} is no expression")
    if len(text) > LENGTH_MAX:
        raise ValueError(f"it has {len(text)} characters, over {LENGTH_MAX}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} cannot be read: {getattr(error, 'msg', error)}") from None
    if not _is_shallow(tree):
        raise ValueError(f"it is nested over {DEPTH_MAX} deep")
    names: dict[str, None] = {}
    value = _part(tree, names)
    if not names:
        raise ValueError(f"{text!r} reads no field of the event")
    return Expression(ast.unparse(tree), tuple(names), value)


def _is_shallow(tree: ast.expr) -> bool:
    """Say whether an expression can be read and computed without a deep recursion."""
    level: list[ast.AST] = [tree]
    for _ in range(DEPTH_MAX):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return not level


def _part(node: ast.expr, names: dict[str, None]) -> Part:
    """Return what computes a node; note the fields that it reads."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return lambda _: value
        case ast.Name(id=name):
            names[name] = None
            return lambda fields: fields(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _two(_BINARY[type(op)], _part(left, names), _part(right, names))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _one(_UNARY[type(op)], _part(operand, names))
        case ast.BoolOp(op=op, values=values):
            parts, combine = [_part(value, names) for value in values], _BOOLEAN[type(op)]
            return lambda fields: reduce(combine, [part(fields) for part in parts])
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _comparison([left, *comparators], ops, names)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed: compare, add, subtract, multiply and divide fields and "
                     "constants, join with and, or, not, and use `in (…)`")  # fmt: skip


def _comparison(nodes: list[ast.expr], ops: list[ast.cmpop], names: dict[str, None]) -> Part:
    """Return what computes `a < b <= c`, or `a in ("x", "y")`."""
    if len(ops) == 1 and isinstance(ops[0], ast.In | ast.NotIn):
        return _membership(nodes[0], nodes[1], names, negated=isinstance(ops[0], ast.NotIn))
    if unknown := [op for op in ops if type(op) not in _COMPARE]:
        raise ValueError(f"{type(unknown[0]).__name__} is not a comparison of columns")
    parts = [_part(node, names) for node in nodes]
    pairs = [_two(_COMPARE[type(op)], one, other) for op, one, other in zip(ops, parts, parts[1:], strict=False)]
    return lambda fields: reduce(np.logical_and, [pair(fields) for pair in pairs])


def _membership(node: ast.expr, members: ast.expr, names: dict[str, None], *, negated: bool) -> Part:
    if not isinstance(members, ast.Tuple | ast.List | ast.Set):
        raise ValueError("behind `in` stands a list of constants, as in channel in ('web', 'app')")
    constants = [each.value for each in members.elts if isinstance(each, ast.Constant)]
    if len(constants) < len(members.elts):
        raise ValueError("behind `in` stand constants only")
    part = _part(node, names)

    def value(fields: Fields) -> Any:
        column = part(fields)
        found = reduce(np.logical_or, [column == each for each in constants], np.zeros(np.shape(column), np.bool_))
        return np.logical_not(found) if negated else found

    return value


def _two(function: Callable[[Any, Any], Any], one: Part, other: Part) -> Part:
    return lambda fields: function(one(fields), other(fields))


def _one(function: Callable[[Any], Any], operand: Part) -> Part:
    return lambda fields: function(operand(fields))
