"""The part of a suite that is planned, and what thousands of its cells share, worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.config.suite import Suite
from bench.core.digest import canonical_json
from bench.core.errors import UsageError
from bench.interfaces import Attack, Concept, Erasure, bare
from bench.interfaces.prompt_source import MOST_ROWS, PromptSource
from bench.run.planning.narrowing import Only
from bench.toolkit.prompt_files.content import PromptFile
from bench.toolkit.prompt_files.read import read_rows, source_bytes

__all__ = ["Scope", "parts_of", "scope_of"]

_FORMAT: Final = 2  # raise when the meaning of cells changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The part of a suite that is planned.

    Attributes:
        suite: The suite.
        folder: The base's pipeline folder; ``None`` where nobody said which.
        limit: At most so many prompts per set, and so many utility prompts per group.
        methods: Those that are kept.
        attacks: Those that are kept, with the content of their files.
        every: All attacks of the suite; those that are kept hold the content of their files.
        tried: The concepts that are kept.
        known: Every concept that the base knows or the suite brings, by name.
        bare: By name, the concepts of the suite as a method sees them.
        shared: The canonical JSON of what is in every digest.
        goal_files: By the label of an attack, the file whose rows are its goals.
        captions: The file of utility prompts that name no concept.
    """

    suite: Suite
    folder: Path | None
    limit: int | None
    methods: tuple[Erasure, ...]
    attacks: tuple[Attack, ...]
    every: tuple[Attack, ...]
    tried: tuple[Concept, ...]
    known: dict[str, Concept]
    bare: Mapping[str, Concept]
    shared: Mapping[str, str]
    goal_files: Mapping[str, PromptFile]
    captions: PromptFile | None

    @property
    def edits(self) -> int:
        """How many edits there are of each concept."""
        sizes = len(self.suite.group_sizes)
        return self.suite.repeats * sum(1 if m.control else sizes for m in self.methods)

    @property
    def hashes(self) -> dict[str, str]:
        """The sha256 of the files of prompts that were read, by path."""
        files = [*self.goal_files.values(), *([self.captions] if self.captions else [])]
        return {str(file.path): file.sha256 for file in files}

    def number_of(self, attack: Attack) -> int:
        """Goals of an attack per prompt set, or per concept of a file, at most."""
        own = attack.most_goals
        if attack.goal_file is None:
            most = self.suite.goals if own is None else min(self.suite.goals, own)
        else:
            most = own or MOST_ROWS
        return most if self.limit is None else min(most, self.limit)

    @property
    def captioned(self) -> int:
        """Prompts of the file of captions per concept, at most."""
        if self.captions is None:
            return 0
        most = self.captions.picked.limit or MOST_ROWS
        rows = min(most, len(self.captions.rows))
        return rows if self.limit is None else min(rows, self.limit)

    def groups(self, size: int) -> list[tuple[Concept, ...]]:
        """The suite's concepts, so many of them together, in order; the last may be fewer."""
        concepts = self.suite.concepts
        return [concepts[i : i + size] for i in range(0, len(concepts), size)]


def scope_of(
    suite: Suite, base: str, *, folder: Path | None, only: Sequence[str], limit: int | None
) -> Scope:
    """The part of a suite that the patterns and the limit leave.

    Args:
        suite: What to evaluate.
        base: Digest of the unedited model.
        folder: The unedited model's, where it has one.
        only: Glob patterns; see :func:`bench.run.plan.make_plan`.
        limit: At most so many prompts; ``None``: as the suite says.

    Raises:
        UsageError: a limit below 1, a pattern matches nothing, or a file of prompts is not usable.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    keep = Only(only, suite)
    # Their files are read here, once: what is named is what is tried.
    kept = [
        (attack.pinned(), True) if keep.attack(attack) else (attack, False)
        for attack in suite.attacks
    ]
    shared: dict[str, Any] = {
        "format": _FORMAT,
        "base": base,
        "seed": suite.seed,
        "sampler": suite.sampler.identity(),
        "dtype": suite.dtype,
    }
    attacks = tuple(attack for attack, stays in kept if stays)
    files, utility = _Files(), suite.utility.captions
    return Scope(
        suite=suite,
        folder=folder,
        limit=limit,
        methods=tuple(m for m in suite.methods if keep.method(m)),
        attacks=attacks,
        every=tuple(attack for attack, _ in kept),
        tried=tuple(c for c in suite.concepts if keep.concept(c)),
        known={**suite.known_concepts, **{c.text: c for c in suite.concepts}},
        bare={c.text: bare(c) for c in suite.concepts},
        shared=parts_of(shared),
        goal_files=_goal_files(suite, attacks, files),
        captions=None if utility is None else files.of(utility),
    )


class _Files:
    """The files of prompts of a plan: the bytes of each are read once, whoever uses them and for what."""

    def __init__(self) -> None:
        self._bytes: dict[Path, bytes] = {}
        self._read: list[tuple[PromptSource, PromptFile]] = []

    def of(self, source: PromptSource) -> PromptFile:
        """The rows that are asked of a file.

        Raises:
            UsageError: it is not usable.
        """
        known = next((file for one, file in self._read if one == source), None)
        if known is None:
            path = Path(source.file)
            if path not in self._bytes:
                self._bytes[path] = source_bytes(path)
            known = read_rows(path, self._bytes[path], source)
            self._read.append((source, known))
        return known


def _goal_files(suite: Suite, attacks: Sequence[Attack], files: _Files) -> dict[str, PromptFile]:
    """The files whose rows are goals, by the label of the attack."""
    found: dict[str, PromptFile] = {}
    for attack in attacks:
        source = attack.goal_file
        if source is None and attack.own_goals(bare(suite.concepts[0])) is None:
            source = suite.goal_file
        if source is not None:
            found[attack.label] = files.of(source)
    return found


def parts_of(what: Mapping[str, Any]) -> dict[str, str]:
    """The canonical JSON of each value, for :func:`bench.core.digest.digest_of_parts`."""
    return {key: canonical_json(value) for key, value in what.items()}
