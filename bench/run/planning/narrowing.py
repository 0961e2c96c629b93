"""``--only``: which methods, attacks and concepts of a suite are kept."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from bench.config.suite import Suite
from bench.core.errors import UsageError
from bench.interfaces import Attack, Concept, Erasure

__all__ = ["Only"]


class Only:
    """The patterns of ``--only``, sorted by what they name."""

    def __init__(self, patterns: Sequence[str], suite: Suite) -> None:
        """Sorts the patterns.

        Raises:
            UsageError: one matches nothing.
        """
        self._kept: dict[str, set[str]] = {}
        if not patterns:
            return
        names = {
            "method": {n for m in suite.methods for n in (m.name, m.label)},
            "attack": {n for a in suite.attacks for n in (a.name, a.label)},
            "concept": {c.text for c in suite.concepts},
        }
        for pattern in patterns:
            found = {sort: _matches(there, pattern) for sort, there in names.items()}
            if not any(found.values()):
                everything = ", ".join(sorted(n for group in names.values() for n in group))
                raise UsageError(
                    f"--only {pattern!r} matches no method, attack or concept of the suite ({everything})"
                )
            for sort, hits in found.items():
                if hits:
                    self._kept.setdefault(sort, set()).update(hits)

    def method(self, spec: Erasure) -> bool:
        """Whether a method is kept."""
        kept = self._kept.get("method")
        return kept is None or spec.name in kept or spec.label in kept

    def attack(self, spec: Attack) -> bool:
        """Whether an attack is kept."""
        kept = self._kept.get("attack")
        return kept is None or spec.name in kept or spec.label in kept

    def concept(self, concept: Concept) -> bool:
        """Whether a concept is kept."""
        kept = self._kept.get("concept")
        return kept is None or concept.text in kept


def _matches(there: set[str], pattern: str) -> set[str]:
    """The names that a pattern means: itself, where it is one. Labels hold brackets that a pattern would read."""
    return {pattern} if pattern in there else set(fnmatch.filter(there, pattern))
