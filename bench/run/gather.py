"""Gathers the rows of many cells as one frame: no frame per cell, no text twice.

The rows wait as they were read, and hundreds of cells are joined at once. To join each by itself takes ten
times as long, and leaves a hundred small pieces of memory per cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core.digest import DamagedError
from bench.run.joined import Scored, joined
from bench.tables.schema import Column, Schema, conform

__all__ = ["Gathered"]

_TOGETHER = 256
"""Cells that are joined at once."""
_OF_SCORES = ("label", "value", "counts")
_SCORES = pa.schema(
    [
        ("image", pa.int64()),
        ("label", pa.string()),
        ("value", pa.float32()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)


class Gathered:
    """The rows of cells, and what is the same for all rows of a cell.

    Args:
        schema: Of the frame; its columns come from the rows or from what is said of their cell.
        value: The column that the values of the scores are.
        elsewhere: The columns that neither has: they are missing until somebody joins them.
    """

    def __init__(self, schema: Schema, value: str, elsewhere: tuple[str, ...] = ()) -> None:
        self._schema = schema
        self._value = value
        self._elsewhere = elsewhere
        self._own: dict[tuple[str, ...], tuple[list[Column], pa.Schema]] = {}
        self._images: tuple[pa.Table, pa.Table] | None = None
        self._waiting: list[Scored] = []
        self._tables: list[pa.Table] = []
        self._sizes: list[int] = []
        self._about: list[Mapping[str, Any]] = []

    def add(self, rows: Scored, about: Mapping[str, Any]) -> None:
        """Adds the rows of a cell.

        Args:
            rows: With the columns of the schema that are not in ``about``; others are left out.
            about: The columns that have one value in the whole cell.

        Raises:
            DamagedError: a value does not fit its column.
        """
        own, schema = self._columns(tuple(about))
        names = {column.name for column in own if not column.nullable}
        said = ("label", "status", "reason") if "label" in self._schema.names else _SCORES.names[3:]
        if self._images is None or self._images[0] is not rows.images:  # judges see the same ones
            self._images = rows.images, _fitting(rows.images, schema, names)
        scores = _fitting(rows.scores, _SCORES, {"image", *said})
        part = Scored(self._images[1], scores, rows.counting)
        if self._waiting and not _alike(self._waiting[-1], part):
            self._join()
        self._waiting.append(part)
        self._sizes.append(len(part.scores))
        self._about.append(about)
        if len(self._waiting) == _TOGETHER:
            self._join()

    def _columns(self, about: tuple[str, ...]) -> tuple[list[Column], pa.Schema]:
        """The columns of images that rows bring themselves, where these others are said of their cell."""
        if about not in self._own:
            away = {*about, *self._elsewhere, *_OF_SCORES, self._value}
            own = [c for c in self._schema.columns if c.name not in away]
            self._own[about] = own, pa.schema([(c.name, c.type) for c in own])
        return self._own[about]

    def _join(self) -> None:
        """Joins what waits, as columns of the frame."""
        rows = joined(self._waiting)
        names = [self._value if name == "value" else name for name in rows.column_names]
        rows = rows.rename_columns(names)
        kept = [c for c in self._schema.columns if c.name in names]
        rows = rows.select([c.name for c in kept])
        self._tables.append(rows.cast(pa.schema([(c.name, c.type) for c in kept])).combine_chunks())
        self._waiting, self._images = [], None

    def frame(self) -> pd.DataFrame:
        """Returns all rows in the order they were added in, with the columns of the schema, and forgets them."""
        return conform(self.rows(), self._schema)

    def rows(self) -> pd.DataFrame:
        """Returns what :meth:`frame` does, for somebody who joins the columns that are elsewhere and conforms it."""
        if self._waiting:
            self._join()
        if not self._tables:
            return self._schema.empty()
        rows, self._tables = pa.concat_tables(self._tables), []
        columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
        total = len(rows)
        del rows  # a column goes when the frame has it
        for name in self._about[0]:
            columns[name] = _repeated([about[name] for about in self._about], self._sizes)
        for name in self._elsewhere:
            columns[name] = pa.nulls(total)
        return pd.DataFrame({n: columns.pop(n).to_pandas() for n in self._schema.names})


def _alike(one: Scored, other: Scored) -> bool:
    """Whether two parts have the same types, so that they can be joined at once."""
    return bool(
        one.images.schema.types == other.images.schema.types
        and one.scores.schema.types == other.scores.schema.types
    )


def _fitting(table: pa.Table, schema: pa.Schema, whole: set[str]) -> pa.Table:
    """The columns of a schema, of its types or of such as fit them in any case.

    Args:
        table: With these columns and others.
        schema: What they are.
        whole: The columns that have a value in every row.

    Raises:
        DamagedError: a column lacks, or a value, or it does not fit its type.
    """
    try:
        found = table.select(schema.names)
        if not all(map(_fits, found.schema.types, schema.types)):
            found = found.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise DamagedError(f"rows.parquet: {str(error).splitlines()[0][:200]}") from error
    for name, values in zip(found.column_names, found.itercolumns(), strict=True):
        if name in whole and values.null_count:
            raise DamagedError(f"rows.parquet: expected {name!r} in every row")
    return found


def _fits(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether all values of a type are of another: text is written by pandas as large text."""
    text = pa.types.is_string(wanted) and pa.types.is_large_string(kind)
    integer = pa.types.is_int64(wanted) and pa.types.is_int32(kind)
    return bool(kind == wanted or text or integer)


def _repeated(values: list[Any], sizes: list[int]) -> pa.Array:
    """Each value as often as its cell has rows."""
    codes, once = pd.factorize(np.array(values, dtype=object))  # -1: there is no value
    places = np.repeat(codes, sizes).astype(np.int32)
    return pa.array(once.tolist()).take(pa.array(places, mask=places < 0))
