"""What ``where=`` of the loader chooses, and what it refuses."""

from __future__ import annotations

import pickle

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
    ],
)
def test_rows_are_chosen_as_sql_would(text: str, rows: list[int]) -> None:
    where = pickle.loads(pickle.dumps(Where(text)))
    assert where.rows_of(TABLE)["row"].to_pylist() == rows


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
        ("label in ['a', 3]", "cannot be read"),
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
