"""ESD: erased stable diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345): negative guidance, learnt.

The edited network is trained to predict, for the concept, what guidance away from it would give,

    eps_th(x_t, c, t) <- eps*(x_t, "", t) - eta (eps*(x_t, c, t) - eps*(x_t, "", t))

with eps* the unedited network and x_t on the way from noise to an image of the concept.

Reproduced: the authors' code at three dates, as presets, and all their sets of parameters. That of 2026 is
one trainer for several families. On Stable Diffusion it differs from that of 2025 in the size of
latents and in a set more (``self``). So here ``repo-2025`` stands for both. Different on purpose:

* t is the timestep of x_t. The code of 2023 drops the first entry of its DDIM list, 981. It tells
  the network a t that lies 39 to 58 above that of the latent.
* x_t is reached by DDIM over 981, 961, ..., 1, and each of the 50 is drawn. The code of 2025 uses the
  pipeline's PNDM, whose list holds 961 twice; it never draws the last entry, 1.
* Latents have the model's own size; the code of 2025 trains SD-1.4 at twice its size.
* Values are trained in float32; the code of 2025 keeps them in bfloat16, where so small a step is
  often rounded away.
* Of several concepts, each row of a batch takes the next in a shuffled order, rather than each step
  one at random. That is the same expectation with less noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.lazy import F, torch
from bench.interfaces import Concept, Context, Erasure, Progress, Rng, Role, Slot, silent
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, tune
from methods.shared.partial_sampling import PartialSampler, Spacing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ESD",
    "Release",
    "Told",
    "Variant",
    "distil",
    "guided_away",
    "in_turn",
    "needs",
    "negative_guidance",
    "trained",
]

Variant = Literal["x", "x-strict", "u", "all", "self"]
Release = Literal["2023", "2025"]

_NEEDS: Final[Mapping[Variant, frozenset[Role]]] = {
    "x": frozenset({Role.CROSS_ATTENTION}),
    "x-strict": frozenset({Role.TEXT_KEYS_AND_VALUES}),
    "u": frozenset({Role.DENOISER, Role.CROSS_ATTENTION}),
    "all": frozenset({Role.DENOISER}),
    "self": frozenset({Role.SELF_ATTENTION}),
}

TargetOf: TypeAlias = "Callable[[int, Tensor, Tensor, Tensor], Tensor]"
Told: TypeAlias = (
    "Callable[[TextToImage, Conditioning, Tensor, Tensor, Tensor, torch.Generator], Conditioning]"
)
"""(model in training, its phrases, x_t, t, noise that x_t came from, draws) -> what it is told instead."""


def negative_guidance(empty_BChw: Tensor, concept_BChw: Tensor, eta: float) -> Tensor:
    """ESD's target: ``e0 - eta (ec - e0)``.

    Args:
        empty_BChw: e0, the unedited prediction for the empty prompt.
        concept_BChw: ec, for the concept.
        eta: 0 is the empty prompt's prediction, -1 the concept's own.
    """
    return torch.lerp(empty_BChw, concept_BChw, -eta)


def guided_away(model: TextToImage, phrases: Conditioning, eta: float) -> TargetOf:
    """The targets of :func:`distil` that guide away from each phrase, as the unedited model sees it."""
    with torch.no_grad():
        empty = model.encode_branches([""])

    def target_of(step: int, which_B: Tensor, x_BChw: Tensor, t_B: Tensor) -> Tensor:
        told = Conditioning.cat([empty.repeat(len(which_B)), phrases[which_B]])
        e0, ec = model.denoise(x_BChw.repeat(2, 1, 1, 1), t_B.repeat(2), told).chunk(2)
        return negative_guidance(e0, ec, eta)

    return target_of


def needs(variant: Variant) -> frozenset[Role]:
    """The roles that a base's parameters must have."""
    return _NEEDS[variant]


def trained(model: TextToImage, variant: Variant, release: Release) -> list[str]:
    """The parameters that a variant trains.

    ``x`` is the cross-attention, ``x-strict`` its keys and values, ``u`` the rest of the UNet, ``all``
    everything, ``self`` the self-attention. The releases differ in the rest. That of 2023 trains
    norms, but neither the embedding of time nor the last norm and convolution. That of 2025 trains
    linear layers and convolutions, these two among them, and no norm.
    """
    names = model.having(*_NEEDS[variant])
    match variant, release:
        case ("x" | "x-strict" | "self", _) | ("all", "2023"):
            return names
        case "u", "2023":
            others = {Role.CROSS_ATTENTION, Role.TIME_EMBEDDING, Role.OUTPUT}
        case "u", _:
            others = {Role.CROSS_ATTENTION, Role.NORM}
        case _:
            others = {Role.NORM}  # what is neither a norm nor inside one is linear or a convolution
    return [name for name in names if not others & model.roles_of(name)]


