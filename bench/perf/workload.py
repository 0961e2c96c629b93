"""The work that is measured: attacks on an edited model, at a budget that shows a mix of steps and looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any, Final, Literal

import torch

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.interfaces import (
    Attack,
    Candidate,
    Concept,
    Erasure,
    Goal,
    Judge,
    Progress,
    Rng,
    Target,
    bare,
    registry,
    silent,
)
from bench.model.batching import MicroBatch
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from bench.perf.sd14 import sd14
from bench.perf.timing import Job

__all__ = [
    "COUNTED",
    "Dtype",
    "Size",
    "Workload",
    "dtype_of",
    "edited",
    "few",
    "one_by_one",
    "reference",
    "size_of",
    "surrogate",
]

Dtype = Literal["float32", "bfloat16"]
COUNTED: Final = 4
"""Goals at most whose FLOPs are counted, and rows at once meanwhile: attention as plain products is large."""

_SHARED: Final = ("concept_inversion",)
"""Attacks that learn one thing for all goals."""

_CONCEPT: Final = "star"
_EDIT: Final[dict[str, Any]] = {"uce": {"preset": "repo-2023"}}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run, and of what.

    Attributes:
        goals: Prompts attacked.
        steps: Gradient steps per attack.
        block: Steps between looks.
        often: The same in the breakdown. Looks then take about the share of the work that they
            have in the published UnlearnDiffAtk, a half (attacks.md 4).
        repeats: Timings of each variant; the median counts.
        sampler: Of target images and looks.
        matrix: Side of the matrices of the measured peak.
        attacks: Name -> preset and fields; the ones above are added.
        compile_limit: Seconds that compilations may take, all together; 0: none is tried.
        alone: Goals at most that are attacked one at a time; each takes as long as another.
    """

    goals: int
    steps: int
    block: int
    often: int
    repeats: int
    sampler: Sampler
    matrix: int
    attacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compile_limit: float = 0.0
    alone: int = 1000


_MINI: Final = Size(
    goals=12, steps=48, block=24, often=8, repeats=3, sampler=Sampler(), matrix=2048,
    attacks={
        **{name: {"preset": "mini"} for name in ("unlearn_diff_atk", "p4d", "concept_inversion")},
        "ring_a_bell": {"preset": "mini", "keep": "nothing"},
    },
    compile_limit=600.0,
)  # fmt: skip
_SD14: Final = Size(
    # So many prompts that batching them can pay, and so few steps that a measurement takes minutes.
    goals=16, steps=6, block=6, often=3, repeats=2, matrix=8192,
    sampler=Sampler(steps=4, guidance_scale=7.5), alone=2,
    attacks={
        "unlearn_diff_atk": {"preset": "published", "stop": "never"},
        "p4d": {"preset": "official-n"},
        "concept_inversion": {"preset": "published", "images": 8, "restarts": 2},
        "ring_a_bell": {"preset": "published", "generations": 4, "keep": "nothing"},
    },
    compile_limit=180.0,
)  # fmt: skip
_TINY: Final[dict[str, Any]] = {
    "goals": 2, "steps": 2, "block": 2, "often": 1, "repeats": 1,
    "sampler": Sampler(steps=1, size=16), "matrix": 256, "compile_limit": 0.0,
}  # fmt: skip
_FEW: Final[dict[str, dict[str, Any]]] = {
    "unlearn_diff_atk": {"prompts": 1, "checks": 1, "finalists": 1, "final_checks": 1},
    "p4d": {"checks": 1, "finalists": 1, "final_checks": 1},
    "concept_inversion": {"images": 2, "draws": 2, "checks": 1},
    "ring_a_bell": {"population": 4, "generations": 2, "finalists": 2, "checks": 1},
}


def size_of(model: str, *, quick: bool = False) -> Size:
    """The size of a run on ``miniature`` or ``sd14``; ``quick`` only shows that everything runs."""
    size = {"miniature": _MINI, "sd14": _SD14}[model]
    if not quick:
        return size
    attacks = {name: {**fields, **_FEW[name]} for name, fields in size.attacks.items()}
    return replace(size, **_TINY, attacks=attacks)


