"""Reads a suite from its YAML file: found, parsed, built, and every mistake named with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Final, Literal

from bench.config.built import Suite
from bench.config.concepts import read_concepts
from bench.config.other_base import on_base
from bench.config.parts import below
from bench.config.refusals import CONTROLS
from bench.config.strict_yaml import Place, parse_yaml
from bench.config.suite_file import Entry, SuiteFile, Utility
from bench.core.errors import UsageError, shown, unknown
from bench.core.files import bounded, expanded, is_folder
from bench.core.shipped import MINIATURES

__all__ = [
    "CONTROLS",
    "SUITES",
    "Code",
    "Entry",
    "Suite",
    "SuiteFile",
    "Utility",
    "load_suite",
    "read_concepts",
    "read_suite",
    "suite_names",
]

SUITES: Final = Path(__file__).parents[1] / "suites"
MAX_SUITE_BYTES: Final = 1_000_000
_PLUGINS: Final = ("methods", "attacks", "judges", "surrogate", "metrics")

Code = Literal["installed", "named"]
"""Whose code a suite may run: what is installed here, or also what it names by ``module:Class``."""


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(source: str | Path, *, code: Code = "installed", base: str | None = None) -> Suite:
    """Reads a suite, and builds and checks it once.

    Args:
        source: A YAML file, or the name of a suite of ours. Relative paths in the file are seen
            from its folder.
        code: ``named`` lets the file name ``module:Class``, whose module is imported: then the file is
            code, to be trusted as such. ``installed`` refuses that before anything is imported.
        base: One in place of the suite's own, see :func:`bench.config.other_base.on_base`.

    Raises:
        UsageError: ``FILE:LINE: key KEY: expected ..., got ...``.
    """
    path, data, lines = _read(source)
    try:
        with _placed(path, lines):
            file = _file(path, data, code)
            return Suite.of(file if base is None else on_base(file, base))
    except UsageError as error:
        at_fault = error.__cause__
        if base is None or not isinstance(at_fault, UsageError) or at_fault.at[:1] != ("base",):
            raise
        raise UsageError(f"--{at_fault}") from error  # the option is at fault, not the file


def read_suite(source: str | Path, *, code: Code = "installed") -> SuiteFile:
    """Reads a suite, and builds nothing of it.

    Args:
        source: See :func:`load_suite`.
        code: See :func:`load_suite`.

    Raises:
        UsageError: ``FILE:LINE: key KEY: expected ..., got ...``.
    """
    path, data, lines = _read(source)
    with _placed(path, lines):
        return _file(path, data, code)


def _read(source: str | Path) -> tuple[Path, object, dict[Place, int]]:
    """Where the file is, what it holds, and the line of each place in it."""
    path = _find(source)
    data, lines = parse_yaml(path, _decoded(path, bounded(path, MAX_SUITE_BYTES)))
    return path, data, lines


@contextmanager
def _placed(path: Path, lines: Mapping[Place, int]) -> Iterator[None]:
    """Errors inside name the file, and the line of their place."""
    try:
        yield
    except UsageError as error:
        at = error.at
        while at not in lines:
            at = at[:-1]
        key = "key " if error.at else ""
        raise UsageError(f"{path}:{lines[at]}: {key}{error}") from error


def _file(path: Path, data: object, code: Code) -> SuiteFile:
    if not isinstance(data, dict):
        raise UsageError(f"expected the keys of a suite, got {shown(data)}")
    if code == "installed":
        _refuse_code(data)
    return SuiteFile.of(_resolved(data, path.parent))


def _find(source: str | Path) -> Path:
    path = Path(source)
    if isinstance(source, Path) or path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        return path
    if source not in suite_names():
        raise UsageError(f"{unknown('suite', source, suite_names())}; or give a .yaml file")
    return SUITES / f"{source}.yaml"


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"expected UTF-8, got byte 0x{data[error.start]:02x}"
        raise UsageError(f"{path}:{line}: {message}") from error


def _refuse_code(data: Mapping[str, Any]) -> None:
    """Refuses entries that name ``module:Class``: to build them would run whatever the module holds."""
    for key in _PLUGINS:
        entries = data.get(key)
        listed = entries if isinstance(entries, list) else [entries]
        for index, entry in enumerate(listed):
            names = entry if isinstance(entry, dict) else [entry]
            for name in names:
                if isinstance(name, str) and ":" in name:
                    message = f"{shown(name)} is code that the suite would import and run"
                    raise UsageError(
                        f"{message}; if you trust it, allow it with --allow-code",
                        at=(key, index) if isinstance(entries, list) else (key,),
                    )


def _resolved(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The data with its paths seen from ``folder``."""
    data = dict(data)
    for key in ("base", "concepts_file"):
        if isinstance(value := data.get(key), str):
            if key == "base" and value in MINIATURES:
                continue
            with below(key):
                path = (folder / expanded(value)).absolute()
            if key == "concepts_file" or is_folder(path):
                data[key] = str(path)
    for place, value in _named_files(data):
        with below(*place):
            _put(data, place, str((folder / expanded(value)).absolute()))
    return data


def _named_files(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The files of prompts that a suite names, with their places."""
    for place in (("goals",), ("utility",)):
        yield from _file_at(data.get(place[0]), place)
    attacks = data.get("attacks")
    for index, entry in enumerate(attacks if isinstance(attacks, list) else []):
        for name, fields in entry.items() if isinstance(entry, dict) else ():
            if isinstance(fields, dict):
                yield from _file_at(fields.get("goals"), ("attacks", index, name, "goals"))
                if name == "prompts":
                    yield from _file_at(fields, ("attacks", index, name))


def _file_at(
    fields: object, place: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(fields, dict) and isinstance(file := fields.get("file"), str) and file:
        yield (*place, "file"), file


def _put(data: dict[str, Any], place: Sequence[str | int], value: str) -> None:
    """Puts a value at a place, in copies of what lies on the way."""
    at: Any = data
    for key in place[:-1]:
        at[key] = copy(at[key])
        at = at[key]
    at[place[-1]] = value
