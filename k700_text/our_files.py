"""Which of this package's files something is, by its content: people hand one over for another."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MANIFEST = "a manifest (k700-text manifest)"
PROBE_FILE = "a probe file (k700-text probe)"
PACKET_INDEX = "a packet index (k700-text probe --packets)"
TOKENIZER = "a tokenizer (k700-text tokenizer)"
LEDGER = "a ledger (k700-text crawl)"

LEDGER_APPLICATION_ID = 0x4B373030  # "K700", where SQLite keeps whose database it is

_TABLES = (
    (PROBE_FILE, {"clip_file", "video_status", "audio_status"}),
    (PACKET_INDEX, {"clip_file", "mtime_ns", "packets"}),
    ("an index of prepared shards (k700-text prepare)", {"clip_id", "record_offset", "shard"}),
    ("rows that a loader keeps", {"clip_id", "label", "title", "place"}),
    (MANIFEST, {"clip_id", "title", "availability"}),
)
_HEAD_BYTES = 4096


def kind_of_columns(names: Collection[str]) -> str | None:
    """Returns which of our tables has such columns, and what makes it; None for none of them."""
    return next((kind for kind, columns in _TABLES if columns <= set(names)), None)


def kind_of_ours(path: str | Path) -> str | None:
    """Returns which of our files a file is, and what makes it; None for none of them, or where it cannot be read."""
    with suppress(OSError, pa.ArrowException, ValueError):  # a name that is no UTF-8, say
        if not Path(path).is_file():  # a pipe would be waited for
            return None
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(b"SQLite format 3\0"):
            return LEDGER if int.from_bytes(head[68:72]) == LEDGER_APPLICATION_ID else None
        if head.startswith(b"PAR1"):
            return kind_of_columns(pq.read_schema(path).names)
        if head.startswith(b"ARROW1\0\0"):
            with pa.OSFile(str(path)) as source:
                return kind_of_columns(pa.ipc.open_file(source).schema.names)
        if head.lstrip().startswith(b"{") and b'"added_tokens"' in head:
            return TOKENIZER
    return None
