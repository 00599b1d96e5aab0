"""The annotation archives: ``kinetics700_2020.tar.gz`` and ``kinetics700.tar.gz``, laid out as the official ones."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from email.utils import formatdate

from k700_text.records import Clip, Split
from k700_text.sandbox.messages import Request, Response

_ROOT = "/deepmind-media/Datasets/"
_NAMES = ("kinetics700_2020", "kinetics700")
_OFFICIAL_SPLIT = {Split.TRAIN: "train", Split.VAL: "validate", Split.TEST: "test"}
_PUBLISHED_AT = 1_603_000_000.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MISSING = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code>"
    b"<Message>The specified key does not exist.</Message></Error>"
)


class Annotations:
    """``/deepmind-media/Datasets/<name>.tar.gz``, with ETag, checksum and ranges.

    Args:
        clips: the annotated clips; without any, the archives do not exist.
    """

    name = "annotations"

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._clips = tuple(clips)
        self._archives: dict[str, bytes] = {}

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith(_ROOT)

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns no ids: the archives are about all of them."""
        return ()

    def answer(self, request: Request) -> Response:
        """Returns an archive or the asked range of it."""
        body = self._archive(request.path.removeprefix(_ROOT).removesuffix(".tar.gz"))
        if body is None or not request.path.endswith(".tar.gz"):
            return Response(404, (("Content-Type", "application/xml; charset=UTF-8"),), _MISSING)
        digest = hashlib.md5(body, usedforsecurity=False)
        headers = (
            ("ETag", f'"{digest.hexdigest()}"'),
            ("x-goog-hash", f"md5={base64.b64encode(digest.digest()).decode()}"),
            ("x-goog-stored-content-length", str(len(body))),
            ("Last-Modified", formatdate(_PUBLISHED_AT, usegmt=True)),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/x-tar"),
            ("Server", "UploadServer"),
        )
        if request.header("if-none-match") == headers[0][1]:
            return Response(304, headers)
        is_current = request.header("if-range") in ("", headers[0][1])
        return _ranged(request.header("range") if is_current else "", Response(200, headers, body))

    def _archive(self, name: str) -> bytes | None:
        if name not in _NAMES or not self._clips:
            return None
        if name not in self._archives:
            self._archives[name] = build_archive(name, self._clips)
        return self._archives[name]


def build_archive(name: str, clips: Sequence[Clip]) -> bytes:
    """Returns a tar.gz with ``<name>/{train,validate,test}.{csv,json}``; the same clips give the same bytes."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for split, spelling in _OFFICIAL_SPLIT.items():
            chosen = [clip for clip in clips if clip.split is split]
            for suffix, text in (("csv", annotations_csv(chosen)), ("json", annotations_json(chosen))):
                content = text.encode()
                member = tarfile.TarInfo(f"{name}/{spelling}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def annotations_csv(clips: Iterable[Clip]) -> str:
    """Returns the official CSV of one split: test files carry no label."""
    output = io.StringIO(newline="")
    writer = csv.writer(output, lineterminator="\n")
    rows = list(clips)
    has_label = not rows or rows[0].split is not Split.TEST
    writer.writerow((*(("label",) if has_label else ()), "youtube_id", "time_start", "time_end", "split"))
    for clip in rows:
        times = (int(clip.start_seconds), int(clip.end_seconds))
        spelling = _OFFICIAL_SPLIT[clip.split]
        writer.writerow((*((clip.label,) if has_label else ()), clip.youtube_id, *times, spelling))
    return output.getvalue()


def annotations_json(clips: Iterable[Clip]) -> str:
    """Returns the official JSON of one split: an object by id, so that of two clips of one video the later stays."""
    values = {}
    for clip in clips:
        annotation: dict[str, object] = {"segment": [clip.start_seconds, clip.end_seconds]}
        if clip.split is not Split.TEST:
            annotation["label"] = clip.label
        values[clip.youtube_id] = {
            "annotations": annotation,
            "duration": clip.end_seconds - clip.start_seconds,
            "subset": _OFFICIAL_SPLIT[clip.split],
            "url": f"https://www.youtube.com/watch?v={clip.youtube_id}",
        }
    return json.dumps(values, indent=1, sort_keys=True)


def _ranged(header: str, whole: Response) -> Response:
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return whole
    size = len(whole.body)
    if found[1]:
        start, end = int(found[1]), min(int(found[2] or size - 1), size - 1)
    else:
        start, end = max(size - int(found[2]), 0), size - 1
    if start > end or start >= size:
        return Response(416, (*whole.headers, ("Content-Range", f"bytes */{size}")))
    headers = (*whole.headers, ("Content-Range", f"bytes {start}-{end}/{size}"))
    return Response(206, headers, whole.body[start : end + 1])
