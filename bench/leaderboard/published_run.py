"""A published run, read from its folder as strictly as it was written: rows, provenance, digests of its files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.core.digest import file_sha256, parse_json
from bench.core.errors import UsageError, in_one_line, shown
from bench.core.files import bounded, regular
from bench.core.json_files import read_object
from bench.report.place import PAGE
from bench.tables.frames import Schema, SchemaError, conform
from bench.tables.schema import CELLS, DISTANCES, EDITS, TRIALS, UTILITY

__all__ = ["Line", "PublishedRun", "files_of", "read_distances", "read_run"]

Line = tuple[str, str, int]
"""A method, a concept and a repeat: what tables have a line of."""

_ROWS: Final = {"trials": TRIALS, "utility": UTILITY, "edits": EDITS}
_TABLES: Final = ("table.csv", "worst.csv", "flags.csv")
_NEEDED: Final = (*(f"{name}.parquet" for name in _ROWS), "cells.csv", "provenance.json", *_TABLES)
_WANTED: Final = ("candidates.jsonl", "candidates.safetensors")
_MOST: Final = 2**28
"""Bytes of one file of a run, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class PublishedRun:
    """The content of the folder of a report.

    Attributes:
        folder: Where.
        suite: The suite that its page names.
        trials: Rows of :data:`~bench.tables.schema.TRIALS`.
        utility: Rows of :data:`~bench.tables.schema.UTILITY`.
        edits: Rows of :data:`~bench.tables.schema.EDITS`.
        cells: Rows of :data:`~bench.tables.schema.CELLS`.
        provenance: As the report has it.
        candidates: The lines of ``candidates.jsonl``; none without it.
        tables: The bytes of the tables that were derived, by name of their file.
        files: The sha256 of every file that numbers and pictures come from.
    """

    folder: Path
    suite: str
    trials: pd.DataFrame
    utility: pd.DataFrame
    edits: pd.DataFrame
    cells: pd.DataFrame
    provenance: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    tables: Mapping[str, bytes]
    files: Mapping[str, str]

    def of(self, methods: frozenset[str]) -> PublishedRun:
        """The same run without the rows of other methods."""
        own = {name: self._own(getattr(self, name), methods) for name in _ROWS}
        return PublishedRun(
            **own, folder=self.folder, suite=self.suite, cells=self.cells, tables=self.tables,
            provenance=self.provenance, candidates=self.candidates, files=self.files,
        )  # fmt: skip

    def commits(self) -> dict[Line, str]:
        """The commit that computed each line: the report's, unless it took the line from an earlier one."""
        taken = {
            (method, concept, repeat): str(part["commit"])
            for part in self.provenance.get("parts", ())
            for method, concept, repeat in part["lines"]
        }
        own = str(self.provenance["commit"])
        lines = self.trials[["method", "concept", "repeat"]].drop_duplicates()
        return {
            (method, concept, int(repeat)): taken.get((method, concept, int(repeat)), own)
            for method, concept, repeat in lines.itertuples(index=False)
        }

    def commit_of(self, method: str) -> str:
        """The commit that computed a method's rows.

        Raises:
            UsageError: several did.
        """
        commits = sorted({commit for line, commit in self.commits().items() if line[0] == method})
        if len(commits) != 1:
            raise UsageError(
                f"{self.folder}: expected {shown(method)} computed at one commit, got {len(commits)}; "
                "run it again without --extend"
            )
        return commits[0]

    @staticmethod
    def _own(rows: pd.DataFrame, methods: frozenset[str]) -> pd.DataFrame:
        mine = rows["method"].isin(methods)
        if "source" in rows:  # a transfer is in no entry
            mine &= rows["source"] == rows["method"]
        return rows[mine].reset_index(drop=True)


def read_run(folder: Path) -> PublishedRun:
    """Reads a run; the same bytes are read once per process.

    Raises:
        UsageError: a file is missing, too large, or not what a report writes.
    """
    return _read(folder, tuple(files_of(folder).items()))


