"""``where="has_text and has_audio"``: which rows, as an expression over the columns of a manifest.

The text is parsed as Python writes expressions and never run: names of columns, and, or, not, comparisons, ``in`` with
a list, ``is null``, text, numbers, true and false. As in SQL, a comparison with an unknown value is unknown, and
unknown is not chosen.
"""

from __future__ import annotations

import ast
import io
import itertools
import operator
import tokenize
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from k700_text.errors import UsageError
from k700_text.terminal import readable

_MOST_CHARACTERS = 2_000
_TIME = pa.timestamp("us", tz="UTC")
_CONSTANTS = {"null": None, "NULL": None, "true": True, "false": False}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NOT_TAKEN = (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError)
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
        if _has_joined_texts(text):
            raise self._refused("between two texts there is no comma")
        # What is not known is told before any file is read.
        try:
            self._expression(self._tree, pa.schema([]))
        except _NOT_TAKEN as error:
            raise self._refused(str(error).partition("\n")[0]) from error

    def __reduce__(self) -> tuple[type[Where], tuple[str]]:
        return Where, (self.text,)

    def rows_of(self, table: pa.Table) -> pa.Table:
        """Returns the chosen rows of a table that has the named columns.

        Raises:
            UsageError: the expression does not go with the types of the columns.
        """
        try:
            return table.filter(self._expression(self._tree, table.schema))
        except _NOT_TAKEN as error:
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
            # A column in which nothing is known has no type of its own.
            is_unknown = _type_of(node, columns) == pa.null()
            return pc.field(node.id).cast(pa.bool_()) if is_unknown else pc.field(node.id)
        raise self._refused(f"{self._source(node)} is nothing that is true or false")

    def _comparison(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, columns: pa.Schema) -> pc.Expression:
        if isinstance(sign, ast.Is | ast.IsNot):
            if not _is_null(right):
                raise self._refused("after 'is' comes null or not null")
            is_null = self._operand(left).is_null()
            return is_null if isinstance(sign, ast.Is) else ~is_null
        if isinstance(sign, ast.In | ast.NotIn):
            return self._membership(left, sign, right, columns)
        return _COMPARISONS[type(sign)](*self._sides(left, right, columns))

    def _membership(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, columns: pa.Schema) -> pc.Expression:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._refused(f"after 'in' comes a list, as in {self._source(left)} in ['a', 'b']")
        # Not Arrow's own way, which makes the values fit the column: 1.5 in a column of whole numbers became 1.
        in_none = pc.if_else(self._operand(left).is_valid(), False, None)
        for each in right.elts:
            self._value(each)
        is_in = reduce(
            operator.or_, [operator.eq(*self._sides(left, each, columns)) for each in right.elts] or [in_none]
        )
        return is_in if isinstance(sign, ast.In) else ~is_in

    def _sides(self, left: ast.expr, right: ast.expr, columns: pa.Schema) -> list[pc.Expression]:
        """Returns what is compared, a constant and its column in such a way that Arrow compares what they say."""
        nodes, sides = (left, right), [self._operand(left), self._operand(right)]
        for here, there in ((0, 1), (1, 0)):
            kind = _type_of(nodes[there], columns)
            if _is_constant(nodes[here]) and kind is not None:
                value = self._value(nodes[here])
                if kinds.is_temporal(kind) and isinstance(value, str):
                    sides[here] = pc.scalar(self._time(value))
                    sides[there] = sides[there].cast(_TIME, safe=False)
                elif kinds.is_float32(kind) and isinstance(value, float):
                    sides[here] = pc.scalar(pa.scalar(value, kind))
                elif kinds.is_integer(kind) and isinstance(value, float) and value.is_integer():
                    sides[here] = pc.scalar(int(value))
                elif kinds.is_decimal(kind) or (kinds.is_integer(kind) and isinstance(value, float)):
                    sides[there] = sides[there].cast(pa.float64(), safe=False)
        return sides

    def _operand(self, node: ast.expr) -> pc.Expression:
        return pc.scalar(self._value(node)) if _is_constant(node) else pc.field(node.id)  # type: ignore[attr-defined]

    def _value(self, node: ast.expr) -> str | int | float:
        """Returns a constant that is to be compared."""
        value: str | int | float | None = self._constant(node)
        if value is None:
            raise self._refused("nothing equals null: write 'is null' or 'is not null'")
        return value

    def _time(self, text: str) -> pa.Scalar:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise self._refused(f"{text!r} is no time such as 2024-12-31T23:59:59") from None
        return pa.scalar(time if time.tzinfo else time.replace(tzinfo=UTC), _TIME)

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            value = node.operand.value
            if isinstance(value, int | float):
                return -value
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return node.value
        raise self._refused(f"{self._source(node)} is no column, text or number")

    def _source(self, node: ast.expr) -> str:
        segment = ast.get_source_segment(_enclosed(self.text), node) or ast.unparse(node)
        return readable(" ".join(segment.split()), 60)

    def _refused(self, why: str) -> UsageError:
        return UsageError(f"where: {readable(self.text, 120)!r} cannot be read: {why} (it knows {_WHAT_IS_KNOWN})")


def _is_constant(node: ast.expr) -> bool:
    return not isinstance(node, ast.Name) or node.id in _CONSTANTS


def _is_null(node: ast.expr) -> bool:
    value = _CONSTANTS.get(node.id, "") if isinstance(node, ast.Name) else getattr(node, "value", "")
    return value is None


def _type_of(node: ast.expr, columns: pa.Schema) -> pa.DataType | None:
    if isinstance(node, ast.Name) and node.id in columns.names:
        return columns.field(node.id).type
    return None


def _enclosed(text: str) -> str:
    # In brackets it may go over lines as it is; joined, a comment would swallow the lines behind it.
    return f"(\n{text}\n)"


def _has_joined_texts(text: str) -> bool:
    """Tells whether texts follow each other, which Python joins: of ['a' 'b'] neither would be chosen."""
    tokens = tokenize.generate_tokens(io.StringIO(_enclosed(text)).readline)
    types = [token.type for token in tokens if token.type not in (tokenize.NL, tokenize.COMMENT)]
    return any(pair == (tokenize.STRING, tokenize.STRING) for pair in itertools.pairwise(types))


def _parsed(text: str) -> ast.expr:
    if len(text) > _MOST_CHARACTERS:
        raise UsageError(f"where: {len(text):,} characters are too many: name the clips with clip_ids")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(_enclosed(text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else "it is too deep, or no text"
        raise UsageError(f"where: {readable(text, 120)!r} cannot be read: {why} (it knows {_WHAT_IS_KNOWN})") from error