def in_turn(n: int, total: int, generator: torch.Generator) -> Tensor:
    """``total`` indices below ``n``, int64: all of them in a shuffled order, then in another, and so on."""
    cycles = [torch.randperm(n, generator=generator) for _ in range(-(-total // n))]
    return torch.cat(cycles)[:total]


def distil(
    model: TextToImage,
    names: Sequence[str],
    phrases: Conditioning,
    target_of: TargetOf,
    *,
    sampler: PartialSampler,
    sampled_from: Literal["student", "base"],
    batch_size: int,
    optimiser: Optimiser,
    rng: Rng,
    start: TextToImage | None = None,
    told: Told | None = None,
    progress: Progress = silent,
    what: str = "esd",
) -> dict[str, Tensor]:
    """Trains a model's predictions for phrases towards targets, where sampling the phrases goes.

    Args:
        model: The unedited model.
        names: ``component.name`` of the parameters to train.
        phrases: Of P texts; the rows of a batch take them in turn.
        target_of: (step, phrase of each row [B], x_t, t) -> the target predictions [B, C, h, w].
        sampler: Brings noise to x_t.
        sampled_from: Which model it samples: the one in training, or the unedited one.
        batch_size: B.
        optimiser: How.
        rng: The only source of randomness.
        start: Where training starts, if not from the unedited model.
        told: What the model in training is told, if not the phrases.
        progress: Told after each step.
        what: Said to ``progress``.

    Returns:
        Values by name, for ``with_weights``.
    """
    device, dtype = model.device, model.dtype
    phrases = phrases.detach().to(device, dtype)
    turns = in_turn(len(phrases), optimiser.steps * batch_size, rng.generator("phrases"))
    turns = turns.view(optimiser.steps, batch_size).to(device)
    with torch.no_grad():
        contexts = model.guidance.contexts(model, phrases)

    def loss_of(live: TextToImage, step: int) -> Tensor:
        which = turns[step]
        generator = rng.generator("step", step)
        noise = torch.randn(batch_size, *model.latent_shape, generator=generator)
        stops = torch.randint(sampler.steps, (batch_size,), generator=generator)
        with torch.no_grad():
            visitor = live if sampled_from == "student" else model
            x, t = sampler.run(visitor, [context[which] for context in contexts], noise, stops)
            x = x.to(dtype)
            target = target_of(step, which, x, t)
        said = phrases[which]
        if told is not None:
            said = told(live, said, x, t, noise, generator)
        return F.mse_loss(live.denoise(x, t, said).float(), target.float())

    return tune(start or model, names, loss_of, optimiser, progress=progress, what=what)


class ESD(Erasure):
    """Trains part of the UNet to guide itself away from the concepts.

    Presets (methods.md 2.1; the authors' repository at two dates):
        paper-2023: x_t from the network in training, 1000 steps, learning rate 1e-5.
        repo-2025: x_t from the unedited network, 200 steps, learning rate 5e-5. Its target is written
            ``ec - 2 (ec - e0)``, which is that of eta = 1.
        repo-2026-sdxl: the same with the learning rate that the trainer of 2026 has for SDXL's
            cross-attention, 2e-4. For ``u`` and ``all`` it has 1e-5, and leaves more of SDXL's UNet out.
        mini: for the miniature, whose layers are narrower: fewer, larger steps, a shorter trajectory on
            the grid of the suite's own sampler.

    The paper uses ``x`` for what prompts name (styles, objects) and ``u`` for what they need not name
    (nudity).

    Attributes:
        variant: Which parameters are trained; see :func:`trained`.
        release: Whose reading of ``u`` and ``all``.
        iterations: Optimiser steps (Adam).
        lr: Learning rate.
        batch_size: Rows per step.
        eta: Strength of the negative guidance.
        start_guidance: Guidance scale on the way to x_t.
        sampling_steps: DDIM steps of a whole trajectory.
        spacing: Of their timesteps; see :class:`methods.shared.partial_sampling.PartialSampler`.
        sampled_from: Which network goes to x_t.
        templates: Prompts that hold the concept at ``{}``.
    """

    name: ClassVar[str] = "esd"
    revision: ClassVar[int] = 2
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper-2023": {},
        "repo-2025": {
            "release": "2025", "iterations": 200, "lr": 5e-5, "sampled_from": "base",
        },
        "repo-2026-sdxl": {
            "release": "2025", "iterations": 200, "lr": 2e-4, "sampled_from": "base", "eta": 0.0,
            "start_guidance": 2.0,
        },
        "mini": {
            "iterations": 150, "lr": 2e-4, "batch_size": 4, "sampling_steps": 10,
            "spacing": "trailing", "templates": ("{}", "a {}"),
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {"iterations": 2, "batch_size": 2, "sampling_steps": 2}
    variant: Variant = "x"
    release: Release = "2023"
    iterations: Steps = 1000
    lr: LearningRate = 1e-5
    batch_size: Count = 1
    eta: Weight = 1.0
    start_guidance: Guidance = 3.0
    sampling_steps: Solver = 50
    spacing: Spacing = "leading"
    sampled_from: Literal["student", "base"] = "student"
    templates: tuple[str, ...] = Field(("{}",), min_length=1)

    def roles(self) -> frozenset[Role]:
        """The variant's."""
        return needs(self.variant)

    def parameters(self, model: TextToImage) -> list[str]:
        """The variant's parameters."""
        return trained(model, self.variant, self.release)

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its UNet.

        Raises:
            FloatingPointError: the training diverged.
        """
        with torch.no_grad():
            phrases = model.encode([t.format(c.text) for c in concepts for t in self.templates])
        values = distil(
            model,
            self.parameters(model),
            phrases,
            guided_away(model, phrases, self.eta),
            sampler=PartialSampler(self.sampling_steps, self.start_guidance, self.spacing),
            sampled_from=self.sampled_from,
            batch_size=self.batch_size,
            optimiser=Optimiser(self.iterations, self.lr, "adam"),
            rng=ctx.rng,
            progress=ctx.progress,
        )
        return model.with_weights(values)
