"""Reads the raw parts of a page of unknown age and health: its text, its tags, the data in its scripts.

An answer may also be data altogether (JSON, a form, XML), whatever its Content-Type calls it.

Nothing here knows what a page means (see ``watch_pages``). Every step takes time in proportion to the page, whatever
is in it: a page is input from a stranger. Pages are cut at MAX_PAGE_BYTES; real ones have 1 to 2 MB.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

from k700_text.titles import KEEP_HALVES, join_halves

MAX_PAGE_BYTES = 8 << 20

_ASCII = bytes(range(128))
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w:-]{1,40})", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w:-]{1,40})", re.IGNORECASE)
_WINDOWS_1252 = "windows-1252"
# What declares itself as one of these is Windows-1252 in truth, as browsers know.
_LATIN_1 = frozenset({"iso-8859-1", "iso8859-1", "latin-1", "latin1", "us-ascii", "ascii", "iso-8859-15", "cp1252"})
_KNOWN_CHARSET = re.compile(r"(?:windows-|cp|iso-?8859-|koi8-|gb|euc-|big5|shift|sjis|ks_c|macintosh|tis-620)[\w-]*")

# In these a tag is only text: a script may write one, a form for comments may hold one.
_TEXT_ENDS = {name: re.compile(rf"</(?i:{name})(?=[\s>/])") for name in ("script", "style", "textarea")}
_TAG = re.compile(rf"<(?:(?i:(title|meta|link|form|{'|'.join(_TEXT_ENDS)}))(?=[\s>/])|!--)")
_ATTRIBUTE = re.compile(r"[\s/]*([^\s=>\"'/<]{1,60})(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+)))?")
_TAG_END = re.compile(r"[\s/]*>")
_TITLE_END = re.compile(r"</title\s*>", re.IGNORECASE)
_MAX_TAGS = 5000
_MAX_ATTRIBUTES = 100

_DATA_NAMES = ("ytInitialPlayerResponse", "ytInitialData")
_LITERAL_NAMES = ("ytplayer.config", "yt.playerConfig", "swfConfig", "swfArgs", "PLAYER_CONFIG", "PLAYER_VARS")
_ASSIGNMENT = re.compile(
    r"(?P<name>" + "|".join(re.escape(name) for name in (*_DATA_NAMES, *_LITERAL_NAMES)) + r")"
    r"[\"'\]]{0,3}\s{0,20}[=:]\s{0,20}(?:JSON\.parse\()?(?=[{\"'])"
)
_MAX_FAILURES = 12
_MAX_OBJECTS = 200
_DECODER = json.JSONDecoder()

_TOKEN = re.compile(
    r"\s*(?:(?P<string>\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\"|'[^'\\]*+(?:\\.[^'\\]*+)*+')|(?P<word>[A-Za-z_$][\w$]*)"
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<mark>[{}\[\],:]))",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_CONSTANTS = frozenset({"true", "false", "null"})
_MAX_TOKENS = 50_000
_MAX_DEPTH = 100

# Before the JSON: a guard against scripts of other sites, or the name of a function to call.
_JSON_START = re.compile(r"\s*(?:\)\]\}'?,?\s*|(?:/\*\*/)?\s*[\w$.]{1,60}\s*\(\s*)?(?=[{\[])")
_FORM_START = re.compile(r"\s*[\w.%-]{1,60}=[^\s<>&=]*&")
_XML_START = re.compile(r"\s*(?:<\?xml\b[^<>]{0,200}\?>\s*)?<(?:\w{1,20}:)?(?:entry|oembed)[\s>]")
_MAX_FIELDS = 1000


def decode_page(body: bytes, content_type: str) -> tuple[str, bool]:
    """Returns the text of a page, and whether bytes of it could not be read.

    What is UTF-8 is read as that, whatever it says of itself: nothing else looks like it by accident. Then the header
    is believed, then the page, then Windows-1252 is taken. Pages that are still compressed are unpacked, characters
    that were written as two UTF-16 halves (CESU-8) are joined.

    Args:
        body: the page; the end may be missing.
        content_type: the header of the answer.
    """
    data = _unpacked(body)[:MAX_PAGE_BYTES]
    for mark, charset in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _repaired(data[len(mark) :], charset)
    text = _strictly(data, "utf-8")
    if text is not None:
        return text, False
    text, is_damaged = _repaired(data, "utf-8")
    if text.count("\ufffd") * 4 <= len(data.translate(None, _ASCII)):
        # Of the bytes outside ASCII most make sense.
        return text, is_damaged
    for charset in _declared_charsets(data, content_type):
        text = _strictly(data, charset)
        if text is not None:
            return text, False
    return _repaired(data, _WINDOWS_1252)


def _unpacked(body: bytes) -> bytes:
    """Raw captures may come compressed without a header that says so."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, MAX_PAGE_BYTES)
    except zlib.error:
        return body


