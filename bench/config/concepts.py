"""The concepts of a suite: those that its base knows, and those of them that are erased."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from bench.config.names import ENDING, read_names
from bench.config.parts import below, made
from bench.config.suite_file import ConceptEntry, SuiteFile
from bench.core.errors import UsageError, shown, unknown
from bench.core.files import is_folder
from bench.core.json_files import read_object
from bench.core.shipped import MINIATURES, model_folder
from bench.interfaces import Concept
from bench.interfaces.minors import about_minors

__all__ = ["MAX_CONCEPTS_BYTES", "erased_concepts", "known_concepts", "read_concepts"]

MAX_CONCEPTS_BYTES: Final = 8_000_000


def read_concepts(path: Path) -> dict[str, Concept]:
    """The concepts of a JSON file, or of a list of names (``.txt``), by name.

    Raises:
        UsageError: the file cannot be read, or does not hold concepts.
    """
    if path.suffix.lower() == ENDING:
        return read_names(path, MAX_CONCEPTS_BYTES)
    items = read_object(path, MAX_CONCEPTS_BYTES)
    if not all(isinstance(item, dict) for item in items.values()):
        raise UsageError(f"{path}: expected an object of name: fields of a concept")
    concepts = {}
    for name, fields in items.items():
        try:
            concepts[name] = made(Concept, cast("dict[str, Any]", fields))
        except UsageError as error:
            raise UsageError(f"{path}: {error.below(name)}") from error
    return concepts


def known_concepts(file: SuiteFile) -> dict[str, Concept]:
    """The concepts of ``concepts_file``, or of the base's folder, by name; maybe none.

    Raises:
        UsageError: the file cannot be read, or does not hold concepts.
    """
    path = _concepts_path(file)
    if path is None or not (file.concepts_file or path.exists()):
        return {}
    with below("concepts_file" if file.concepts_file else "base"):
        return read_concepts(path)


def erased_concepts(file: SuiteFile, known: Mapping[str, Concept]) -> tuple[Concept, ...]:
    """The concepts that a suite erases, in its order.

    Args:
        file: Names its concepts, or gives their fields.
        known: See :func:`known_concepts`.

    Raises:
        UsageError: a name is not known, a concept is asked for twice, or is about minors.
    """
    if file.concepts == ("all",) and known:
        with below("concepts", 0):
            return tuple(_allowed(concept) for concept in known.values())
    found: dict[str, Concept] = {}
    for index, entry in enumerate(file.concepts):
        with below("concepts", index):
            concept = _allowed(_concept(file, entry, known))
            if concept.text in found:
                raise UsageError(f"expected each concept once, got {shown(concept.text)} twice")
            found[concept.text] = concept
    return tuple(found.values())


def _concept(file: SuiteFile, entry: ConceptEntry, known: Mapping[str, Concept]) -> Concept:
    if not isinstance(entry, str):
        return made(Concept, entry)
    if entry not in known:
        raise UsageError(unknown("concept", entry, known) + _where_to_name_some(file, known))
    return known[entry]


def _allowed(concept: Concept) -> Concept:
    if about_minors(concept.text):
        raise UsageError(f"concepts about minors are refused, got {shown(concept.text)}")
    return concept


def _concepts_path(file: SuiteFile) -> Path | None:
    if file.concepts_file is not None:
        return Path(file.concepts_file)
    if file.base in MINIATURES:
        return model_folder(file.base) / "concepts.json"
    return Path(file.base) / "concepts.json" if is_folder(file.base) else None


def _where_to_name_some(file: SuiteFile, known: Mapping[str, Concept]) -> str:
    if known:
        return ""
    where = f"no {path}" if (path := _concepts_path(file)) else "a hub id brings none"
    return f" ({where}); name a concepts_file"
