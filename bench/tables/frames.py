"""Holds a frame to its schema: columns, types, values that may be missing; and documents schemas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
from pandas.api import types

from bench.core.errors import UsageError

__all__ = [
    "SCHEMA_VERSION",
    "Column",
    "Schema",
    "SchemaError",
    "as_markdown",
    "check",
    "conform",
    "read_table",
    "require_columns",
    "to_arrow",
]

SCHEMA_VERSION = 1


class SchemaError(ValueError):
    """A frame does not have the columns of its schema."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        type: Its pyarrow type, in memory and in Parquet.
        description: What it says.
        choices: The only values it may hold; empty for any.
        nullable: Whether it may be missing.
    """

    name: str
    type: pa.DataType
    description: str
    choices: tuple[str, ...] = ()
    nullable: bool = False

    @property
    def dtype(self) -> str:
        """The pandas dtype that :func:`conform` gives it."""
        if pa.types.is_string(self.type):
            return "str"
        if pa.types.is_integer(self.type) and self.nullable:
            return "Int64"
        return str(self.type.to_pandas_dtype().__name__)

    def fault(self, values: pd.Series) -> str:
        """Says what is wrong with the values; empty if nothing is."""
        if not _KINDS[_kind(self.type)](values):
            return f"{self.name}: expected {self.type}, got {values.dtype}"
        if not self.nullable and bool(values.isna().any()):
            return f"{self.name}: expected a value in every row, {int(values.isna().sum())} missing"
        unknown = sorted(set(values.unique()) - set(self.choices)) if self.choices else []
        if unknown:
            return f"{self.name}: expected one of {', '.join(self.choices)}; got {unknown[:5]}"
        return ""


@dataclass(frozen=True, slots=True)
class Schema:
    """A table: what a row is, and its columns in order."""

    name: str
    description: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    @property
    def arrow(self) -> pa.Schema:
        """The pyarrow schema, with the descriptions as metadata."""
        fields = [
            pa.field(c.name, c.type, nullable=c.nullable, metadata={"description": c.description})
            for c in self.columns
        ]
        version = {"schema": self.name, "schema_version": str(SCHEMA_VERSION)}
        return pa.schema(fields, metadata=version)

    def as_json(self) -> dict[str, object]:
        """Describes every column."""
        return {
            "description": self.description,
            "columns": [
                {
                    "name": column.name,
                    "type": str(column.type),
                    "nullable": column.nullable,
                    "values": list(column.choices),
                    "description": column.description,
                }
                for column in self.columns
            ],
        }

    def empty(self) -> pd.DataFrame:
        """A frame without rows."""
        return pd.DataFrame({c.name: pd.Series(dtype=c.dtype) for c in self.columns})


def read_table(source: Path | BinaryIO) -> pd.DataFrame:
    """A committed CSV, in which nothing but an empty cell is missing: a method may be called "None".

    Raises:
        OSError: there is no such file.
        ValueError: it is no CSV.
    """
    return pd.read_csv(source, keep_default_na=False, na_values=[""])


def require_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Refuses what is no table of a report, such as another CSV.

    Raises:
        UsageError: it lacks one of the columns.
    """
    if lacking := [name for name in names if name not in table]:
        raise UsageError(f"expected a table.csv of a report, got one without {', '.join(lacking)}")


def as_markdown(schemas: Sequence[Schema]) -> str:
    """The page that documents the columns."""
    lines = [
        "# The columns of a report",
        "",
        "Printed by `python -m bench.tables.schema`; not edited by hand.",
        "",
        "In CSV, text that begins with `=`, `+`, `-`, `@` or an apostrophe has an apostrophe before it. So no "
        "spreadsheet takes it for a formula. Parquet has the text as it is.",
    ]
    for schema in schemas:
        lines += ["", f"## `{schema.name}`", "", schema.description, ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        for column in schema.columns:
            kind = f"{column.type}, may be missing" if column.nullable else str(column.type)
            choices = f" One of {', '.join(f'`{c}`' for c in column.choices)}." * bool(
                column.choices
            )
            lines.append(f"| `{column.name}` | {kind} | {column.description}{choices} |")
    return "\n".join(lines) + "\n"


def check(frame: pd.DataFrame, schema: Schema) -> None:
    """Holds a frame to its schema; the widths of numbers and the order of columns are free.

    Raises:
        SchemaError: naming every missing, unexpected and wrong-typed column.
    """
    missing = [name for name in schema.names if name not in frame]
    extra = [str(name) for name in frame if name not in schema.names]
    twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
    faults = [f"missing: {', '.join(missing)}"] if missing else []
    faults += [f"unexpected: {', '.join(extra)}"] if extra else []
    faults += [f"more than once: {', '.join(twice)}"] if twice else []
    present = [c for c in schema.columns if c.name in frame and c.name not in twice]
    if len(frame):  # the columns of a frame without rows have no type yet
        faults += [fault for column in present if (fault := column.fault(frame[column.name]))]
    if faults:
        where = "bench.tables.schema"
        raise SchemaError(f"{schema.name} rows are not as in {where}: {'; '.join(faults)}")


def to_arrow(frame: pd.DataFrame, schema: Schema) -> pa.Table:
    """The frame with exactly the schema's columns and types; NaN becomes null.

    Raises:
        SchemaError: if :func:`check` refuses the frame, or a value does not fit its type.
    """
    check(frame, schema)
    return pa.Table.from_arrays([_array(frame, c) for c in schema.columns], schema=schema.arrow)


def conform(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The frame with the schema's columns in order and of exactly its types.

    Unlike :func:`check` it takes whatever converts without loss, such as a column of None for
    numbers that are all missing.

    Raises:
        SchemaError: if that is not possible.
    """
    if set(frame.columns) != set(schema.names):
        check(frame, schema)
    typed = pd.DataFrame(
        {c.name: pd.Series(_array(frame, c).to_pandas(), dtype=c.dtype) for c in schema.columns}
    )
    check(typed, schema)
    return typed


_KINDS = {
    "string": types.is_string_dtype,
    "bool": types.is_bool_dtype,
    "integer": types.is_integer_dtype,
    "float": types.is_float_dtype,
}


def _kind(of: pa.DataType) -> str:
    if pa.types.is_string(of):
        return "string"
    if pa.types.is_boolean(of):
        return "bool"
    return "integer" if pa.types.is_integer(of) else "float"


def _array(frame: pd.DataFrame, column: Column) -> pa.Array:
    values = frame[column.name]
    try:
        array = pa.array(values, type=column.type, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"{column.name}: expected {column.type}, got {values.dtype}: {error}"
        ) from error
    if array.null_count and not column.nullable:
        raise SchemaError(
            f"{column.name}: expected a value in every row, {array.null_count} missing"
        )
    return array
