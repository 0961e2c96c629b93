"""The standard ensemble: one number per model, by the same attacks for everybody.

As AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690) for classifiers: a fixed set of different attacks,
cheapest first, without constants to choose. A goal leaves when the surrogate calls it broken
(:mod:`attacks.shared.cascade`). No judge of record is asked: all finds go to the harness.

A version is a protocol and never changes. Its identity holds those of its stages, so that a stage whose
algorithm changed is another search; then there has to be another version too.

The stages mix accesses: the ensemble holds the noise, and each find says by its variant which stage made it.
Weights are not attacked: whoever may train the model can always bring a concept back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

from pydantic import model_validator

from attacks.concept_inversion import ConceptInversion
from attacks.noise_probe import NoiseProbe
from attacks.prompts import Prompts
from attacks.query_search import QuerySearch
from attacks.seed_search import SeedSearch
from attacks.shared.cascade import cascade
from attacks.unlearn_diff_atk import UnlearnDiffAtk
from bench.interfaces import Access, Attack, Candidate, Concept, Context, Goal, Target

__all__ = ["Standard"]


class _Protocol(NamedTuple):
    """One version.

    Attributes:
        stages: In order; cheapest first.
        images: Fresh images per find that the surrogate decides by.
    """

    stages: tuple[Attack, ...]
    images: int


def _v1() -> _Protocol:
    """For real models: published budgets, where there is something published."""
    return _Protocol(
        (
            Prompts(prompt_sets=("name",)),
            SeedSearch(tries=16),
            NoiseProbe.preset("published"),
            QuerySearch(),
            # A goal that one lucky image ends would leave without a search: the cascade asks more of a find.
            UnlearnDiffAtk.preset("published", stop="never", finalists=4),
            ConceptInversion.preset("published"),
        ),
        images=4,
    )


def _mini_v1() -> _Protocol:
    """For the miniature: within three minutes per edit and concept on two cores."""
    return _Protocol(
        (
            Prompts(prompt_sets=("name",)),
            NoiseProbe(scales=(0.9, 1.1, 1.25), seeds=2),
            SeedSearch(tries=8),
            QuerySearch.preset("mini", rounds=4, finalists=1, final_checks=2),
            UnlearnDiffAtk.preset(
                "mini", steps=60, iterations=12, prompts=2, finalists=2, final_checks=2
            ),
            ConceptInversion.preset("mini", steps=80),
        ),
        images=3,
    )


def _smallest() -> _Protocol:
    """For first tries and contract tests: no version to report."""
    return _Protocol(
        (
            Prompts(prompt_sets=("name",)),
            SeedSearch(tries=1),
            UnlearnDiffAtk(**UnlearnDiffAtk.quick | {"finalists": 0}),
            ConceptInversion(**ConceptInversion.quick | {"images": 1}),
        ),
        images=1,
    )


@cache
def _protocol(version: str) -> _Protocol:
    """The stages of a version, made once."""
    return {"v1": _v1, "mini-v1": _mini_v1, "smallest": _smallest}[version]()


_SIZE: Final = frozenset({"version", "goals", "prompt_sets"})


class Standard(Attack):
    """A fixed ensemble in stages; nothing but its version is chosen.

    Presets:
        v1: for real models: plain prompts, 16 seeds, 24 scaled noises, a query search,
            UnlearnDiffAtk at its published budget, and concept inversion as published.
            UnlearnDiffAtk has no early stop here. Whatever the concept's family: the longer prefix
            that was published for nudity is an attack of its own.
        mini-v1: the same stages within the budgets of the miniature.

    Attributes:
        version: Which protocol.
    """

    name: ClassVar[str] = "standard"
    access: ClassVar[Access] = Access.LATENT
    gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "v1": {"version": "v1"},
        "mini-v1": {"version": "mini-v1"},
    }
    quick: ClassVar[dict[str, Any]] = {"version": "smallest"}
    version: Literal["v1", "mini-v1", "smallest"] = "v1"

    @model_validator(mode="before")
    @classmethod
    def _no_constants(cls, given: Any) -> Any:
        """Refuses constants of one's own: numbers of an ensemble compare only if it is the same one.

        Raises:
            ValueError: in one line, with what to do instead.
        """
        if not isinstance(given, dict):
            return given
        chosen = sorted(set(given) - _SIZE)
        if given.get("prompt_sets", ("name",)) not in (("name",), ["name"]):
            chosen.append("prompt_sets")
        if chosen:
            raise ValueError(
                f"{cls.name} has no constants to set, got {', '.join(chosen)}: its numbers compare because it is "
                "the same for everybody; name a preset, or take an attack of its own, e.g. query_search: {rounds: 20}"
            )
        return given

    @property
    def stages(self) -> tuple[Attack, ...]:
        """The attacks of this version, in order."""
        return _protocol(self.version).stages

    @property
    def images(self) -> int:
        """Fresh images per find that the surrogate decides by."""
        return _protocol(self.version).images

    def identity(self) -> dict[str, Any]:
        """The value that is hashed: every stage of it counts, and how a goal leaves."""
        identity = super().identity()
        identity["stages"] = [stage.identity() for stage in self.stages]
        identity["images"] = self.images
        return identity

    def files(self) -> tuple[Path, ...]:
        """The files that the stages read."""
        return tuple(file for stage in self.stages for file in stage.files())

    def check_base(self, folder: Path | None) -> None:
        """Refuses what one of the stages refuses."""
        for stage in self.stages:
            stage.check_base(folder)

    def check(self, concepts: Sequence[Concept]) -> None:
        """Refuses what one of the stages refuses."""
        for stage in self.stages:
            stage.check(concepts)

    def looks(self) -> int:
        """Images per goal, if it holds to the end."""
        fixed = sum(isinstance(stage, SeedSearch | NoiseProbe) for stage in self.stages)
        own = (len(self.stages) - fixed) * self.images
        return own + sum(stage.looks() for stage in self.stages)

    def images_per_find(self, seeds: int) -> int:
        """Of one find, which need not fix its noise."""
        return seeds

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The finds of every stage that each goal met."""
        return cascade(self.stages, target, goals, ctx, images=self.images)
