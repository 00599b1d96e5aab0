from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k700_text.titles import MAX_TITLE_LENGTH, clean_title, is_junk_title

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  How to   fold\ta\nshirt ", "How to fold a shirt"),
        ("Tom &amp; Jerry &lt;3 &#39;live&#39;", "Tom & Jerry <3 'live'"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),
        ("bell\x07 and\x00null", "bell and null"),
        ("zero\u200bwidth\ufeff\u2060\u00ad", "zerowidth"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        (f"family {FAMILY}!", f"family {FAMILY}!"),
        (f"flag {ENGLAND}", f"flag {ENGLAND}"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("a\u200db \u200d c\u200d", "ab c"),
        ("heart \u2764\ufe0f", "heart \u2764\ufe0f"),
        ("lone \ud83d surrogate", "lone surrogate"),
        ("non\ufdd0char\uffff", "nonchar"),
        ("=SUM(A1)", "=SUM(A1)"),
    ],
)
def test_cleans(raw: str, cleaned: str) -> None:
    assert clean_title(raw) == cleaned


@pytest.mark.parametrize("raw", ["", "   ", "\u200b\ufeff", "\x00\x01", "&nbsp;", "x" * (MAX_TITLE_LENGTH + 1)])
def test_nothing_readable_is_no_title(raw: str) -> None:
    assert clean_title(raw) is None


def test_a_title_above_the_services_limit_is_kept_whole() -> None:
    assert clean_title("ab " * 50) == ("ab " * 50).strip()


@given(st.text(st.characters(), max_size=120))
def test_a_cleaned_title_is_storable_composed_and_stays_as_it_is(raw: str) -> None:
    title = clean_title(raw)
    if title is not None:
        title.encode()
        assert unicodedata.is_normalized("NFC", title)
        assert title == title.strip() and "  " not in title
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in title)
        if "&" not in title:
            assert clean_title(title) == title


@pytest.mark.parametrize(
    "title",
    [
        *("", "YouTube", " - YouTube", "- YouTube", "YouTube - Broadcast Yourself.", "Loading...", "404 Not Found"),
        *("Before you continue to YouTube", "Bevor Sie zu YouTube weitergehen", "Sorry for the interruption"),
        *("Video unavailable", "Private video", "Deleted video - YouTube", "dQw4w9WgXcQ", "dQw4w9WgXcQ - YouTube"),
        *("Avant d\u2019accéder à YouTube", "YouTube - "),
    ],
)
def test_names_of_the_sites_own_pages_are_junk(title: str) -> None:
    assert is_junk_title(title, "dQw4w9WgXcQ")


@pytest.mark.parametrize("title", ["My private video of a cat", "YouTube Rewind 2012", "Loading a truck", "404"[:2]])
def test_titles_of_videos_are_not_junk(title: str) -> None:
    assert not is_junk_title(title, "dQw4w9WgXcQ")
