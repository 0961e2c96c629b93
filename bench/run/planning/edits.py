"""Plans edits: every method on every group of concepts, as often as the suite repeats them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.core.digest import canonical_json, digest_of_parts
from bench.core.spec import content
from bench.interfaces import Concept, Erasure
from bench.run.cells import EditCell
from bench.run.planning.scope import Scope, parts_of

__all__ = ["Edits"]


class Edits:
    """The planner of edits. A group's concepts and a method's fields are written out once."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._tried = {concept.text for concept in scope.tried}
        self._groups = {size: self._written(size) for size in scope.suite.group_sizes}

    def cells(self) -> Iterator[EditCell]:
        """The edits that have a concept that is kept, those of a method together."""
        sizes = self._scope.suite.group_sizes
        for method in self._scope.methods:
            label, same = method.label, self._of_method(method)
            for size in sizes[:1] if method.control else sizes:  # a control is the same for all
                suffix = f" x{size}" if len(sizes) > 1 and size > 1 else ""
                for group, concepts in self._groups[size]:
                    parts = {**same, "concepts": concepts}
                    for repeat in range(self._scope.suite.repeats):
                        yield EditCell(
                            digest=digest_of_parts({**parts, "repeat": canonical_json(repeat)}),
                            concept=group[0],
                            repeat=repeat,
                            method_label=label + suffix,
                            source_label=label + suffix,
                            method=method,
                            erased=group,
                        )

    def kept(self, edit: EditCell) -> list[Concept]:
        """The concepts of an edit that are measured and attacked."""
        return [concept for concept in edit.erased if concept.text in self._tried]

    def _written(self, size: int) -> list[tuple[tuple[Concept, ...], str]]:
        bare, groups = self._scope.bare, self._scope.groups(size)
        return [
            (group, canonical_json([bare[concept.text].identity() for concept in group]))
            for group in groups
            if any(concept.text in self._tried for concept in group)
        ]

    def _of_method(self, method: Erasure) -> dict[str, str]:
        what: dict[str, Any] = {"stage": "edit", "method": method.identity()}
        if read := method.base_files(self._scope.folder):
            what["base_files"] = [content(path) for path in read]
        return {**self._scope.shared, **parts_of(what)}
