"""A suite as objects: what its file names, built and checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from bench.config.concepts import erased_concepts, known_concepts
from bench.config.parts import below, listed, made, moving
from bench.config.refusals import (
    check_base,
    check_controls,
    check_networks,
    check_sides,
    check_together,
    check_utility,
)
from bench.config.suite_file import SuiteFile, Utility
from bench.core.digest import digest_of
from bench.core.spec import content
from bench.interfaces import Attack, Concept, Erasure, Judge, Measure, registry
from bench.interfaces.prompt_source import MOST_ROWS, PromptSource
from bench.model.sampler import Sampler

__all__ = ["Suite"]

_PLAIN = ("name", "base", "revision", "dtype", "seeds", "repeats", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The parts of an evaluation: every method and concept against every attack.

    Attributes:
        file: How its file spells it.
        name: Of the suite.
        base: ``miniature``, a local folder, or a hub id.
        revision: The commit of a hub id.
        dtype: Precision of the base.
        methods: The erasures; the controls are among them.
        attacks: The attacks; the controls are among them.
        judges: Those that decide; the first is the judge of record.
        surrogate: Guides the attacks, and decides nothing.
        metrics: What measures utility.
        sampler: How every image is made.
        concepts: What is erased.
        known_concepts: By name, the concepts of ``concepts_file``, or of the base's folder; maybe
            none. They are read once: what a plan holds is what the suite was checked with.
        transfer: The attacks whose candidates are tried on every other method.
        group_sizes: How many concepts are erased together, one or more numbers.
        goals: Prompts per prompt set, at most; of a file, rows per concept.
        goal_file: The file whose rows are the goals of attacks that say nothing else.
        seeds: Held-out image seeds per candidate.
        utility: How many prompts measure the cost.
        repeats: Independent edits.
        seed: Of all random streams.
        keep_images: Thumbnails per cell; they change no number.
        images: How long images are kept in the store.
    """

    file: SuiteFile
    name: str
    base: str
    revision: str | None
    dtype: Literal["float32", "bfloat16", "float16"]
    methods: tuple[Erasure, ...]
    attacks: tuple[Attack, ...]
    judges: tuple[Judge, ...]
    surrogate: Judge
    metrics: tuple[Measure, ...]
    sampler: Sampler
    concepts: tuple[Concept, ...]
    known_concepts: Mapping[str, Concept]
    transfer: tuple[Attack, ...]
    group_sizes: tuple[int, ...]
    goals: int
    goal_file: PromptSource | None
    seeds: int
    utility: Utility
    repeats: int
    seed: int
    keep_images: int
    images: Literal["keep", "thumbnails"]

    @classmethod
    def of(cls, file: SuiteFile) -> Self:
        """Builds everything that a suite file names, once.

        Raises:
            UsageError: a name is not known, a value does not suit its spec, or the parts do not go
                together. :attr:`~bench.core.errors.UsageError.at` is the place in the file.
        """
        check_base(file)
        methods = cast("tuple[Erasure, ...]", listed("method", "methods", file.methods))
        attacks = cast("tuple[Attack, ...]", listed("attack", "attacks", file.attacks))
        check_controls("methods", methods)
        check_controls("attacks", attacks)
        with below("surrogate"):
            surrogate = cast("Judge", registry.build("judge", file.surrogate))
        judges = cast("tuple[Judge, ...]", listed("judge", "judges", file.judges))
        check_networks(judges, surrogate, file.surrogate)
        transfer = moving(attacks, file.transfer)
        metrics = cast("tuple[Measure, ...]", listed("metric", "metrics", file.metrics))
        with below("sampler"):
            sampler = made(Sampler, file.sampler)
        check_sides((*judges, surrogate), sampler.size)
        known = known_concepts(file)
        concepts = erased_concepts(file, known)
        check_together(file.group_sizes, len(concepts))
        check_utility(file.utility)
        goal_file = file.goals if isinstance(file.goals, PromptSource) else None
        goals = file.goals if isinstance(file.goals, int) else file.goals.limit or MOST_ROWS
        return cls(
            file=file, methods=methods, attacks=attacks, judges=judges, surrogate=surrogate,
            metrics=metrics, sampler=sampler, concepts=concepts, known_concepts=known,
            transfer=transfer, group_sizes=file.group_sizes, utility=file.utility,
            keep_images=file.keep_images, images=file.images, goals=goals, goal_file=goal_file,
            **{key: getattr(file, key) for key in _PLAIN},
        )  # fmt: skip

    def with_(self, **changes: Any) -> Self:
        """The suite with other values, as its file would hold them, built and checked anew.

        Raises:
            UsageError: a key or a value does not suit a suite.
        """
        return self.of(SuiteFile.of({**self.file.model_dump(), **changes}))

    def identity(
        self, attacks: Sequence[Attack] | None = None, hashes: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The data that the digest covers: what is built, not how the file spells it.

        Args:
            attacks: The suite's own, where a plan holds them: with the content of their files.
            hashes: The sha256 of files of prompts as a plan has read them, by path.
        """
        attacks = self.attacks if attacks is None else attacks
        moved = {attack.label for attack in self.transfer}
        return {
            "kind": "suite",
            **{key: getattr(self, key) for key in _PLAIN},
            "goals": self.goals,
            "together": self.file.together,
            "utility": {name: getattr(self.utility, name) for name in ("neighbours", "others")},
            **self._prompt_files(hashes or {}),
            "concepts": [concept.identity() for concept in self.concepts],
            "known_concepts": {name: c.digest for name, c in self.known_concepts.items()},
            "sampler": self.sampler.identity(),
            "methods": [spec.identity() for spec in self.methods],
            "attacks": [spec.identity() for spec in attacks],
            "judges": [spec.identity() for spec in self.judges],
            "surrogate": self.surrogate.identity(),
            "metrics": [spec.identity() for spec in self.metrics],
            "transfer": [a.digest for a in attacks if a.label in moved],
            # Applied when tables are made, so no identity has them.
            "applied": [spec.applied() for spec in (*self.judges, self.surrogate)],
        }

    def _prompt_files(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        """The files of prompts that are used, by their content, and whose draws; nothing without any."""
        sources = {"goals": self.goal_file, "utility": self.utility.captions}
        sources |= {f"attack {a.label}": a.goal_file for a in self.attacks}
        files = {
            use: {"sha256": hashes.get(str(Path(s.file))) or content(Path(s.file)), **s.picking()}
            for use, s in sources.items()
            if s is not None
        }
        drawn = [a.label for a in self.attacks if getattr(a, "draws", "suite") == "file"]
        return ({"prompt_files": files} if files else {}) | ({"draws": drawn} if drawn else {})

    @property
    def digest(self) -> str:
        """sha256 of :meth:`identity`, 64 hexadecimal digits."""
        return digest_of(self.identity())
