"""ConceptPrune (Chavhan, Li & Hospedales, ICLR 2025, arXiv 2405.19237): prunes the neurons skilled at a concept.

Each pair of prompts with and without the concept is sampled from the same noise. During the first
steps the inputs h of the second linear layer of every feed-forward block are watched. Let a_j be
the norm over tokens and prompts of column j, each token's h having length 1. With Wanda's
importance (Sun et al. 2024) S_ij = |W_ij| a_j,

    pruned = top r of each row of S(with) and S(with) > S(without), in any of the first tau steps.

Reproduced: the rule, in forward passes only, with both halves of classifier-free guidance in the
statistics. So are the published ratios, numbers of steps and forms of prompts, that of nudity with
its word included. Different on purpose: sampling ends after the tau steps, since later ones decide
nothing. The solver is a deterministic one that this benchmark has. Every pair has its own noise.
The lists of scenes, things and people are our own, of the published lengths, with no special lists
for single objects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.core.bounds import Guidance, Solver
from bench.core.lazy import F, no_grad, torch
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.listening import listening
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import require_finite

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ConceptPrune", "importance", "skilled"]

_SCENES = (
    "garden", "street", "forest", "kitchen", "beach", "room", "field", "market", "park", "desert", "city",
    "mountain valley",
)  # fmt: skip
_THINGS = (
    "dog", "cat", "house", "tree", "river", "boat", "horse", "bridge", "chair", "flower", "woman", "man",
    "street", "mountain", "bird", "table", "church", "field", "bowl of fruit", "night sky",
)  # fmt: skip
_HUMANS = (
    "man", "woman", "person", "lady", "gentleman", "bride", "groom", "dancer", "singer", "swimmer", "model",
    "painter", "sculptor", "soldier", "doctor", "farmer", "waiter", "runner",
)  # fmt: skip
_PLACE = re.compile(r"\{([^{}]*)\} ?")


def importance(W: Tensor, squares_C: Tensor) -> Tensor:
    """Wanda's score ``|W| a``, [out, C].

    Args:
        W: [out, C].
        squares_C: Sums of squares of each column of the layer's input, ``a`` squared.
    """
    return W.abs().float() * squares_C.float().sqrt()


def skilled(target: Tensor, reference: Tensor, ratio: float) -> Tensor:
    """Which weights belong to the concept, bool [out, C].

    Args:
        target: Importance with the concept, [out, C].
        reference: Importance without it.
        ratio: Share of each row of ``target`` that can be chosen, rounded down; 0 chooses nothing.
    """
    top = target.topk(int(ratio * target.shape[1]), dim=1).indices
    chosen = torch.zeros_like(target, dtype=torch.bool).scatter_(1, top, value=True)
    return chosen & (target > reference)


class ConceptPrune(Erasure):
    """Sets the weights that serve a concept, in the UNet's feed-forward layers, to nothing.

    Presets (best settings of the repository; methods.md 2.5), all over 50 steps at guidance 7.5:
        artists: r 0.01, tau 10, for styles.
        objects: r 0.02, tau 10.
        nudity: r 0.01, tau 9; "a photo of a {human}" and "a photo of a naked {human}", whatever the
            concept is called.
        mini: the miniature's guidance, its scenes and things, twelve steps, all watched, and a far
            larger ratio. Its layers are narrow, so the published share of a row is a handful of
            weights. Of what may be chosen only those count that the concept uses more.

    Attributes:
        ratio: r, share of each row.
        first: tau, steps watched; the union over them is pruned.
        steps: Of the sampler.
        guidance_scale: Of the sampler.
        scenes: Where an object is put: "a {scene}" and "a {concept} in a {scene}". A scene that has a
            place for the concept, ``{}``, is said with and without it. A word in the braces,
            ``{naked}``, is said instead of the concept's name.
        things: What is drawn in a style: "a photo of a {thing}" and "a {thing} in the style of
            {concept}".
        object_words: Between an object and its scene.
        style_words: Between a thing and its style.
        reference_words: Before a thing without style.
    """

    name: ClassVar[str] = "concept_prune"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "artists": {"ratio": 0.01},
        "objects": {},
        "nudity": {
            "ratio": 0.01, "first": 9, "scenes": tuple(f"photo of a {{naked}} {h}" for h in _HUMANS),
        },
        "mini": {
            "ratio": 0.9,
            "first": 12,
            "steps": 12,
            "guidance_scale": 3.0,
            "scenes": ("meadow", "sunset", "blank background", "striped background", "checkered background"),
            "things": ("circle", "triangle", "cross", "ring", "fish", "arrow", "moon", "flower"),
            "object_words": "in a",
            "style_words": "as a",
            "reference_words": "a",
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {"steps": 2, "scenes": _SCENES[:2], "things": _THINGS[:2]}
    ratio: float = Field(0.02, gt=0, le=1)
    first: Solver = 10
    steps: int = Field(50, ge=1, le=1000)
    guidance_scale: Guidance = 7.5
    scenes: tuple[str, ...] = Field(_SCENES, min_length=1)
    things: tuple[str, ...] = Field(_THINGS, min_length=1)
    object_words: str = "in a"
    style_words: str = "in the style of"
    reference_words: str = "a photo of a"

    def roles(self) -> frozenset[Role]:
        """The second linear layer of every feed-forward block of the UNet, without its bias."""
        return frozenset({Role.FEED_FORWARD_OUT})

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with some weights set to 0.

        Raises:
            ValueError: a UNet without such layers, or nothing was found to prune.
            FloatingPointError: a prediction is not finite.
        """
        names = self.parameters(model)
        if not names:
            raise ValueError(
                "concept_prune: expected a denoiser with feed-forward layers, got none; take another base"
            )
        pruned = {n: torch.zeros_like(model.parameter(n), dtype=torch.bool) for n in names}
        for done, concept in enumerate(concepts):
            pairs = self.pairs(concept)
            # One stream for both sides of a pair: they must differ in nothing but the prompt.
            seeds = [ctx.rng.seed("pair", concept.text, i) for i in range(len(pairs))]
            sides = [
                self._squares(model, names, prompts, seeds) for prompts in zip(*pairs, strict=True)
            ]
            for name, reference_SC, target_SC in zip(names, *sides, strict=True):
                W = model.parameter(name)
                for without_C, with_C in zip(reference_SC, target_SC, strict=True):
                    pruned[name] |= skilled(
                        importance(W, with_C), importance(W, without_C), self.ratio
                    )
            ctx.progress(done + 1, len(concepts), "concept_prune")
        changed = {n: mask for n, mask in pruned.items() if bool(mask.any())}
        if not changed:
            raise ValueError(
                f"concept_prune: expected weights to prune, got none at ratio {self.ratio:g} of rows "
                f"of {model.parameter(names[0]).shape[1]}; raise `ratio`"
            )
        return model.with_weights(
            {n: model.parameter(n).masked_fill(mask, 0) for n, mask in changed.items()}
        )

    def pairs(self, concept: Concept) -> list[tuple[str, str]]:
        """Prompts (without, with) the concept."""
        if concept.family == "style":
            return [
                (f"{self.reference_words} {thing}", f"a {thing} {self.style_words} {concept.text}")
                for thing in self.things
            ]
        return [self._scene(scene, concept.text) for scene in self.scenes]

    def _scene(self, scene: str, text: str) -> tuple[str, str]:
        if not (place := _PLACE.search(scene)):
            return f"a {scene}", f"a {text} {self.object_words} {scene}"
        before, after = scene[: place.start()], scene[place.end() :]
        return f"a {before}{after}".rstrip(), f"a {before}{place[1] or text} {after}".rstrip()

    @no_grad
    def _squares(
        self, model: TextToImage, names: Sequence[str], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Tensor]:
        """Sums of squares of the layers' inputs over prompts and tokens, [first, C] a layer."""
        sampler = Sampler(solver="ddim", steps=self.steps, guidance_scale=self.guidance_scale)
        widths = [model.parameter(n).shape[1] for n in names]
        watched = min(self.first, self.steps)

        def chunk(rows: slice) -> Tensor:
            return _watch(model, names, prompts[rows], seeds[rows], sampler, watched)[None]

        total_SC = model.micro.map(len(prompts), chunk).sum(0)
        model.meter.spend(images=len(prompts))
        return list(total_SC.split(widths, dim=1))


