"""Export of manifest files as CSV: as they are for joins, or so that no title becomes a formula in a spreadsheet."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from k700_text.errors import ManifestError
from k700_text.files.atomic import whole_file
from k700_text.media.coverage import escaped
from k700_text.schema import flattened


def write_csvs(manifests: Sequence[Path], *, plain: bool, for_spreadsheets: bool) -> list[Path]:
    """Writes manifest files as ``<split>.csv``, and as ``<split>.spreadsheet.csv``, and returns these files.

    Raises:
        ManifestError, OSError: as ``write_csv``.
    """
    files = [write_csv(each, each.with_suffix(".csv")) for each in manifests if plain]
    for each in manifests if for_spreadsheets else ():
        files.append(write_csv(each, each.with_suffix(".spreadsheet.csv"), for_spreadsheets=True))
    return files


def write_csv(manifest: Path, target: Path, *, for_spreadsheets: bool = False) -> Path:
    """Writes a manifest as CSV in UTF-8 and returns the file. Text is in quotes, what is null is nothing at all.

    Args:
        manifest: a Parquet file.
        target: the CSV; appears complete or not at all.
        for_spreadsheets: begin with a byte order mark, and put an apostrophe before cells that would be formulas.

    Raises:
        ManifestError: the manifest is not Parquet.
        OSError: one of them cannot be read or written.
    """
    try:
        with pq.ParquetFile(manifest) as source, whole_file(target) as file:
            file.write(codecs.BOM_UTF8 if for_spreadsheets else b"")
            schema = flattened(source.schema_arrow)
            with pacsv.CSVWriter(file, schema, write_options=pacsv.WriteOptions(quoting_style="needed")) as writer:
                for batch in source.iter_batches():
                    arrays = [_flat(batch.column(name)) for name in schema.names]
                    arrays = [escaped(each) for each in arrays] if for_spreadsheets else arrays
                    writer.write_batch(pa.record_batch(arrays, schema=schema))
    except pa.ArrowInvalid as error:
        raise ManifestError(f"cannot read {manifest} as Parquet: {error}") from error
    return target


def _flat(column: pa.Array) -> pa.Array:
    return pc.binary_join(column, " ") if pa.types.is_list(column.type) else column