def read_distances(folder: Path) -> pd.DataFrame:
    """Reads what metrics of sets say in a run: rows of :data:`~bench.tables.schema.DISTANCES`.

    Raises:
        UsageError: there is no such file, or it is not what a report writes.
    """
    return _rows(regular(folder / "distances.parquet"), DISTANCES)


def files_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a run that numbers and pictures come from, by name.

    Raises:
        UsageError: a file is missing, too large, or none.
    """
    if not folder.is_dir():
        raise UsageError(f"expected the folder of a published run, got {folder}, which is none")
    names = sorted(path.name for path in folder.iterdir())
    if missing := [name for name in (*_NEEDED, PAGE) if name not in names]:
        raise UsageError(
            f"{folder}: expected the files of a report, and {missing[0]} is missing; give a whole report"
        )
    kept = [*_NEEDED, *(name for name in _WANTED if name in names)]
    kept += [name for name in names if name.startswith("grid-") and name.endswith(".png")]
    for name in (*kept, PAGE):
        if (size := regular(folder / name).stat().st_size) > _MOST:
            raise UsageError(f"{folder / name}: expected at most {_MOST} bytes, got {size}")
    return {name: file_sha256(folder / name) for name in sorted(kept)}


@lru_cache(maxsize=4)
def _read(folder: Path, files: tuple[tuple[str, str], ...]) -> PublishedRun:
    names = [name for name, _ in files]
    lines = "candidates.jsonl" in names
    table = bounded(folder / "table.csv", _MOST)
    return PublishedRun(
        folder=folder,
        suite=_suite(folder / "table.csv", table),
        **{name: _rows(folder / f"{name}.parquet", schema) for name, schema in _ROWS.items()},
        cells=_cells(folder / "cells.csv"),
        provenance=read_object(folder / "provenance.json"),
        candidates=_candidates(folder / "candidates.jsonl") if lines else (),
        tables={name: bounded(folder / name, _MOST) for name in _TABLES},
        files=dict(files),
    )


def _rows(path: Path, schema: Schema) -> pd.DataFrame:
    try:
        return conform(pq.read_table(path).to_pandas(), schema)
    except (SchemaError, pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path}: expected rows of {schema.name}: {in_one_line(error)}") from error


def _cells(path: Path) -> pd.DataFrame:
    data = bounded(path, _MOST)
    try:
        # A method may be called "None": nothing but an empty cell is missing.
        frame = pd.read_csv(io.BytesIO(data), keep_default_na=False, dtype=str)
    except (ValueError, pd.errors.ParserError) as error:
        raise UsageError(f"{path}: expected a table: {in_one_line(error)}") from error
    # A report may be older than a column that may be missing.
    later = {c.name for c in CELLS.columns if c.nullable} - set(frame.columns)
    if list(frame.columns) != [name for name in CELLS.names if name not in later]:
        raise UsageError(f"{path}: expected the columns {', '.join(CELLS.names)}; make it again")
    return frame.reindex(columns=CELLS.names, fill_value="")


def _suite(path: Path, table: bytes) -> str:
    try:
        rows = list(csv.DictReader(io.StringIO(table.decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: expected a table: {in_one_line(error)}") from error
    suites = {row.get("suite") or "" for row in rows}
    if len(suites) != 1 or not (suite := suites.pop()):
        raise UsageError(f"{path}: expected the lines of one suite, got {len(suites)}")
    return suite


def _candidates(path: Path) -> tuple[Mapping[str, Any], ...]:
    found: list[Mapping[str, Any]] = []
    for number, line in enumerate(bounded(path, _MOST).splitlines(), start=1):
        try:
            value: Any = parse_json(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number}: expected JSON: {in_one_line(error)}") from error
        if not isinstance(value, dict):
            raise UsageError(f"{path}:{number}: expected an object, got {shown(value)}")
        found.append(value)
    return tuple(found)
