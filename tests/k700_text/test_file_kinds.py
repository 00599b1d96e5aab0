from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from k700_text.annotations import load_annotations
from k700_text.cli import main
from k700_text.cli.common import run_guarded
from k700_text.crawl.sources.dumps import read_dump
from k700_text.errors import K700TextError
from k700_text.file_kinds import foreign_kind
from k700_text.manifest.validate import validate_manifest
from k700_text.schema import MANIFEST_SCHEMA, read_table
from k700_text.terminal import readable

TEXT = b"id,title\ndQw4w9WgXcQ,a title\n" * 40


def packed(kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=sink, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("titles.txt"))
    elif kind == "zip":
        with zipfile.ZipFile(sink, "w") as zipped:
            zipped.writestr("titles.txt", TEXT)
    elif kind == "arrow":
        table = pa.table({"id": ["x"]})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif kind == "orc":
        orc.write_table(pa.table({"id": ["x"]}), sink)
    elif kind == "npy":
        np.save(sink, np.zeros(3))
    elif kind == "zstd":
        sink.write(pa.Codec("zstd").compress(TEXT, asbytes=True))
    return sink.getvalue()


def sqlite(path: Path) -> bytes:
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (id text)")
    return path.read_bytes()


FILES = {
    "xz": (lzma.compress(TEXT), "an xz file"),
    "bz2": (bz2.compress(TEXT), "a bzip2 file"),
    "empty.bz2": (bz2.compress(b""), "a bzip2 file"),
    "gz.gz": (gzip.compress(gzip.compress(TEXT)), "a gzip file"),
    "xz.gz": (gzip.compress(lzma.compress(TEXT)), "an xz file"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
    "html": (b"\n <!DOCTYPE html>\n<html><body>Sign in, please</body></html>", "a web page"),
    "quirky.html": (b"<HTML><HEAD>", "a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML or HTML document"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "a Git LFS pointer"),
    "utf16": (TEXT.decode().encode("utf-16-le"), "UTF-16 text without"),
    "utf16be": (TEXT.decode().encode("utf-16-be"), "UTF-16 text without"),
    "utf32": (TEXT.decode().encode("utf-32"), "UTF-32 text"),
    "unknown": (b"\x01\x02\x03\x1b[2Jabc\n", "binary data of an unknown kind"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
    "jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture"),
    "arrow": (packed("arrow"), "an Arrow file"),
    "zst": (packed("zstd"), "a Zstandard file"),
    "orc": (packed("orc"), "an ORC file"),
    "npy": (packed("npy"), "a NumPy array"),
    "pickle": (pickle.dumps(TEXT), "a Python pickle"),
    "lzma": (lzma.compress(TEXT, format=lzma.FORMAT_ALONE), "an LZMA file"),
    # Heads alone: nothing at hand writes these.
    "feather": (b"FEA1\0\0\0\0\x01\0\0\0", "a Feather file"),
    "lz": (b"LZIP\x01\x0c" + bytes(range(40)), "an lzip file"),
    "sz": (b"\xff\x06\0\0sNaPpY\0\x10\0\0", "a Snappy file"),
    "avro": (b"Obj\x01\x04\x14avro.codec\x08null", "an Avro file"),
    "a": (b"!<arch>\ntitles.csv/    0           0     0     644     4         `\n", "an ar archive"),
    "locked": (b"PARE\x15\x04\x15", "an encrypted Parquet file"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named_and_says_what_to_do(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, kind = FILES[name]
    path = tmp_path / f"train.{name}"
    path.write_bytes(content)
    for read in (lambda: list(read_dump(path)), lambda: load_annotations([path])):
        with pytest.raises(K700TextError) as caught:
            read()
        text = str(caught.value)
        assert kind in text and path.name.removesuffix(".gz") in text
        assert text.isprintable() and "\ufffd" not in text and ": " in text.partition(kind)[2]
    assert run_guarded(lambda: main._invoke(["annotations", str(path)]), debug=False) == 1
    assert capsys.readouterr().err.strip().isprintable()


def test_what_only_one_of_them_reads(tmp_path: Path) -> None:
    (tmp_path / "train.sqlite").write_bytes(sqlite(tmp_path / "made.sqlite"))
    (tmp_path / "train.zip").write_bytes(packed("zip"))
    (tmp_path / "train.tar.gz").write_bytes(gzip.compress(packed("tar")))
    pq.write_table(pa.table({"id": ["dQw4w9WgXcQ"], "title": ["x"]}), tmp_path / "train.parquet")
    for name, kind in (("sqlite", "an SQLite"), ("zip", "a zip archive"), ("tar.gz", "a tar archive")):
        with pytest.raises(K700TextError, match=kind):
            list(read_dump(tmp_path / f"train.{name}"))
    for name, kind in (("sqlite", "an SQLite"), ("parquet", "a Parquet file"), ("zip", "holds no .csv")):
        with pytest.raises(K700TextError, match=kind):
            load_annotations([tmp_path / f"train.{name}"])


def test_a_manifest_of_another_kind_is_named(tmp_path: Path) -> None:
    for name, kind in (("lfs", "a Git LFS pointer: fetch"), ("html", "a web page: download"), ("xz", "an xz file")):
        (tmp_path / "train.parquet").write_bytes(FILES[name][0])
        for read in (validate_manifest, lambda path: read_table(path, MANIFEST_SCHEMA)):
            with pytest.raises(K700TextError, match=rf"train\.parquet as Parquet: it is {kind}"):
                read(tmp_path / "train.parquet")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(K700TextError, match=r"train\.parquet as Parquet: .*footer"):
        validate_manifest(tmp_path / "train.parquet")


def test_a_member_of_an_archive_may_be_of_another_kind(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train.csv", FILES["lfs"][0])
    with pytest.raises(K700TextError, match=r"a\.zip:train\.csv is a Git LFS pointer"):
        load_annotations([tmp_path / "a.zip"])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        TEXT,
        b"ORCID,title\n",
        b"PARENT,title\n",
        b"FEA1,FEA2\n",
        b"]\n",
        b"\xef\xbb\xbf" + TEXT,
        TEXT.decode().encode("utf-16"),
        b"id\ttitle\r\n\0damaged",
        b'{"id": 1}',
        b"[1, 2]",
        "\u540d\u524d,id\n".encode(),
        b"BZh,PK,GIF\n",
        "caf\xe9,id\n".encode("latin-1"),
    ],
)
def test_what_may_be_a_table_of_text_is_no_foreign_kind(head: bytes) -> None:
    assert foreign_kind(head) is None


def test_a_header_reaches_the_terminal_as_text(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"a,caf\xe9\x80\n" + "\u202ex,\u2028\n".encode())
    with pytest.raises(K700TextError) as caught:
        list(read_dump(tmp_path / "train.csv"))
    assert str(caught.value).isprintable() and "found: a, caf?)" in str(caught.value)
    (tmp_path / "train.csv").write_text("a,\x9b31mb\u202e\n")
    for read in (lambda: list(read_dump(tmp_path / "train.csv")), lambda: load_annotations([tmp_path / "train.csv"])):
        with pytest.raises(K700TextError, match=r"found: a, \?31mb\?\)"):
            read()
    assert readable("x" * 400, 5) == "xxxxx..."


@pytest.mark.parametrize("sign", ["\x1b]0;x\x07", "\x1b[31m", "\x9b2J", "\u202e"])
def test_names_of_files_and_members_do_not_steer_the_terminal(
    tmp_path: Path, sign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = "yoga,short,1,11,train\n", "yoga,dQw4w9WgXcQ,1,11,train\n"
    text = f"label,youtube_id,time_start,time_end,split\n{bad}{good}"
    plain, packed_up = tmp_path / f"tr{sign}ain.csv", tmp_path / "train.zip"
    plain.write_text(text)
    with zipfile.ZipFile(packed_up, "w") as archive:
        archive.writestr(f"tr{sign}ain.csv", text)
    folder = tmp_path / f"m{sign}"
    for path in (plain, packed_up):
        for options, code in ((["--skip-invalid"], 0), ([], 1)):
            assert run_guarded(lambda: main._invoke(["annotations", str(path), *options]), debug=False) == code  # noqa: B023
            assert "line 2" in _printable(capsys)
    for words in (["validate", str(folder)], ["annotations", str(folder)]):
        assert run_guarded(lambda: main._invoke(words), debug=False) != 0  # noqa: B023
        assert "m" in _printable(capsys)


def _printable(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).split("\n")), (out, err)
    return err + out