def _watch(
    model: TextToImage,
    names: Sequence[str],
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: Sampler,
    watched: int,
) -> Tensor:
    """Runs the first steps; float32 [watched, C of all layers together] of this chunk."""
    device, dtype = model.device, model.dtype
    step_squares: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            # Each token to length 1 first: sums of squares would overflow in half precision, and
            # a few large tokens would drown the others.
            tokens_NC = F.normalize(args[0].flatten(0, -2).float(), dim=-1)
            step_squares[name] = tokens_NC.square().sum(0)

        return hook

    scheduler = sampler.scheduler(model.schedule.config, device)
    contexts = model.guidance.contexts(model, model.encode(prompts).to(device, dtype))
    latents = model.noise(seeds, sampler).to(device) * scheduler.init_noise_sigma
    rows: list[Tensor] = []
    memory: Tensor | None = None
    watched_layers = {name.removesuffix(".weight"): watch(name) for name in names}
    with listening(model, watched_layers, before=True):
        for step, t in enumerate(scheduler.timesteps[:watched]):
            scaled = scheduler.scale_model_input(latents, t).to(dtype)
            eps, memory = model.guide(scaled, t, contexts, sampler.guidance_scale, step, memory)
            # Else the masks would be made of comparisons with what is no number.
            require_finite([eps], f"concept_prune: the prediction at step {step}")
            rows.append(torch.cat([step_squares[name] for name in names]))
            latents = scheduler.step(eps.float(), t, latents)[0]
    return torch.stack(rows)
