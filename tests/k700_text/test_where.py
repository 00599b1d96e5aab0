"""What ``where=`` of the loader chooses, and what it refuses."""

from __future__ import annotations

import pickle
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from k700_text.data.where import Where
from k700_text.errors import UsageError

TABLE = pa.table(
    {
        "row": [0, 1, 2, 3],
        "has_text": [True, True, False, None],
        "has_audio": [True, None, True, True],
        "label": ["a", "b", None, "it's"],
        "score": [0.5, 1.5, -2.0, None],
        "published_at": pa.array([0, 10**15, None, 2 * 10**15], pa.timestamp("us", "UTC")),
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("has_text", [0, 1]),
        ("has_text and has_audio", [0]),
        ("has_text or has_audio", [0, 1, 2, 3]),
        ("not has_text", [2]),
        ("not (has_text and has_audio)", [2]),  # unknown stays unknown
        ("has_audio is null", [1]),
        ("has_audio is not None and not has_text", [2]),
        ("label in ['a', 'b']", [0, 1]),
        ("label not in ('a',)", [1, 3]),
        ("not (label in ['a'])", [1, 3]),
        ("label in []", []),
        ('label == "it\'s"', [3]),
        ("'a' == label", [0]),
        ("label != 'a'", [1, 3]),
        ("-2 <= score < 1", [0, 2]),
        ("score > 1 or label is null", [1, 2]),
        ("has_text == true", [0, 1]),
        ("published_at > '1970-01-01' and published_at < '2010-06-01T12:00:00+02:00'", [1]),
        ("  row >= 2\n and has_audio ", [2, 3]),
        ("has_text  # a title\r\n  and has_audio  # and sound", [0]),
        ("label in [\n  'a',\n  '# b',  # one a line\n]", [0]),
    ],
)
def test_rows_are_chosen_as_sql_would(text: str, rows: list[int]) -> None:
    where = pickle.loads(pickle.dumps(Where(text)))
    assert where.rows_of(TABLE)["row"].to_pylist() == rows


# Columns of other writers, of every sort that can be compared.
FURTHER = pa.table(
    {
        "row": [0, 1, 2, 3],
        "views": pa.array([1, 2, None, 2**40 + 1], pa.int64()),
        "tiny": pa.array([1, 2, None, 127], pa.int8()),
        "bare": pa.array([1, 2, None, 255], pa.uint8()),
        "float": pa.array([0.1, 1.5, None, 3.0], pa.float32()),
        "price": pa.array([Decimal("1.10"), Decimal("2.00"), None, None]),
        "day": pa.array([date(2024, 1, 1), date(2025, 1, 1), None, None]),
        "naive": pa.array([datetime(2024, 1, 1), datetime(2025, 1, 1), None, None], pa.timestamp("ns")),
        "nowhere": pa.array([datetime(2024, 1, 1), datetime(2025, 1, 1), None, None], pa.timestamp("s", "UTC")),
        "nothing": pa.nulls(4),
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        # A number is not made to fit the column: 1.5 is not 1, and 257 not 1.
        ("tiny in [1.5, 257]", []),
        ("tiny not in [1.5, 257]", [0, 1, 3]),
        ("tiny in [1.0, 127]", [0, 3]),
        ("bare in [-1, 255]", [3]),
        ("views > 1e6", [3]),
        ("views < 1.5", [0]),
        ("views == 1099511627777", [3]),
        ("views == 1099511627777.5", []),
        # One reading of one number, however it is asked for.
        ("float == 0.1", [0]),
        ("float in [0.1]", [0]),
        ("float > 0.1", [1, 3]),
        ("float == 3", [3]),
        ("price == 2", [1]),
        ("price in [1.1, 7]", [0]),
        ("day > '2024-06-01'", [1]),
        ("day in ['2024-01-01']", [0]),
        ("naive == '2024-01-01T01:00:00+01:00'", [0]),
        ("naive in ['2025-01-01']", [1]),
        ("nowhere not in ['2025-01-01']", [0]),
        ("nothing", []),
        ("not nothing or row == 3", [3]),
        ("nothing in [1]", []),
        ("nothing is null", [0, 1, 2, 3]),
    ],
)
def test_what_a_column_says_is_compared_whatever_its_type(text: str, rows: list[int]) -> None:
    assert Where(text).rows_of(FURTHER)["row"].to_pylist() == rows


def test_the_order_of_rows_stays_whatever_their_number() -> None:
    rows = pa.table({"row": range(300_000), "label": ["a", "b", "c"] * 100_000})
    found = Where("label in ['a', 'c']").rows_of(rows)["row"].to_pylist()
    assert found == [row for row in range(300_000) if row % 3 != 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "nothing that is true or false"),
        ("has_text.__class__", "nothing that is true or false"),
        ("[row for row in row]", "nothing that is true or false"),
        ("(lambda: row)()", "nothing that is true or false"),
        ("label == open('x')", "is no column, text or number"),
        ("f'{row}' == 'x'", "is no column, text or number"),
        ("row + 1 > 2", "is no column, text or number"),
        ("row = 3", "cannot be read"),
        ("has_text,\nhas_audio", "has_text, has_audio . is nothing that is true or false"),
        (") or (", "names no column"),
        ("label in [\n  'a'  # and\n  'b'\n]", "between two texts there is no comma"),
        ("# has_text", "names no column"),
        ("has_text and", "cannot be read"),
        ("", "cannot be read"),
        ("\0", "cannot be read"),
        ("(" * 500, "cannot be read"),
        ("3 > 2", "names no column"),
        ("label == null", "write 'is null'"),
        ("label is 'a'", "after 'is' comes null"),
        ("'a' in label", "after 'in' comes a list"),
        ("label", "does not go with the columns .label is string"),
        ("label == 3", "does not go with the columns .label is string"),
        ("row in ['a']", "does not go with the columns .row is int64"),
        ("published_at > 'soon'", "'soon' is no time"),
        ("row > " + "1" * 3000, "too many"),
        ("row > " + "1" * 30, "too large"),
        ("label in ['a', 3]", "does not go with the columns"),
        ("label in [row]", "row is no column, text or number"),
        ("row > " + "-" * 1900 + "1", "is no column, text or number|too deep"),
        ("label == '\\ud800'", "surrogates"),
        ("label == '\ud800'", "cannot be read"),
    ],
)
def test_all_else_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Where(text).rows_of(TABLE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_deep_expressions_are_read_or_refused() -> None:
    assert Where("not " * 400 + "has_text").rows_of(TABLE)["row"].to_pylist() == [0, 1]
