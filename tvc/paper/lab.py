"""Measures one concept for the claims; every piece is computed once and kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.core.digest import write_atomic
from bench.interfaces import Concept, Context, Judge, Rng, bare
from bench.model.conditioning import Conditioning
from bench.model.guidance import ClassifierFree
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of
from bench.toolkit.inversion import states_with, with_places
from tvc.contexts import contexts_of
from tvc.diverse_inversion import DiverseInversion, InversionSet, diverse_inversion
from tvc.finetune import concept_images
from tvc.method import TaskVectorErasure
from tvc.paper.pieces import Pieces, slug
from tvc.rounds import adaptive_rounds
from tvc.strength import Estimate, estimate, prompt_set, strongest
from tvc.subset import named_subset
from tvc.task_vector import TaskVector

__all__ = ["QUICK", "Lab", "Sizes"]

Item = TypeVar("Item")
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        prompts: Prompts per set, one held-out seed per prompt.
        utility: Prompts for other concepts.
        attack_images: Images of the concept an attacker has.
        attack_rows: Embeddings per attack.
        attack_steps: Its Adam steps.
        seeds: Images per embedding.
        alphas: Strengths of the whole network's sweep.
        subset_alphas: Strengths of the subsets' sweeps.
        frontier: Strengths at which embeddings are searched anew.
        map_side: Points per side of the map.
    """

    prompts: int = 16
    utility: int = 48
    attack_images: int = 64
    attack_rows: int = 8
    attack_steps: int = 80
    seeds: int = 4
    alphas: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.5)
    subset_alphas: tuple[float, ...] = (2.5, 5.0, 9.0)
    frontier: tuple[float, ...] = (2.0, 2.5, 3.0, 4.0)
    map_side: int = 9


QUICK = Sizes(
    prompts=3, utility=12, attack_images=8, attack_rows=2, attack_steps=4, seeds=2, alphas=(0.5, 1.0),
    subset_alphas=(1.0,), frontier=(0.5, 1.0), map_side=3,
)  # fmt: skip
"""Everything, as small as it goes."""


