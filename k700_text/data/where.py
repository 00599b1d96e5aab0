"""``where="has_text and has_audio"``: which rows, as an expression over the columns of a manifest.

The text is parsed as Python writes expressions and never run: names of columns, and, or, not, comparisons, ``in`` with
a list, ``is null``, text, numbers, true and false. As in SQL, a comparison with an unknown value is unknown, and
unknown is not chosen.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from k700_text.errors import UsageError
from k700_text.terminal import readable

_MOST_CHARACTERS = 2_000
_CONSTANTS = {"null": None, "NULL": None, "true": True, "false": False}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_WHAT_IS_KNOWN = "names of columns, and, or, not, == != < <= > >=, in [...], is null, text in quotes, numbers"


class Where:
    """Chooses the rows for which an expression is true; pickles to its text.

    Args:
        text: for example ``split == "train" and (has_audio or title is not null) and label in ["a", "b"]``.

    Attributes:
        text: the same.
        names: the columns that it names.

    Raises:
        UsageError: it is no such expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._tree = _parsed(text)
        nodes = [each.id for each in ast.walk(self._tree) if isinstance(each, ast.Name)]
        self.names = frozenset(nodes) - _CONSTANTS.keys()
        if not self.names:
            raise self._refused("it names no column")
        # What is not known is told before any file is read.
        self._expression(self._tree, pa.schema([]))

    def __reduce__(self) -> tuple[type[Where], tuple[str]]:
        return Where, (self.text,)

    def rows_of(self, table: pa.Table) -> pa.Table:
        """Returns the chosen rows of a table that has the named columns.

        Raises:
            UsageError: the expression does not go with the types of the columns.
        """
        try:
            return table.filter(self._expression(self._tree, table.schema))
        except (pa.ArrowException, TypeError) as error:
            types = ", ".join(f"{name} is {table.schema.field(name).type}" for name in sorted(self.names))
            first_line = str(error).partition("\n")[0]
            raise self._refused(f"it does not go with the columns ({types}): {first_line}") from error

    def _expression(self, node: ast.expr, columns: pa.Schema) -> pc.Expression:
        if isinstance(node, ast.BoolOp):
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            return reduce(join, [self._expression(each, columns) for each in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._expression(node.operand, columns)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return reduce(operator.and_, [self._comparison(*each, columns) for each in pairs])
        if isinstance(node, ast.Name) and node.id not in _CONSTANTS:
            return pc.field(node.id)
        raise self._refused(f"{self._source(node)} is nothing that is true or false")

    def _comparison(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, columns: pa.Schema) -> pc.Expression:
        if isinstance(sign, ast.Is | ast.IsNot):
            if not (_is_constant(right) and self._constant(right) is None):
                raise self._refused("after 'is' comes null or not null")
            is_null = self._operand(left, columns, None).is_null()
            return is_null if isinstance(sign, ast.Is) else ~is_null
        if isinstance(sign, ast.In | ast.NotIn):
            return self._membership(left, sign, right, columns)
        kind = next((_type_of(each, columns) for each in (left, right) if isinstance(each, ast.Name)), None)
        return _COMPARISONS[type(sign)](self._operand(left, columns, kind), self._operand(right, columns, kind))

    def _membership(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, columns: pa.Schema) -> pc.Expression:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._refused(f"after 'in' comes a list, as in {self._source(left)} in ['a', 'b']")
        kind = _type_of(left, columns)
        values = [self._value(each, kind) for each in right.elts]
        column = self._operand(left, columns, kind)
        is_in = pc.if_else(column.is_valid(), column.isin(pa.array(values, kind)), None)
        return is_in if isinstance(sign, ast.In) else ~is_in

    def _operand(self, node: ast.expr, columns: pa.Schema, kind: pa.DataType | None) -> pc.Expression:
        if isinstance(node, ast.Name) and node.id not in _CONSTANTS:
            return pc.field(node.id)
        return pc.scalar(self._value(node, kind))

    def _value(self, node: ast.expr, kind: pa.DataType | None) -> Any:
        """Returns a constant, to be compared with a column of the type."""
        value = self._constant(node)
        if value is None:
            raise self._refused("nothing equals null: write 'is null' or 'is not null'")
        if kind is not None and pa.types.is_timestamp(kind) and isinstance(value, str):
            try:
                time = datetime.fromisoformat(value)
            except ValueError:
                raise self._refused(f"{value!r} is no time such as 2024-12-31T23:59:59") from None
            return pa.scalar(time if time.tzinfo else time.replace(tzinfo=UTC), pa.timestamp("us", tz="UTC"))
        return value

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._constant(node.operand)
            if isinstance(value, int | float):
                return -value
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return node.value
        raise self._refused(f"{self._source(node)} is no column, text or number")

    def _source(self, node: ast.expr) -> str:
        return readable(ast.get_source_segment(_one_line(self.text), node) or ast.unparse(node), 60)

    def _refused(self, why: str) -> UsageError:
        return UsageError(f"where: {readable(self.text, 120)!r} cannot be read: {why} (it knows {_WHAT_IS_KNOWN})")


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in _CONSTANTS)


def _type_of(node: ast.expr, columns: pa.Schema) -> pa.DataType | None:
    if isinstance(node, ast.Name) and node.id in columns.names:
        return columns.field(node.id).type
    return None


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()).strip()


def _parsed(text: str) -> ast.expr:
    if len(text) > _MOST_CHARACTERS:
        raise UsageError(f"where: {len(text):,} characters are too many: name the clips with clip_ids")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(_one_line(text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else "it is too deep, or no text"
        raise UsageError(f"where: {readable(text, 120)!r} cannot be read: {why} (it knows {_WHAT_IS_KNOWN})") from error
