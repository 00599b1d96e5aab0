"""Export of a manifest file for spreadsheets, where a title must not become a formula."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from k700_text.errors import ManifestError
from k700_text.files.atomic import whole_file
from k700_text.schema import flattened

# What spreadsheet programs take for the beginning of a formula.
_FORMULA = r"^[=+\-@\t\r]"


def write_csv(manifest: Path, target: Path) -> Path:
    """Writes a manifest as CSV and returns the file; cells that would be formulas get a leading apostrophe.

    Args:
        manifest: a Parquet file.
        target: the CSV; appears complete or not at all.

    Raises:
        ManifestError: the manifest is not Parquet.
        OSError: one of them cannot be read or written.
    """
    try:
        with pq.ParquetFile(manifest) as source, whole_file(target) as file:
            columns = source.schema_arrow.names
            options = pacsv.WriteOptions(quoting_style="needed")
            schema = flattened(source.schema_arrow)
            with pacsv.CSVWriter(file, schema, write_options=options) as writer:
                for batch in source.iter_batches():
                    arrays = [_escaped(batch.column(name)) for name in columns]
                    writer.write_batch(pa.record_batch(arrays, schema=schema))
    except pa.ArrowInvalid as error:
        raise ManifestError(f"cannot read {manifest} as Parquet: {error}") from error
    return target


def _escaped(column: pa.Array) -> pa.Array:
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, " ")
    if not pa.types.is_string(column.type):
        return column
    is_formula = pc.match_substring_regex(column, _FORMULA)
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", column, ""), column)
