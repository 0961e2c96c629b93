"""Gathers the rows of many cells as one frame: no frame per cell, no text twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core.digest import DamagedError
from bench.tables.schema import Column, Schema, conform

__all__ = ["Gathered"]


class Gathered:
    """The rows of cells, and what is the same for all rows of a cell.

    Args:
        schema: Of the frame; its columns come from the rows or from what is said of their cell.
        elsewhere: The columns that neither has: they are missing until somebody joins them.
    """

    def __init__(self, schema: Schema, elsewhere: tuple[str, ...] = ()) -> None:
        self._schema = schema
        self._elsewhere = elsewhere
        self._own: dict[tuple[str, ...], tuple[list[Column], pa.Schema]] = {}
        self._tables: list[pa.Table] = []
        self._about: list[Mapping[str, Any]] = []

    def add(self, rows: pa.Table, about: Mapping[str, Any]) -> None:
        """Adds the rows of a cell.

        Args:
            rows: With the columns of the schema that are not in ``about``; others are left out.
            about: The columns that have one value in the whole cell.

        Raises:
            DamagedError: a value does not fit its column.
        """
        own, schema = self._columns(tuple(about))
        try:
            table = rows.select(schema.names)
            if table.schema.types != schema.types:
                table = table.cast(schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
            raise DamagedError(f"rows.parquet: {str(error).splitlines()[0][:200]}") from error
        for column, values in zip(own, table.itercolumns(), strict=True):
            if not column.nullable and values.null_count:
                raise DamagedError(f"rows.parquet: expected {column.name!r} in every row")
        self._tables.append(table)
        self._about.append(about)

    def _columns(self, about: tuple[str, ...]) -> tuple[list[Column], pa.Schema]:
        """The columns that rows bring themselves, where these others are said of their cell."""
        if about not in self._own:
            away = {*about, *self._elsewhere}
            own = [c for c in self._schema.columns if c.name not in away]
            self._own[about] = own, pa.schema([(c.name, c.type) for c in own])
        return self._own[about]

    def frame(self) -> pd.DataFrame:
        """Returns all rows in the order they were added in, with the columns of the schema."""
        if not self._tables:
            return self._schema.empty()
        sizes = [len(table) for table in self._tables]
        rows = pa.concat_tables([table.replace_schema_metadata() for table in self._tables])
        columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
        for name in self._about[0]:
            columns[name] = _repeated([about[name] for about in self._about], sizes)
        for name in self._elsewhere:
            columns[name] = pa.nulls(len(rows))
        return conform(
            pd.DataFrame({n: columns[n].to_pandas() for n in self._schema.names}), self._schema
        )


def _repeated(values: list[Any], sizes: list[int]) -> pa.Array:
    """Each value as often as its cell has rows."""
    codes, once = pd.factorize(np.array(values, dtype=object))  # -1: there is no value
    places = np.repeat(codes, sizes).astype(np.int32)
    return pa.array(once.tolist()).take(pa.array(places, mask=places < 0))
