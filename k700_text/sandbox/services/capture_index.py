"""The index of the web archive's captures: ``/cdx/search/cdx``, as JSON rows or text lines."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote_plus, unquote_plus

from k700_text.sandbox.captures import Capture, RowForm, keyed
from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.services.wayback import EXCLUSION, WatchUrl, captured_body, parse_watch_url
from k700_text.sandbox.world import World

FIELDS = ("urlkey", "timestamp", "original", "mimetype", "statuscode", "digest", "length")
MAX_ROWS = 150_000
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_EXCLUDED = (
    b"org.archive.util.io.RuntimeIOException: org.archive.wayback.exception.AdministrativeAccessControlException: "
    b"Blocked Site Error\n"
)
_PAGES = ("page", "pageSize", "showNumPages")
_DIGEST_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

Row = dict[str, str]


class WaybackIndex:
    """``/cdx/search/cdx``: the captures of one watch page, oldest first."""

    name = "wayback-cdx"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path == "/cdx/search/cdx"

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id of the watch page asked for."""
        asked = parse_watch_url(request.query.get("url", "").removesuffix("*"))
        return () if asked is None else (asked.youtube_id,)

    def answer(self, request: Request) -> Response:
        """Returns the captures; nothing at all where there is none, 400 for a bad parameter, 403 for the excluded."""
        try:
            matches_prefix = _matches_prefix(request)
            choose = _chooser(request)
        except ValueError as error:
            return Response(400, (_TEXT,), f"{error}\n".encode())
        asked = parse_watch_url(request.query["url"].removesuffix("*"))
        captures = self._captures(asked, matches_prefix) if asked else []
        if asked and captures and self._world.archive.is_excluded(asked.youtube_id):
            return Response(403, (_TEXT, EXCLUSION), _EXCLUDED)
        rows, key = choose([self._row(capture) for capture in captures])
        return _written(request, rows, key)

    def _captures(self, asked: WatchUrl, matches_prefix: bool) -> list[Capture]:
        captures = self._world.archive.under_key(asked.youtube_id)
        key = keyed(asked.parameters)
        if matches_prefix:
            matching = [each for each in captures if each.key_parameters.startswith(key)]
        else:
            matching = [each for each in captures if each.key_parameters == key]
        return sorted(matching, key=lambda each: (each.urlkey, each.stamp))

    def _row(self, capture: Capture) -> Row:
        body, content_type = captured_body(self._world, capture)
        digest = "".join(seeded("digest", body).choices(_DIGEST_LETTERS, k=32))
        row = {
            "urlkey": capture.urlkey,
            "timestamp": capture.stamp,
            "original": capture.original,
            "mimetype": content_type.partition(";")[0],
            "statuscode": str(capture.kind.status),
            "digest": digest,
            "length": str(len(body) // 3 + 400),
        }
        if capture.row is RowForm.REVISIT:
            return row | {"mimetype": "warc/revisit", "statuscode": "-", "length": "512"}
        return row | {"statuscode": "-", "length": "-"} if capture.row is RowForm.BARE else row


def _matches_prefix(request: Request) -> bool:
    query = request.query
    if not query.get("url"):
        raise ValueError("The required parameter 'url' was not found")
    match = query.get("matchType", "prefix" if query["url"].endswith("*") else "exact")
    if match not in ("exact", "prefix"):
        raise ValueError(f"matchType {match!r} is not served: a whole host is too much")
    return match == "prefix"


def _chooser(request: Request) -> Callable[[list[Row]], tuple[list[Row], str | None]]:
    """Returns what a request asks to do to all rows: gives those to send and the key to go on with.

    Raises:
        ValueError: a parameter cannot be read.
    """
    query = request.query
    for name in _PAGES:
        if name in query:
            raise ValueError(f"{name} is not supported by this server")
    since, until = _stamp(query, "from").ljust(14, "0"), _stamp(query, "to").ljust(14, "9")
    keeps = [_filter(text) for name, text in request.pairs if name == "filter"]
    collapses = [_collapse(text) for name, text in request.pairs if name == "collapse"]
    limit, offset = _integer(query, "limit", MAX_ROWS), _integer(query, "offset", 0)
    wants_key, resume_key = query.get("showResumeKey") == "true", query.get("resumeKey")

    def choose(rows: list[Row]) -> tuple[list[Row], str | None]:
        rows = [row for row in rows if since <= row["timestamp"] <= until and all(keep(row) for keep in keeps)]
        for collapse in collapses:
            rows = _without_repeats(rows, collapse)
        if resume_key:
            rows = rows[_place_after(rows, resume_key) :]
        rows = rows[max(offset, 0) :]
        chosen = rows[: min(limit, MAX_ROWS)] if limit >= 0 else rows[limit:]
        is_more = wants_key and limit >= 0 and len(rows) > len(chosen)
        return chosen, _resume_key(chosen[-1]) if is_more and chosen else None

    return choose


def _stamp(query: dict[str, str], name: str) -> str:
    text = query.get(name, "")
    if text and not (text.isdecimal() and len(text) <= 14):
        raise ValueError(f"{name} must be 1 to 14 digits, got {text!r}")
    return text


def _integer(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _known_field(name: str) -> str:
    if name not in FIELDS:
        raise ValueError(f"no field {name!r}: expected one of {', '.join(FIELDS)}")
    return name


def _filter(text: str) -> Callable[[Row], bool]:
    """Reads ``[!]field:regex`` (of the whole value) or ``[!]~field:part``."""
    wanted = not text.startswith("!")
    name, colon, value = text.removeprefix("!").partition(":")
    is_part = name.startswith("~")
    name = _known_field(name.removeprefix("~"))
    if not colon:
        raise ValueError(f"filter {text!r} has no colon")
    if is_part:
        return lambda row: (value in row[name]) is wanted
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise ValueError(f"filter {text!r}: {error}") from None
    return lambda row: (pattern.fullmatch(row[name]) is not None) is wanted


def _collapse(text: str) -> Callable[[Row], str]:
    """Reads ``field`` or ``field:N``: what two adjacent rows must have in common."""
    name, colon, digits = text.partition(":")
    name = _known_field(name)
    if not colon:
        return lambda row: row[name]
    if not digits.isdecimal():
        raise ValueError(f"collapse {text!r} has no number after the colon")
    return lambda row: row[name][: int(digits)]


def _without_repeats(rows: Iterable[Row], common: Callable[[Row], str]) -> list[Row]:
    kept: list[Row] = []
    last: str | None = None
    for row in rows:
        value = common(row)
        if value != last:
            kept.append(row)
        last = value
    return kept


def _resume_key(row: Row) -> str:
    return quote_plus(f"{row['urlkey']} {row['timestamp']}!")


def _place_after(rows: list[Row], key: str) -> int:
    """Returns where to go on; the key comes back as it was given out, or decoded once."""
    done = unquote_plus(key)
    return sum(f"{row['urlkey']} {row['timestamp']}!" <= done for row in rows)


def _written(request: Request, rows: list[Row], key: str | None) -> Response:
    names = [name for name in request.query.get("fl", ",".join(FIELDS)).split(",") if name in FIELDS]
    table = [[row[name] for name in names] for row in rows]
    if request.query.get("output") == "json":
        values: list[list[str]] = [names, *table] if table else []
        body = json.dumps([*values, *([[], [key]] if key else [])]).encode()
        headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    else:
        body = "".join(" ".join(row) + "\n" for row in [*table, *([[], [key]] if key else [])]).encode()
        headers = (_TEXT,)
    if request.takes_gzip and request.query.get("gzip") != "false":
        return Response(200, (*headers, ("Content-Encoding", "gzip")), gzip.compress(body, 6, mtime=0))
    return Response(200, headers, body)
