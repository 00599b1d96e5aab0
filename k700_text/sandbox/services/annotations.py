"""The annotation archives: ``kinetics700_2020.tar.gz`` and ``kinetics700.tar.gz``, laid out as the official ones.

Two stores hold them, as in the world: a Google bucket the archives, an Amazon bucket the CSV of each split.
"""

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
from k700_text.sandbox.services.objects import StoredObject, crc32c, xml_error

_ROOT = "/deepmind-media/Datasets/"
_NAMES = ("kinetics700_2020", "kinetics700")
_OFFICIAL_SPLIT = {Split.TRAIN: "train", Split.VAL: "validate", Split.TEST: "test"}
_PUBLISHED_AT = 1_603_000_000.0
_CVDF_ROOT = "/kinetics/700_2020/"
_CVDF_CSV = re.compile(r"annotations/(train|val|test)\.csv")
_PART_BYTES = 8 << 20


class Annotations:
    """``/deepmind-media/Datasets/<name>.tar.gz`` in the Google bucket, with ETag, checksums and ranges.

    Args:
        clips: the annotated clips; without any, the archives do not exist.
    """

    name = "annotations"

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._clips = tuple(clips)
        self._archives: dict[str, StoredObject] = {}
        self._generation = 0

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith(_ROOT)

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns no ids: the archives are about all of them."""
        return ()

    def answer(self, request: Request) -> Response:
        """Returns an archive or the asked range of it."""
        name = request.path.removeprefix(_ROOT).removesuffix(".tar.gz")
        if name not in _NAMES or not self._clips or not request.path.endswith(".tar.gz"):
            return xml_error(404, "NoSuchKey", "The specified key does not exist.")
        if name not in self._archives:
            self._archives[name] = self._store(build_archive(name, self._clips, mtime=self._generation))
        return self._archives[name].answer(request)

    def republish(self) -> None:
        """Replaces the archives by a new version of the same content: other bytes, another ETag."""
        self._generation += 1
        self._archives = {}

    def _store(self, body: bytes) -> StoredObject:
        digest = hashlib.md5(body, usedforsecurity=False)
        headers = (
            ("x-goog-hash", f"crc32c={base64.b64encode(crc32c(body)).decode()}"),
            ("x-goog-hash", f"md5={base64.b64encode(digest.digest()).decode()}"),
            ("x-goog-generation", str(1_603_000_000_000_000 + self._generation)),
            ("x-goog-stored-content-length", str(len(body))),
            ("Last-Modified", formatdate(_PUBLISHED_AT + self._generation, usegmt=True)),
            ("Content-Type", "application/x-tar"),
            ("Server", "UploadServer"),
        )
        return StoredObject(body, f'"{digest.hexdigest()}"', headers)


class CvdfAnnotations:
    """``/kinetics/700_2020/annotations/<split>.csv`` in the Amazon bucket, which tells nobody what it lacks.

    Args:
        clips: the annotated clips.
    """

    name = "cvdf"

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._clips = tuple(clips)

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith("/kinetics/")

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns no ids: the files are about all of them."""
        return ()

    def answer(self, request: Request) -> Response:
        """Returns a CSV or a range of it; 403 for a missing file, 404 for a missing folder."""
        if not request.path.startswith(_CVDF_ROOT):
            return xml_error(404, "NoSuchKey", "The specified key does not exist.")
        found = _CVDF_CSV.fullmatch(request.path.removeprefix(_CVDF_ROOT))
        if found is None:
            # Without the right to list the bucket, a missing key is a forbidden one.
            return xml_error(403, "AccessDenied", "Access Denied")
        split = Split.parse(found[1])
        body = annotations_csv([clip for clip in self._clips if clip.split is split]).encode()
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
        # The ETag of a file that was uploaded in parts is no md5 of it.
        etag = f'"{digest}-{-(-len(body) // _PART_BYTES)}"'
        headers = (("Content-Type", "text/csv"), ("Server", "AmazonS3"), ("x-amz-request-id", "SANDBOX"))
        return StoredObject(body, etag, headers).answer(request)


def build_archive(name: str, clips: Sequence[Clip], *, mtime: int = 0) -> bytes:
    """Returns a tar.gz with ``<name>/{train,validate,test}.{csv,json}``; same clips and time give the same bytes.

    Args:
        name: name of the archive and of the folder in it.
        clips: the annotated clips.
        mtime: time of compression (seconds since 1970), which is part of the bytes.
    """
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=mtime) as compressed,
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
