"""Parquet, as data sets are published on hubs."""

from __future__ import annotations

import io
from pathlib import Path

from bench.core.errors import UsageError, in_one_line
from bench.interfaces.prompt_source import MOST_ROWS
from bench.toolkit.prompt_files.table import Table, bounded_rows

__all__ = ["parquet_table"]


def parquet_table(path: Path, data: bytes, most: int) -> Table:
    """The rows of a Parquet file, numbered from 1; columns of bytes, such as images, are left out.

    Args:
        path: For errors.
        data: Of the file.
        most: Bytes of all values, at most.

    Raises:
        UsageError: it is no sound Parquet file, or too large.
    """
    import pyarrow as pa  # seconds that most suites need not wait
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            about = file.metadata
            if about.num_rows > MOST_ROWS:
                raise UsageError(
                    f"{path}: expected at most {MOST_ROWS} rows, got {about.num_rows}; split the file"
                )
            names = [
                field.name
                for field in file.schema_arrow
                if pa.types.is_string(field.type)
                or pa.types.is_large_string(field.type)
                or pa.types.is_dictionary(field.type)
                or pa.types.is_integer(field.type)
                or pa.types.is_floating(field.type)
                or pa.types.is_boolean(field.type)
            ]
            table = file.read(columns=names, use_threads=False)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: not valid Parquet ({in_one_line(error)})") from error
    if table.nbytes > most:
        raise UsageError(f"{path}: expected at most {most // 2**20} MiB of values, got more")
    rows = table.to_pylist()
    return Table(path, tuple(names), bounded_rows(path, enumerate(rows, start=1)))
