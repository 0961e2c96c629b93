"""The cells: a record of each kind, named by a digest of everything that its numbers depend on.

    edit ──> attack ──> trial ──> score (of a judge)
    edit, reference ──> utility ──> score (of a metric)
    attack (on one edit), edit (of another method) ──> trial ──> score: a transfer

A reference, a trial and a utility cell sample images; a score looks at images that are there. So
another judge or metric samples nothing, and no digest knows a threshold but those of attacks.
A reference is the unedited model's images of the utility prompts.
A record is a description: nothing is computed yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bench.core.spec import Spec
from bench.interfaces import (
    Attack,
    Concept,
    Erasure,
    Goal,
    Judge,
    Metric,
    SetMetric,
    UtilityPrompt,
)
from bench.interfaces.prompt_source import Draw

__all__ = [
    "AttackCell",
    "Cell",
    "CellKind",
    "ComparedCell",
    "EditCell",
    "JudgedCell",
    "MeasuredCell",
    "OfAttack",
    "OfMethod",
    "Prompts",
    "ReferenceCell",
    "SampleCell",
    "ScoreCell",
    "TrialCell",
    "UtilityCell",
]

CellKind = Literal["reference", "edit", "attack", "trial", "utility", "score"]
Prompts = tuple[tuple[str, UtilityPrompt], ...]
"""Utility prompts, each with its group: ``neighbour``, ``other``, or ``caption`` of a file, of no concept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One thing to compute.

    Attributes:
        kind: What is computed.
        digest: Of everything its numbers depend on.
        concept: What is attacked or measured; of an edit, the first of the erased.
        parents: Digests by what they are to it: ``edit``, ``attack``, ``reference``, ``sample``.
        repeat: Index of the independent edit; 0 for references.
        method_label: What tables call the method; empty for references. Where a suite erases several
            numbers of concepts together, it tells them apart.
        source_label: What tables call the method that the candidates were found on: its own method,
            but for transfers.
    """

    kind: ClassVar[CellKind]

    digest: str
    concept: Concept
    parents: Mapping[str, str] = field(default_factory=dict)
    repeat: int = 0
    method_label: str = ""
    source_label: str = ""

    @property
    def plugins(self) -> tuple[Spec, ...]:
        """The plug-ins that it runs, judges and metrics aside."""
        return ()

    @property
    def said(self) -> dict[str, Any]:
        """The columns that the rows of all kinds of cells share."""
        return {
            "method": self.method_label,
            "concept": self.concept.text,
            "family": self.concept.family,
            "repeat": self.repeat,
        }

    @property
    def title(self) -> str:
        """For people: no other cell of its plan has the same one."""
        return f"{self.kind} {self.method_label or 'unedited'} / {self.concept.text}{self._again}"

    @property
    def _again(self) -> str:
        """How a title tells the repeats after the first apart."""
        return f", repeat {self.repeat}" if self.repeat else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCell(Cell):
    """The unedited model's images of the utility prompts.

    Attributes:
        prompts: The utility prompts of the concept.
        draws: By the place of a prompt, how a file says that its image is sampled.
    """

    kind: ClassVar[CellKind] = "reference"
    prompts: Prompts
    draws: Mapping[int, Draw] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfMethod(Cell):
    """A cell that has to do with an edit.

    Attributes:
        method: The erasure.
        erased: What the edit erases together.
    """

    method: Erasure
    erased: tuple[Concept, ...]

    @property
    def inherited(self) -> dict[str, Any]:
        """The fields that a cell which needs this one has from it."""
        names = ("concept", "repeat", "method_label", "source_label", "method", "erased")
        return {name: getattr(self, name) for name in names}

    @property
    def plugins(self) -> tuple[Spec, ...]:
        """The plug-ins that it runs, judges and metrics aside."""
        return (self.method,)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditCell(OfMethod):
    """A model that a method has edited."""

    kind: ClassVar[CellKind] = "edit"


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilityCell(OfMethod):
    """The edited model's images of the prompts of its reference: what its cost is measured on.

    Attributes:
        prompts: The utility prompts of the concept, as the reference has them.
        draws: As the reference has them.
    """

    kind: ClassVar[CellKind] = "utility"
    prompts: Prompts
    draws: Mapping[int, Draw] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfAttack(OfMethod):
    """A cell that has to do with an attack on an edit.

    Attributes:
        attack: With the content of its files.
        attack_label: Its label, which is one in the suite.
        goals: What it tries.
    """

    attack: Attack
    attack_label: str
    goals: tuple[Goal, ...]

    @property
    def plugins(self) -> tuple[Spec, ...]:
        """The plug-ins that it runs, judges and metrics aside."""
        return (self.method, self.attack)

    @property
    def title(self) -> str:
        """For people."""
        about = f"{self.method_label} / {self.concept.text} / {self.attack_label}"
        return f"{self.kind} {about}{self._again}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackCell(OfAttack):
    """The finds of an attack on an edit."""

    kind: ClassVar[CellKind] = "attack"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCell(OfAttack):
    """The finds, sampled on held-out seeds.

    Attributes:
        images: Held-out images per candidate.
        draws: By the id of a goal, how a file says that its images are sampled; none: as the suite says.
        source: Of transfers, the method that the candidates were found on; they are tried on
            ``method``.
    """

    kind: ClassVar[CellKind] = "trial"
    images: int
    draws: Mapping[str, Draw] = field(default_factory=dict)
    source: Erasure | None = None

    @property
    def title(self) -> str:
        """For people."""
        found = f" found on {self.source_label}" if self.source else ""
        about = f"{self.method_label} / {self.concept.text} / {self.attack_label}"
        return f"trial {about}{found}{self._again}"


SampleCell = ReferenceCell | TrialCell | UtilityCell
"""The cells that sample images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCell(OfMethod):
    """The scores of a judge or the values of a metric, of images that are there.

    Attributes:
        by: What tables call the judge or metric.
    """

    kind: ClassVar[CellKind] = "score"
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedCell(ScoreCell):
    """The raw scores of a judge for the images of a trial.

    Attributes:
        trial: Whose images.
        judge: Who looks.
    """

    trial: TrialCell
    judge: Judge

    @property
    def title(self) -> str:
        """For people."""
        return f"score of {self.by}: {self.trial.title}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCell(ScoreCell):
    """The raw values of a metric for the images of a utility cell, beside those of its reference.

    Attributes:
        utility: Whose images.
        reference: The unedited model's.
        metric: What measures.
        judge: The judge of record, if the metric asks it.
    """

    utility: UtilityCell
    reference: ReferenceCell
    metric: Metric
    judge: Judge | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"score of {self.by}: {self.utility.title}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedCell(ScoreCell):
    """The values of a metric for the images of a utility cell as a set.

    Attributes:
        utility: Whose images.
        reference: The unedited model's.
        metric: What compares them, with these or with real ones.
    """

    utility: UtilityCell
    reference: ReferenceCell
    metric: SetMetric

    @property
    def title(self) -> str:
        """For people."""
        return f"score of {self.by}: {self.utility.title}"