class Lab:
    """One concept under study, with one training seed.

    Args:
        model: The unedited model.
        concepts: All concepts by name; the others give the utility prompts.
        name: The concept.
        method: Constants of the task vector.
        judge: The judge of record; the method itself looks through its surrogate.
        folder: Where pieces are kept. They are keyed by everything they depend on.
        sizes: How much.
        seed: Of the fine-tune, the inversions, the attacks and the images.
        common: Label -> digest of models that are no edit by this vector: what is measured of them is kept
            once for all vectors. The unedited model, ``none``, always is one.
        deadline: In the seconds of ``time.monotonic``; after it no further piece is begun.
    """

    def __init__(
        self,
        model: TextToImage,
        concepts: dict[str, Concept],
        name: str,
        *,
        method: TaskVectorErasure,
        judge: Judge,
        folder: Path,
        sizes: Sizes,
        seed: int = 0,
        common: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.model, self.concept, self.method, self.judge = model, concepts[name], method, judge
        self.sizes, self.sampler = sizes, method.sampler()
        self._sight = method.sight(bare(self.concept))
        self.seed, self.rng = seed, Rng(("paper", name, seed))
        key = {
            "base": model.digest,
            "concept": concepts[name].identity(),
            "judge": judge.identity(),
            "sizes": asdict(sizes),
            "seed": seed,
        }
        if model.dtype != torch.float32:  # left out where it is: folders keep their names
            key["dtype"] = str(model.dtype)
        # What an attack on any model depends on, of the method's constants.
        # The surrogate's key is an older word: kept pieces are named by it.
        shared = {"search": asdict(method.inversion()), "sampler": method.sampler().identity(),
                  "checker": method.surrogate().identity(), "common": dict(common or {})}  # fmt: skip
        self.pieces = Pieces(
            folder, name, seed, own={**key, "method": method.identity()}, shared={**key, **shared},
            common={"none", *(common or {})}, deadline=deadline,
        )  # fmt: skip
        self.kept = self.pieces.kept
        self._others = [c for c in concepts.values() if c.text != name]

    # -- pieces ------------------------------------------------------------------------------------

    @cached_property
    def material(self) -> tuple[Tensor, ...]:
        """Images that the vector is learnt from; of the concept first."""
        ctx = Context(self.rng.child("select"))
        return self.method.material(self.model, bare(self.concept), ctx)

    @property
    def images(self) -> Tensor:
        """Images of the concept that the method sees."""
        return self.material[0]

    @cached_property
    def attackers_images(self) -> Tensor:
        """Other images of the concept, for the attacks."""
        return concept_images(
            self.model,
            self._sight,
            self.sizes.attack_images,
            rng=self.rng.child("held-out"),
        )

    @cached_property
    def vector(self) -> TaskVector:
        """The task vector over the whole UNet."""

        def make() -> TaskVector:
            return self.method.vector(
                self.model, bare(self.concept), self.material, Context(self.rng)
            )

        return self.kept_vector("vector", make)

    def kept_vector(self, label: str, make: Callable[[], TaskVector]) -> TaskVector:
        """A task vector, made once, then read."""
        return self.pieces.kept_file(
            f"{slug(label)}.safetensors", TaskVector.load, lambda v, p: v.save(p), make
        )

    def inversions(self, kind: str) -> InversionSet:
        """The set a strength is estimated from: ``prompt``, ``plain`` or ``diverse``."""
        if kind == "prompt":
            return prompt_set(self.model, self.concept)
        how = self.method.inversion()
        return self._inversions(
            self.model,
            f"select-{kind}",
            self.images,
            replace(how, constrained=kind == "diverse"),
            "select",
        )

    def attack(self, label: str, model: TextToImage) -> InversionSet:
        """Fresh inversions on ``model`` itself: other images, other seeds, no constraint (the adaptive attack)."""
        how = replace(
            self.method.inversion(),
            rows=self.sizes.attack_rows,
            steps=self.sizes.attack_steps,
            constrained=False,
            samples=self.sizes.seeds,
        )
        return self._inversions(
            model, f"attack-{label}", self.attackers_images, how, "held-out", of=label
        )

    def estimate(self, kind: str, subset: str = "all") -> Estimate:
        """The strength that a set of inversions asks for."""
        part, inversions = (
            self.vector.restricted(named_subset(self.model, subset)),
            self.inversions(kind),
        )

        def make() -> Estimate:
            return estimate(
                lambda a: part.subtracted(self.model, a) if a else self.model, self._sight,
                inversions, self.method.strength(), rng=self.rng.child("strength", kind),
                contexts=contexts_of(self.concept.family, self.method.contexts),
            )  # fmt: skip

        def load(path: Path) -> Estimate:
            return _estimate_of(json.loads(path.read_text()))

        return self.pieces.kept_file(f"estimate-{kind}-{subset}.json", load, _save_estimate, make)

    def rounds(self) -> list[Estimate]:
        """The estimate after each adaptive round, as many as the method has, or three.

        After a round that found nothing the others repeat it. The worst of a round's finds is held to
        the threshold itself.
        """
        most = self.method.rounds or _ROUNDS

        def make() -> list[dict[str, Any]]:
            played = adaptive_rounds(
                self.edited, self._sight, self.images, self._strongest(), rounds=most,
                search=self.method.inversion(), how=replace(self.method.strength(), bar="worst"),
                rng=self.rng.child("rounds"),
                contexts=contexts_of(self.concept.family, self.method.contexts),
            )  # fmt: skip
            return [_fields(one.estimate) for one in played]

        found = [_estimate_of(fields) for fields in self.kept("rounds", make)]
        last = found[-1] if found else self._strongest()
        return [*found, *[last] * (most - len(found))]

    def chosen(self) -> float:
        """The strength of the method on the whole network: its own, or the one that Diverse Inversion chooses."""
        if isinstance(self.method.alpha, float):
            return self.method.alpha
        return self._strongest().alpha

    def _strongest(self) -> Estimate:
        return strongest(self.estimate(kind) for kind in ("diverse", "prompt"))

    def edited(self, alpha: float, subset: str = "all") -> TextToImage:
        """The model less the vector."""
        if not alpha:
            return self.model
        return self.vector.restricted(named_subset(self.model, subset)).subtracted(
            self.model, alpha
        )

    # -- measurements ------------------------------------------------------------------------------

    def success(self, label: str, model: TextToImage, prompt_set: str) -> list[bool]:
        """Whether the judge sees the concept, for prompts of a set on held-out seeds.

        Each training seed begins with other prompts of the set.
        """
        prompts = self._turn(self.concept.prompts[prompt_set])[: self.sizes.prompts]
        return self.kept(
            f"success-{label}-{prompt_set}", lambda: self._shows(model, prompts), of=label
        )

    def accuracy(self, label: str, model: TextToImage) -> list[bool]:
        """Whether the judge sees what was asked for, for prompts of other concepts."""
        return self.kept(f"accuracy-{label}", lambda: self._accuracy(model), of=label)

    def induced(self, label: str, model: TextToImage, inversions: InversionSet) -> Tensor:
        """Bool [R, seeds]: the judge of record sees the concept in images made with the embeddings."""

        def make() -> list[list[bool]]:
            return self._induced(model, inversions.vectors_RVE).tolist()

        return torch.tensor(self.kept(f"induced-{label}", make, of=label.removeprefix("attack-")))

    def states(self, vectors_RVE: Tensor) -> Conditioning:
        """The conditioning of embeddings alone in a prompt."""
        rows = len(vectors_RVE)
        text = with_places(self.model, "{}", vectors_RVE.shape[1])
        with torch.no_grad():
            return states_with(
                self.model, text.ids_L.expand(rows, -1), text.places_V.expand(rows, -1), vectors_RVE
            )

    def shows_states(
        self, model: TextToImage, conditioning: Conditioning, seeds: Sequence[int]
    ) -> Tensor:
        """Bool [B, seeds]: the judge of record sees the concept in images of a conditioning."""
        rows = len(conditioning)
        images = model.sample(
            [self.concept.text] * (rows * len(seeds)), list(seeds) * rows, self.sampler,
            conditioning=conditioning.repeat_interleave(len(seeds)),
        ).all_finite().images_B3HW  # fmt: skip
        return self._seen(images, self.concept).view(rows, len(seeds))

    # -- helpers -----------------------------------------------------------------------------------

    def _inversions(
        self,
        model: TextToImage,
        label: str,
        images: Tensor,
        how: DiverseInversion,
        split: str,
        *,
        of: str = "",
    ) -> InversionSet:
        guided = not isinstance(model.guidance, ClassifierFree)

        def make() -> InversionSet:
            return diverse_inversion(
                model, self._sight, images, how, rng=self.rng.child(split, label),
                guidance_scale=self.sampler.guidance_scale if guided else 1.0,
            )  # fmt: skip

        return self.pieces.kept_file(
            f"{label}.safetensors", InversionSet.load, lambda s, p: s.save(p), make, of=of
        )

    def _shows(self, model: TextToImage, prompts: Sequence[str]) -> list[bool]:
        seeds = [self.rng.seed("judged", k) for k in range(len(prompts))]
        images = images_of(model, prompts, seeds, self.sampler)
        return [bool(x) for x in self._seen(images, self.concept)]

    def utility(self) -> list[tuple[str, Concept]]:
        """Prompts for other concepts, with the concept that each asks for."""
        each = -(-self.sizes.utility // len(self._others))
        return [
            (p.text, other)
            for k in range(each)
            for other in self._others
            for p in self._turn(other.utility)[k : k + 1]
            if self.concept.text not in p.mentions
        ][: self.sizes.utility]

    def _accuracy(self, model: TextToImage) -> list[bool]:
        asked = self.utility()
        seeds = [self.rng.seed("utility", k) for k in range(len(asked))]
        images = images_of(model, [text for text, _ in asked], seeds, self.sampler)
        seen = torch.zeros(len(asked), dtype=torch.bool)
        for other in self._others:
            rows = [i for i, (_, c) in enumerate(asked) if c.text == other.text]
            if rows:
                seen[rows] = self._seen(images[rows], other)
        return [bool(x) for x in seen]

    def _turn(self, items: Sequence[Item]) -> list[Item]:
        """The items, from one that depends on the training seed."""
        at = self.seed * self.sizes.prompts % max(1, len(items))
        return [*items[at:], *items[:at]]

    def _induced(self, model: TextToImage, vectors_RVE: Tensor) -> Tensor:
        seeds = [self.rng.seed("judged embedding", k) for k in range(self.sizes.seeds)]
        return self.shows_states(model, self.states(vectors_RVE), seeds)

    def _seen(self, images: Tensor, concept: Concept) -> Tensor:
        labels = self.judge.labels(concept)
        columns = [labels.index(label) for label in self.judge.counts(concept)]
        scores = self.judge.scores(images.to(self.model.device), concept)[:, columns]
        return (scores.amax(1) >= self.judge.threshold).cpu()


def _save_estimate(found: Estimate, path: Path) -> None:
    write_atomic(path, json.dumps(_fields(found)).encode())


def _fields(found: Estimate) -> dict[str, Any]:
    names = ("alpha", "low", "high", "reached", "curve", "about")
    return {**{k: getattr(found, k) for k in names}, "vectors": found.vectors_RVE.tolist()}


def _estimate_of(fields: dict[str, Any]) -> Estimate:
    curve = tuple(tuple(point) for point in fields.pop("curve"))
    return Estimate(vectors_RVE=torch.tensor(fields.pop("vectors")), curve=curve, **fields)
