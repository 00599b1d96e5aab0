"""Columns of any writer as those of a schema of ours, where no value is lost.

pandas, polars and DuckDB write the same table with types of their own: large and dictionary text, ``double`` for
integers with gaps, other units of time, lists of another kind. What such a column says is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from k700_text.errors import SchemaMismatchError
from k700_text.terminal import readable


def converted(table: pa.Table, fields: Sequence[pa.Field], name: str) -> pa.Table:
    """Returns the named columns of a table with the types of a schema.

    A NaN among numbers is a null, times without a zone are UTC, a true or false may be 1 or 0.

    Args:
        table: holds all of the fields.
        fields: names and types to return.
        name: what messages call the table.

    Raises:
        SchemaMismatchError: a column is of a type that cannot stand for ours, or a value of it would be lost.
    """
    columns = [convert(table[field.name], field, name) for field in fields]
    return pa.Table.from_arrays(columns, schema=pa.schema([field.with_nullable(True) for field in fields]))


def convert(column: pa.ChunkedArray, field: pa.Field, name: str) -> pa.ChunkedArray:
    """Returns one column with the type of a field; arguments and errors as of ``converted``."""
    if column.type == field.type:
        return column
    values = _without_nan(_plain(column))
    if not _may_stand_for(values.type, field.type):
        raise SchemaMismatchError(
            f"{name}: column {field.name} is {column.type}, expected {field.type}",
            expected=str(field.type),
            actual=str(column.type),
        )
    try:
        return _cast(values, field.type)
    except pa.ArrowInvalid:
        row = _first_refused(values, field.type)
        value = _shown(values[row])
        raise SchemaMismatchError(
            f"{name}: column {field.name} is {column.type}, and {value} in row {row + 1:,} is no {field.type}: "
            "mend that value, or leave the row out",
            expected=str(field.type),
            actual=str(column.type),
        ) from None


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column of any type as one that can be compared: decoded, and text as text."""
    decoded = _plain(column)
    return decoded.cast(pa.string()) if kinds.is_string_view(decoded.type) else decoded


def _shown(value: pa.Scalar) -> str:
    try:
        return readable(str(value), 60)
    except (ValueError, OverflowError):  # a time that Python has no number for
        return "the value"


_NO_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the values of a column that is encoded, or of a type that wraps another."""
    if isinstance(column.type, pa.BaseExtensionType):
        return _plain(pa.chunked_array([each.storage for each in column.chunks], column.type.storage_type))
    if kinds.is_dictionary(column.type):
        # Not by a cast: of dictionaries of views, as polars hands over its categories, Arrow has none.
        kind = _NO_VIEWS.get(column.type.value_type, column.type.value_type)
        chunks = [each.dictionary.cast(kind).take(each.indices) for each in column.chunks]
        return _plain(pa.chunked_array(chunks, kind))
    if kinds.is_run_end_encoded(column.type):
        return _plain(pa.chunked_array(map(pc.run_end_decode, column.chunks), column.type.value_type))
    if kinds.is_float16(column.type):
        return column.cast(pa.float32())
    if kinds.is_list_view(column.type) or kinds.is_large_list_view(column.type):
        # Arrow's own cast of these to lists gave empty ones.
        whole = pa.list_(column.type.value_type)
        return pa.chunked_array([pa.array(each.to_pylist(), whole) for each in column.chunks], whole)
    return column


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not kinds.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _is_text(kind: pa.DataType) -> bool:
    tests = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
    # Old Hive, Impala and Spark write text without its mark.
    return any(test(kind) for test in (*tests, kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view))


def _is_list(kind: pa.DataType) -> bool:
    tests = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list, kinds.is_list_view, kinds.is_large_list_view)
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (kinds.is_integer, kinds.is_floating, kinds.is_decimal))


def _may_stand_for(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Tells whether values of a type mean what those of ours do; a number is no text, and a text no number."""
    if kinds.is_null(kind) or kind == wanted:
        return True
    if _is_list(wanted):
        return _is_list(kind) and _may_stand_for(kind.value_type, wanted.value_type)
    sorts: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], bool]], ...] = (
        (_is_text, _is_text),
        (_is_number, _is_number),
        (kinds.is_boolean, lambda kind: kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind)),
        (kinds.is_timestamp, lambda kind: kinds.is_timestamp(kind) or kinds.is_date(kind)),
    )
    return any(is_sort(wanted) and stands(kind) for is_sort, stands in sorts)


def _cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """Returns the column as a type that it may stand for.

    Raises:
        pa.ArrowInvalid: a value would be lost.
    """
    if kinds.is_boolean(wanted) and _is_number(column.type):
        truths = pa.array([0, 1], column.type) if kinds.is_integer(column.type) else pa.array([0.0, 1.0], column.type)
        if pc.any(pc.invert(pc.is_in(column.drop_null(), value_set=truths))).as_py():
            raise pa.ArrowInvalid("neither 0 nor 1")
    if kinds.is_decimal(column.type) and kinds.is_integer(wanted):
        column = column.cast(pa.decimal128(38, 0)) if column.type.scale else column
    return column.cast(wanted)


def _first_refused(column: pa.ChunkedArray, wanted: pa.DataType) -> int:
    """Returns the first row that does not cast, of a column in which some row does not."""
    start, end = 0, len(column)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            _cast(column.slice(start, middle - start), wanted)
            start = middle
        except pa.ArrowInvalid:
            end = middle
    return start