def dtype_of(name: Dtype) -> torch.dtype:
    """The torch dtype of a name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


@cache
def concept() -> Concept:
    """The concept that is erased and attacked."""
    return load_suite("mini-quick").known_concepts[_CONCEPT]


def surrogate() -> Judge:
    """The surrogate."""
    judge = registry.build("judge", "clip_zero_shot")
    if not isinstance(judge, Judge):
        raise UsageError(f"expected a judge, got {judge.kind} {judge.name}")
    return judge


def edited(model: str, device: str, dtype: Dtype) -> TextToImage:
    """``miniature`` or ``sd14`` with an edit of its weights, so that the cost of having one is in every figure."""
    base = (
        load_model(dtype=dtype, device=device, micro_batch=256)
        if model == "miniature"
        else sd14(device=device, dtype=dtype_of(dtype), micro_batch=256)
    )
    method = registry.build("method", _EDIT)
    if not isinstance(method, Erasure):
        raise UsageError(f"expected an erasure method, got {method.kind} {method.name}")
    return method(base, [concept()], rng=Rng(("perf",)))


@dataclass(frozen=True, slots=True)
class Workload:
    """An attack on a model.

    Attributes:
        model: The edited model.
        size: How much.
        attack: Its name.
        fields: Of the attack, besides the size's.
    """

    model: TextToImage
    size: Size
    attack: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, **budget: Any) -> Attack:
        """The attack; ``budget`` wins over the size's."""
        given = {
            **self.size.attacks[self.attack],
            "steps": self.size.steps,
            "iterations": self.size.block,
        }
        wanted = {**given, **self.fields, **budget}
        known = {"preset", *registry.get("attack", self.attack).model_fields}
        spec = registry.build(
            "attack", {self.attack: {k: v for k, v in wanted.items() if k in known}}
        )
        if not isinstance(spec, Attack):
            raise UsageError(f"expected an attack, got {spec.kind} {spec.name}")
        return spec

    def job(self) -> Job:
        """The attack as a piece of work to time; a repeat draws otherwise, but as any other job's."""
        repeats = count()
        one = self.fields.get("mode") == "reference"
        warm = replace(self, size=replace(self.size, goals=1)) if one else self
        return Job(
            run=lambda: self.run(repeat=next(repeats)), warm=lambda: warm.run(steps=1, iterations=1)
        )

    def run(
        self, progress: Progress = silent, *, repeat: int = 0, **budget: Any
    ) -> list[Candidate]:
        """Runs the attack; a ``repeat`` has draws of its own."""
        target = Target(self.model, self.size.sampler, surrogate())
        attack, rng = self.spec(**budget), Rng(("perf", repeat))
        return attack(target, self.goals(), rng=rng, progress=progress)

    def goals(self) -> list[Goal]:
        """The prompts that are attacked."""
        full = concept()
        texts = full.prompts["name"][: self.size.goals]
        return [
            Goal(id=f"name-{k:03d}", concept=bare(full), prompt=text)
            for k, text in enumerate(texts)
        ]


def one_by_one(work: Workload) -> Workload:
    """The same work in the attack's reference mode."""
    return replace(work, fields={**work.fields, "mode": "reference"})


def reference(work: Workload) -> Workload:
    """The same work, one by one, and on fewer goals where each takes as long as another.

    What an attack learns once for all its goals takes its time whatever their number: there, on all.
    """
    goals = work.size.goals if work.attack in _SHARED else min(work.size.goals, work.size.alone)
    return one_by_one(replace(work, size=replace(work.size, goals=goals)))


def few(work: Workload) -> Workload:
    """The same work on so few goals that its FLOPs can be counted; see :data:`COUNTED`."""
    size = replace(work.size, goals=min(work.size.goals, COUNTED))
    return replace(work, size=size, model=replace(work.model, micro=MicroBatch(COUNTED)))
