"""Archives of strangers: whatever they hold or say of themselves, one line, in bounded memory."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from k700_text import annotation_files
from k700_text.annotations import load_annotations
from k700_text.errors import AnnotationError

ROWS = b"label,youtube_id,time_start,time_end,split\n" + b"".join(
    b"yoga,%011d,%d,%d,val\n" % (place, place, place + 10) for place in range(200)
)


def tar(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for info, body in members:
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


def member(name: str = "val.csv", **headers: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = {f"GNU.sparse.{key}" if key != "size" else key: value for key, value in headers.items()}
    return info


def special(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    """A header that speaks of the next one, such as a long name."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, len(body) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def zipped(compression: int = zipfile.ZIP_DEFLATED, *, lie: int | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("val.csv", ROWS)
        if lie is not None:
            archive.filelist[0].file_size = lie
    return file.getvalue()


SPARSE_1 = b"1\n0\n%d\n" % len(ROWS)
BOMBS = {
    "sparse, a petabyte": tar((member(major="1", minor="0", name="val.csv", realsize=str(1 << 50)), SPARSE_1 + ROWS)),
    "sparse, version 0.1": tar((member(map="0,9", realsize=str(1 << 50), name="val.csv"), ROWS)),
    "sparse, a map of letters": tar((member(map="x,y"), ROWS)),
    "sparse, a map without end": tar((member(major="1", minor="0"), b"zz\n")),
    "sparse, old": special(tarfile.GNUTYPE_SPARSE, b"") + ROWS,
    "size of 400 digits": tar((member(size="9" * 400), ROWS)),
    "size below zero": tar((member(size="-512"), ROWS)),
    "size that leads back": tar((member(size="-1536"), ROWS)),
    "chained names": special(tarfile.GNUTYPE_LONGNAME, b"a") * 5000 + bytes(1024),
    "chained headers": special(tarfile.XHDTYPE, b"11 size=10\n") * 5000 + bytes(1024),
    "a name of a gigabyte": special(tarfile.GNUTYPE_LONGNAME, b"a" * 512, 1 << 30) + bytes(1024),
    "headers of a gigabyte": special(tarfile.XHDTYPE, b"x" * 512, 1 << 30) + bytes(1024),
    "zip in LZMA, which takes what memory it likes": zipped(zipfile.ZIP_LZMA),
    "zip with a lying size": zipped(lie=1 << 40),
    "zip of zeros": b"",
    "gzip of zeros": gzip.compress(bytes(1 << 20)) * 9,
    "gzip cut off": gzip.compress(ROWS)[:-9],
    "tar in gzip, cut off": gzip.compress(tar((member(), ROWS)))[:-20],
    "zip of an unknown kind": zipped().replace(b"\x08\x00", b"\x63\x00"),
    "zip64 end": zipped()[:-22] + b"PK\x06\x07" + bytes(16) + zipped()[-22:],
    "zip without members": b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(18),
}


def zip_of_zeros() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val.csv", bytes(1 << 24))
    return file.getvalue()


@pytest.mark.parametrize("name", BOMBS)
def test_an_archive_that_grows_or_breaks_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_files, "MAX_FILE_BYTES", 1 << 23)
    path = tmp_path / "k.archive"
    path.write_bytes(zip_of_zeros() if name == "zip of zeros" else BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(AnnotationError) as caught:
            load_annotations([path])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and "k.archive" in str(caught.value)
    assert peak < 1 << 26


GOOD: dict[str, Callable[[], bytes]] = {
    "tar": lambda: tar((member(), ROWS)),
    "tar, GNU, a long name": lambda: tar((tarfile.TarInfo("a" * 300 + "/val.csv"), ROWS), kind=tarfile.GNU_FORMAT),
    "tar, PAX, a long name": lambda: tar((tarfile.TarInfo("ä" * 300 + "/val.csv"), ROWS)),
    "tar in gzip": lambda: gzip.compress(tar((member(), ROWS))),
    "gzip": lambda: gzip.compress(ROWS[:50]) + gzip.compress(ROWS[50:]),
    **{
        f"zip {kind}": lambda kind=kind: zipped(kind)
        for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    },
}


@pytest.mark.parametrize("name", GOOD)
def test_no_damage_is_a_traceback(name: str, tmp_path: Path) -> None:
    whole = GOOD[name]()
    path = tmp_path / f"val.{'csv.gz' if name == 'gzip' else 'archive'}"
    path.write_bytes(whole)
    expected = load_annotations([path]).clips
    assert len(expected) == 200
    rng = random.Random(name)
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.2 else damaged)
        try:
            load_annotations([path])
        except AnnotationError as error:
            assert str(error)


def test_a_pipe_without_end_is_refused_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_files, "MAX_FILE_BYTES", 1 << 22)
    pipe = tmp_path / "val.csv"
    os.mkfifo(pipe)
    sent = 0

    def pour() -> None:
        nonlocal sent
        with pipe.open("wb", buffering=0) as file:
            try:
                while sent < 1 << 26:
                    sent += file.write(b"a" * (1 << 16))
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=pour)
    thread.start()
    with pytest.raises(AnnotationError, match=r"is too large \(more than 4194304 bytes\)"):
        load_annotations([pipe])
    thread.join()
    assert sent < 1 << 24


def test_many_members_cost_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_files, "MAX_ARCHIVE_MEMBERS", 50)
    many = tar(*((tarfile.TarInfo(f"{place}.txt"), b"") for place in range(60)), (member(), ROWS))
    (tmp_path / "many.tar").write_bytes(many)
    with pytest.raises(AnnotationError, match=r"many\.tar is a damaged archive \(it holds more than 50 members\)"):
        load_annotations([tmp_path / "many.tar"])


def test_the_command_stays_small(tmp_path: Path) -> None:
    """Also where a library below Python would take the memory."""
    (tmp_path / "k.tar").write_bytes(BOMBS["sparse, a petabyte"])
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30,) * 2);"
        "from k700_text.annotations import load_annotations; load_annotations([sys.argv[1]])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "k.tar"], capture_output=True, text=True, timeout=60
    )
    assert result.stderr.splitlines()[-1].startswith("k700_text.errors.AnnotationError: k.tar")
