"""Erasure by Task Vectors, with the strength chosen by Diverse Inversion (Pham et al., arXiv 2404.03631).

Reproduced: the unconditional fine-tune, the vector and its subtraction (methods.md 1.2).
Reconstruction: Diverse Inversion, the estimate of the strength, the subset of the weights (methods.md
    1.3). No published code holds them, so every constant is a field.
Different on purpose: float32 throughout; the published script subtracts in half precision, which
    rounds off several per cent of the vector.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from bench.core.bounds import Count, Factor, Guidance, LearningRate, Solver, Steps
from bench.core.errors import UsageError
from bench.core.spec import PathText, added, runtime
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Judge, Role, Slot
from bench.judges.clip_zero_shot import ClipZeroShot
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.clip import check_source, clip_files
from bench.toolkit.inversion import Span, with_places
from tvc.choice import Choice, choose
from tvc.contexts import MINI, SD, contexts_of
from tvc.diverse_inversion import PRESETS as INVERSIONS
from tvc.diverse_inversion import DiverseInversion
from tvc.finetune import PRESETS as FINE_TUNES
from tvc.finetune import FineTune, concept_images, fine_tune
from tvc.pairs import paired_images, paired_vector
from tvc.scenes import MINI as MINI_SCENES
from tvc.scenes import SD as SD_SCENES
from tvc.scenes import Scenes, scene_pairs
from tvc.sight import Sight
from tvc.strength import Strength
from tvc.subset import named_subset
from tvc.task_vector import TaskVector
from tvc.unets import check_unet, unet_files, vector_between

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TaskVectorErasure"]

log = logging.getLogger(__name__)

_SEARCHED = ("all", "first-three", "down", "mid", "up", "cross-attention", "self-attention", "feed-forward",
             "convolutions")  # fmt: skip


_SAMPLED: dict[str, Any] = {
    "sampling_steps": 50,
    "guidance_scale": 7.5,
    "template": "a photo of {}",
    "contexts": SD,
}
"""How Stable Diffusion is looked at."""


def _preset(name: str, inversion: str, **more: Any) -> dict[str, Any]:
    tune, search = asdict(FINE_TUNES[name]), asdict(INVERSIONS[inversion])
    fields = {k: tune[k] for k in ("images", "steps", "lr", "batch_size", "caption", "flip")}
    fields |= {k: search[k] for k in ("rows", "low", "high", "pairwise", "templates")}
    fields |= {
        "inversion_steps": search["steps"],
        "inversion_lr": search["lr"],
        "draws": search["draws"],
        "inversion_span": search["span"],
    }
    return fields | more


class TaskVectorErasure(Erasure):
    """Subtracts a task vector.

    Presets:
        sd14-published: The published fine-tune, on the whole UNet, at the published script's
            alpha 1.75.
        sd14-diverse: The same with alpha by Diverse Inversion.
        mini: For the miniature, alpha by Diverse Inversion.
        mini-paired: The paired vector, ours, likewise.
        mini-adaptive: The same with three adaptive rounds, after which no embedding may show the concept
            more often than ``threshold`` says. Ours.
        sd14-paired: The paired vector on Stable Diffusion; untried there.

    Attributes:
        alpha: Edit strength, or ``diverse_inversion`` to estimate it: the larger of what the diverse
            embeddings and the concept's own ask for.
        subset: Of the UNet: a name of :mod:`tvc.subset`, a block (``down_blocks.0``), or ``search``.
        images: Of the concept, sampled from the unedited model; Diverse Inversion uses them too.
        steps: Of the fine-tune.
        lr: Of the fine-tune.
        batch_size: Of the fine-tune.
        caption: ``empty``, or ``concept``: the conditional variant, kept to compare.
        flip: Learn mirrored images too.
        rows: K embeddings of Diverse Inversion.
        low: Smallest cosine of an embedding to the concept's own.
        high: Largest.
        pairwise: Largest cosine between two embeddings.
        templates: Texts they are learnt in.
        inversion_steps: Adam steps.
        inversion_lr: In units of the concept embedding's norm.
        inversion_span: Part of the noise schedule its timesteps are from, (0, 1) is all of it.
        draws: (image, timestep, noise) triples per embedding and step.
        largest: Largest strength tried.
        tolerance: Of the strength, as a share of it.
        induction_samples: Images per embedding, from which it is told whether it induces the concept.
        samples: Images per embedding and strength.
        screen: So many of them first; where they settle it, the others are not made.
        threshold: Rate at which an embedding may show the concept.
        confidence: See :class:`tvc.strength.Strength`.
        sensitivity: The surrogate's threshold is half-way, in log-odds, to the score that this share of the
            unedited model's images of the concept reach.
        contexts: By the concept's family, texts with one ``{}`` that the embeddings are looked at in; for
            a family that is not there, the bare word.
        sampling_steps: Of every image it samples.
        guidance_scale: Of every image it samples.
        clip: Source of the CLIP that tells whether an image shows the concept (see
            :mod:`bench.toolkit.clip`); empty: the miniature's, on the miniature.
        template: What that CLIP is told of the concept and of its alternatives.
        checkpointing: Less memory, more time.
        pairs: ``scenes``: the paired vector (:mod:`tvc.pairs`), ours; ``none``: the paper's.
        scenes: Family -> pairs of a scene with the concept at ``{}`` and the scene without it.
        partner_share: Of the vector without the concept, the share that is taken off.
        with_unet: In a suite ``with``: a UNet that somebody fine-tuned on the concept (:mod:`tvc.unets`); empty:
            it is fine-tuned here.
        without_unet: In a suite ``without``: one that was fine-tuned on the same scenes without the concept; empty:
            the base's own UNet.
        rounds: Adaptive rounds of Diverse Inversion on the edited model, at most (:mod:`tvc.rounds`).
        bar: See :class:`tvc.strength.Strength`.
    """

    model_config = ConfigDict(populate_by_name=True)
    name: ClassVar[str] = "task_vector"
    revision: ClassVar[int] = 3  # the strength looks at contexts, and at more images
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sd14-published": _preset(
            "sd14-published",
            "sd14",
            alpha=1.75,
            **_SAMPLED,
        ),
        "sd14-diverse": _preset(
            "sd14-published",
            "sd14",
            **_SAMPLED,
        ),
        "mini": _preset("mini", "mini"),
        "mini-paired": _preset("mini", "mini", pairs="scenes", scenes=MINI_SCENES),
        "mini-adaptive": _preset(
            "mini", "mini", pairs="scenes", scenes=MINI_SCENES, rounds=3, bar="worst"
        ),
        "sd14-paired": _preset(
            "sd14-published",
            "sd14",
            **_SAMPLED,
            pairs="scenes",
            scenes=SD_SCENES,
        ),
    }
    quick: ClassVar[dict[str, Any]] = {
        "images": 2, "steps": 2, "batch_size": 2, "alpha": 0.5, "sampling_steps": 2, "pairs": "none", "scenes": {},
    }  # fmt: skip
    alpha: Factor | Literal["diverse_inversion"] = "diverse_inversion"
    subset: str = Field("all", min_length=1)
    images: Count = 128
    steps: Steps = 150
    lr: LearningRate = 1e-4
    batch_size: Count = 16
    caption: Literal["empty", "concept"] = "empty"
    flip: bool = False
    rows: Count = 16
    low: float = Field(-1.0, ge=-1, le=1)
    high: float = Field(0.98, ge=-1, le=1)
    pairwise: float = Field(0.9, gt=0, le=1)
    templates: tuple[Template, ...] = Field(("{}", "a {}"), min_length=1)
    inversion_steps: Steps = 80
    inversion_lr: LearningRate = 0.06
    inversion_span: Span = (0.4, 0.9)
    draws: Count = 2
    largest: float = Field(12.0, gt=0, le=1000)
    tolerance: float = Field(0.125, ge=1e-6, le=1000)
    induction_samples: Count = 8
    samples: Count = 24
    screen: Count = 8
    threshold: float = Field(0.05, ge=0, lt=1)
    confidence: float = Field(0.5, gt=0, lt=1)
    sensitivity: float = Field(0.9, gt=0, le=1)
    contexts: Mapping[str, Annotated[tuple[Template, ...], Field(min_length=1)]] = MINI
    sampling_steps: Solver = 6
    guidance_scale: Guidance = 3.0
    clip: PathText = ""
    template: Template = "something, as a {}"
    checkpointing: bool = runtime(False)
    pairs: Literal["none", "scenes"] = added("none")
    scenes: Scenes = added({})
    partner_share: float = added(1.0, ge=0, le=4)
    with_unet: PathText = added("", alias="with")
    without_unet: PathText = added("", alias="without")
    rounds: int = added(0, ge=0, le=100)
    bar: Literal["typical", "worst"] = added("typical")

    @model_validator(mode="after")
    def _interval_is_one(self) -> TaskVectorErasure:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got {self.low} and {self.high}")
        return self

    @model_validator(mode="after")
    def _one_kind_of_vector(self) -> TaskVectorErasure:
        if (self.pairs == "scenes") != bool(self.scenes):
            raise ValueError(
                f"expected pairs: scenes and scenes together, got pairs: {self.pairs} and "
                f"{len(self.scenes)} families of scenes; the preset mini-paired has both"
            )
        if self.without_unet and not self.with_unet:
            raise ValueError("without: expected a UNet at with, too, got none")
        if self.with_unet and self.pairs == "scenes":
            raise ValueError("with: expected pairs: none, since nothing is fine-tuned, got scenes")
        return self

    def files(self) -> tuple[Path, ...]:
        """The files of its CLIP, and the UNets that it is given."""
        given = [Path(path) for path in (self.with_unet, self.without_unet) if path]
        found = (unet_files(path) if path.exists() else (path,) for path in given)
        return (*clip_files(self.clip), *(file for files in found for file in files))

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than the miniature where no CLIP is given, and UNets that are none of the base's."""
        super().check_base(folder)
        check_source(self.clip, folder, at=(self.name, "clip"))
        for field, path in (("with", self.with_unet), ("without", self.without_unet)):
            try:
                if path:
                    check_unet(Path(path), folder)
            except UsageError as error:
                raise error.below(self.name, field) from error

    def roles(self) -> frozenset[Role]:
        """The UNet."""
        return frozenset({Role.DENOISER})

    def parameters(self, model: TextToImage) -> list[str]:
        """The UNet's, within the subset."""
        names = model.having(Role.DENOISER)
        if self.subset == "search":
            return names
        return list(filter(named_subset(model, self.subset), names))

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model less its task vectors, one per concept, each at its own strength.

        Raises:
            ValueError: an unknown subset; a concept that the base cannot draw, or that
                no inversion brings about.
            FloatingPointError: the fine-tune diverged.
        """
        if self.subset != "search":
            named_subset(model, self.subset)  # an unknown name is told before the work, not after
        for concept in concepts:
            if self.contexts and concept.family not in self.contexts:
                log.warning(
                    "%s: no contexts for the family %r; the bare word is looked at",
                    concept.text,
                    concept.family,
                )
            for context in contexts_of(concept.family, self.contexts):
                with_places(model, context)  # one that does not fit, too
            if self.pairs == "scenes":
                scene_pairs(concept, self.scenes, 1)  # likewise
        total, *others = (
            alpha * vector
            for alpha, vector in (self._one(model, c, ctx.child(c.text)) for c in concepts)
        )
        for vector in others:
            total = total + vector
        return total.subtracted(model, 1.0)

    def _one(self, model: TextToImage, concept: Concept, ctx: Context) -> tuple[float, TaskVector]:
        material = self.material(model, concept, ctx)
        vector = self.vector(model, concept, material, ctx)
        if self.subset != "search":
            vector = vector.restricted(named_subset(model, self.subset))
            if isinstance(self.alpha, float):
                return self.alpha, vector
        how = Choice(
            search=self.inversion(), strength=self.strength(), rounds=self.rounds,
            reader=ClipZeroShot(clip=self.clip),
            contexts=contexts_of(concept.family, self.contexts),
            alpha=self.alpha if isinstance(self.alpha, float) else None,
            subsets=_SEARCHED if self.subset == "search" else (),
        )  # fmt: skip
        return choose(model, self.sight(concept), vector, material[0], how, ctx)

    def material(self, model: TextToImage, concept: Concept, ctx: Context) -> tuple[Tensor, ...]:
        """Images [images, 3, H, W] of the concept; with pairs, those of the scenes without it come second.

        Raises:
            ValueError: the base cannot draw the concept.
        """
        rng, progress, sight = ctx.rng, ctx.progress, self.sight(concept)
        if self.pairs == "scenes":
            return paired_images(model, sight, self.scenes, self.images, rng=rng, progress=progress)
        return (concept_images(model, sight, self.images, rng=rng, progress=progress),)

    def vector(
        self, model: TextToImage, concept: Concept, material: Sequence[Tensor], ctx: Context
    ) -> TaskVector:
        """The concept's vector over the whole UNet, from :meth:`material` or from the UNets that are given.

        Raises:
            FloatingPointError: the fine-tune diverged.
        """
        how, rng, progress = self.tuning(), ctx.rng, ctx.progress
        if self.with_unet:
            without = Path(self.without_unet) if self.without_unet else None
            return vector_between(model, Path(self.with_unet), without)
        if self.pairs == "scenes":
            shown, plain = material
            return paired_vector(
                model, concept, shown, plain, how, share=self.partner_share, rng=rng, progress=progress
            )  # fmt: skip
        return fine_tune(model, concept, material[0], how, rng=rng, progress=progress)

    def sampler(self) -> Sampler:
        """How it samples."""
        return Sampler(steps=self.sampling_steps, guidance_scale=self.guidance_scale)

    def surrogate(self) -> Judge:
        """The judge that tells it whether an image shows the concept."""
        return ClipZeroShot(clip=self.clip, template=self.template)

    def sight(self, concept: Concept) -> Sight:
        """How it looks for a concept."""
        return Sight(concept, self.sampler(), self.surrogate())

    def tuning(self) -> FineTune:
        """Constants of the fine-tune."""
        return FineTune(
            images=self.images, steps=self.steps, lr=self.lr, batch_size=self.batch_size, caption=self.caption,
            flip=self.flip, checkpointing=self.checkpointing,
        )  # fmt: skip

    def inversion(self) -> DiverseInversion:
        """Constants of Diverse Inversion."""
        return DiverseInversion(
            rows=self.rows, low=self.low, high=self.high, pairwise=self.pairwise, templates=self.templates,
            steps=self.inversion_steps, lr=self.inversion_lr, span=self.inversion_span, draws=self.draws,
            samples=self.induction_samples,
        )  # fmt: skip

    def strength(self) -> Strength:
        """Constants of the estimate."""
        return Strength(
            largest=self.largest, tolerance=self.tolerance, samples=self.samples, screen=self.screen,
            threshold=self.threshold, confidence=self.confidence, sensitivity=self.sensitivity, bar=self.bar,
        )  # fmt: skip