def _strictly(data: bytes, charset: str) -> str | None:
    """Returns the text, None if a byte does not fit; a character cut off by the end of the page is dropped."""
    try:
        return codecs.getincrementaldecoder(charset)("strict").decode(data, final=False)
    except UnicodeDecodeError:
        return None


def _repaired(data: bytes, charset: str) -> tuple[str, bool]:
    errors = KEEP_HALVES if charset == "utf-8" else "replace"
    text = join_halves(codecs.getincrementaldecoder(charset)(errors).decode(data, final=False))
    return text, "\ufffd" in text


def _declared_charsets(data: bytes, content_type: str) -> Iterator[str]:
    header, meta = _HEADER_CHARSET.search(content_type), _META_CHARSET.search(data[:4096])
    for name in (header[1] if header else None, meta[1].decode("ascii") if meta else None):
        charset = (name or "").lower()
        if charset in _LATIN_1:
            yield _WINDOWS_1252
        elif _KNOWN_CHARSET.fullmatch(charset):
            try:
                yield codecs.lookup(charset).name
            except LookupError:
                continue


def parse_answer(text: str) -> object:
    """Returns what an answer says that is data altogether; None for a page, and where the data cannot be read.

    A form is given as the arguments of a player (``{"args": ...}``), XML as the JSON of the same service.
    """
    if start := _JSON_START.match(text):
        try:
            return _DECODER.raw_decode(text, start.end())[0]
        except (ValueError, RecursionError):
            return None
    if _FORM_START.match(text):
        try:
            fields = parse_qsl(text.strip(), max_num_fields=_MAX_FIELDS)
            # The last one may be cut off. An id or JSON would tell, a title would not.
            return {"args": dict(fields[:-1] if fields[-1:] and fields[-1][0] == "title" else fields)}
        except ValueError:
            return None
    return _parse_xml(text) if _XML_START.match(text) else None


def is_answer(text: str) -> bool:
    """Tells data from a page: by its first characters, as Content-Types lie. HTML inside data is no markup."""
    return any(start.match(text) for start in (_JSON_START, _FORM_START, _XML_START))


def _parse_xml(text: str) -> object:
    # Entities of its own may grow without bound, and none of these services defines any.
    if "<!" in text.partition("<![CDATA[")[0]:
        return None
    try:
        root = ElementTree.fromstring(text.strip())
    except (ElementTree.ParseError, ValueError):
        return None
    fields = {child.tag.rpartition("}")[2]: child.text or "" for child in reversed(root)}
    is_entry = root.tag.endswith("entry")
    return {"entry": {name: {"$t": value} for name, value in fields.items()}} if is_entry else fields


def read_tags(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yields the ``title``, ``meta``, ``link`` and ``form`` tags in their order, with names in lower case.

    Values are as the page spells them, entities and all; the text of a title is the value of its attribute "". What a
    comment or a script holds is no tag of the page, also where it is cut off before its end.
    """
    position = 0
    is_title_open = False
    for _ in range(_MAX_TAGS):
        tag = _TAG.search(text, position)
        if tag is None:
            return
        if tag[1] is None:
            # "<!-->" is a whole comment.
            position = text.find("-->", tag.end() - 2) + 3
            if position < 3:
                return
            continue
        name = tag[1].lower()
        attributes, position = _read_attributes(text, tag.end())
        if name in _TEXT_ENDS:
            text_end = _TEXT_ENDS[name].search(text, position)
            if text_end is None:
                return
            position = text_end.end()
            continue
        if name == "title":
            end = None if is_title_open else _TITLE_END.search(text, position)
            # Without this, every one of many open titles would be followed to the end of the page.
            is_title_open = end is None
            if end is None:
                continue
            attributes[""] = text[position : end.start()]
            position = end.end()
        yield name, attributes


def _read_attributes(text: str, position: int) -> tuple[dict[str, str], int]:
    """Returns the attributes that begin at a place, and where the tag ends."""
    attributes: dict[str, str] = {}
    while len(attributes) < _MAX_ATTRIBUTES and (match := _ATTRIBUTE.match(text, position)) is not None:
        name, *values = match.groups()
        attributes.setdefault(name.lower(), next((value for value in values if value is not None), ""))
        position = match.end()
    end = _TAG_END.match(text, position)
    return attributes, end.end() if end else position


def find_data(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the objects that the page's scripts assign to the names of interest, with the name, in their order.

    An object may be JSON, JSON in a string, or (in the configuration of old players) a JavaScript literal. What is
    inside an object that was read is not looked at again: a title may quote such an assignment.
    """
    position = num_failures = 0
    for _ in range(_MAX_OBJECTS):
        match = _ASSIGNMENT.search(text, position)
        if match is None or num_failures == _MAX_FAILURES:
            return
        value, position = _read_value(text, match.end(), may_be_literal=match["name"] in _LITERAL_NAMES)
        if isinstance(value, dict):
            yield match["name"], value
        else:
            # A failure may cost a walk to the end of the page.
            num_failures += 1


def _read_value(text: str, start: int, *, may_be_literal: bool) -> tuple[object, int]:
    """Returns the value at a place and where it ends; None where there is none that can be read."""
    try:
        if text[start] != "{":
            string, end = _read_string(text, start)
            return parse_json(string), end
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    try:
        return _read_literal(text, start) if may_be_literal else (None, start)
    except (ValueError, RecursionError):
        return None, start


def parse_json(text: object) -> object:
    """Returns what a JSON text says, None for anything that is not one."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _read_string(text: str, start: int) -> tuple[str, int]:
    token = _TOKEN.match(text, start)
    if token is None or token["string"] is None:
        raise ValueError("no string")
    return _unescaped(token["string"]), token.end()


def _read_literal(text: str, start: int) -> tuple[object, int]:
    """Reads an object written as JavaScript: names without quotes, single quotes, a comma after the last entry.

    Raises:
        ValueError: it is none, is cut off, or holds code.
    """
    pieces: list[str] = []
    depth, position = 0, start
    for _ in range(_MAX_TOKENS):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError("not a literal")
        position = token.end()
        mark = token["mark"]
        depth += (mark in ("{", "[")) - (mark in ("}", "]"))
        if mark in ("}", "]") and pieces and pieces[-1] == ",":
            pieces.pop()
        pieces.append(mark or _as_json(token))
        if depth == 0:
            return json.loads("".join(pieces)), position
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
    raise ValueError("too long")


def _as_json(token: re.Match[str]) -> str:
    if token["string"] is not None:
        return json.dumps(_unescaped(token["string"]))
    word: str = token["word"] or token["number"]
    return word if token["number"] is not None or word in _CONSTANTS else json.dumps(word)


def _unescaped(string: str) -> str:
    """Returns the text of a JavaScript string in quotes; two halves of a character become one."""
    text = _ESCAPE.sub(_unescape, string[1:-1])
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _ESCAPED.get(match[3], match[3])
