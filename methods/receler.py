"""Receler: reliable concept erasing with lightweight erasers (Huang et al., ECCV 2024, arXiv 2311.17717).

Adapters behind every cross-attention are trained, in the place of the network's weights, towards
ESD's target. The text states are as dangerous as a search could make them:

    eps_th(x_t, c + a, t) <- eps*(x_t, "", t) - eta (eps*(x_t, c, t) - eps*(x_t, "", t)),
    a = argmin mean (eps_th(x_t, c + a, t) - eps*(x_t, c, t))^2,

where ``c + a`` puts soft states a behind the concept's own tokens. Where the unedited network does not
look at the concept, an adapter shall add nothing. The mean square of what it adds there is a second
loss.

In the authors' code the soft states never reach the network: they are assigned to a copy of the states.
So what it trains is ESD's loss and the mask, on the plain concept. That is the preset ``release``;
``paper`` puts them in. Reproduced: the adapters, and the mask from the maps of the second-coarsest
size (16 x 16 in Stable Diffusion). So is the loss that is taken before the last step of the soft
states. These are kept over the whole training, with an optimiser of their own each. Different on
purpose:

* t is the timestep of x_t; theirs lies 39 to 58 above it (see :mod:`methods.esd`).
* Of several concepts each row takes the next in a shuffled order; theirs draws one each time.
* Fewer soft states are put in where the text has no room for all.
* ``attack_steps: 0`` is their search without effect. In their code, 0 trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.lazy import F, torch
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.conditioning import Conditioning
from bench.model.listening import listening
from bench.model.text_to_image import TextToImage
from bench.toolkit.attention import attention_maps
from bench.toolkit.tuning import Optimiser, require_finite, tune_hook
from methods.shared.distillation import negative_guidance
from methods.shared.erasers import Erasers, added, fresh
from methods.shared.guides import last_token
from methods.shared.partial_sampling import PartialSampler, Spacing
from methods.shared.turns import in_turn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Receler", "masks_of", "outside", "put"]


def masks_of(
    maps: Mapping[str, Tensor], tokens: Sequence[range], threshold: float
) -> dict[str, Tensor]:
    """Where an unedited network looks at a concept, by layer: bool [B, P], at the layer's own size.

    Args:
        maps: Probabilities [B, heads, P, L] by layer, of square latents.
        tokens: The concept's tokens in each row.
        threshold: Of the mean map, its smallest value being 0 and its largest 1.
    """
    looks = {
        name: torch.stack(
            [m[:, :, at.start : at.stop].mean((0, 2)) for m, at in zip(every, tokens, strict=True)]
        )
        for name, every in maps.items()
    }
    sides = {name: round(look.shape[1] ** 0.5) for name, look in looks.items()}
    coarse = sorted(set(sides.values()))
    side = coarse[min(1, len(coarse) - 1)]
    mean_BP = torch.stack([looks[name] for name in looks if sides[name] == side]).mean(0)
    low, high = mean_BP.amin(1, keepdim=True), mean_BP.amax(1, keepdim=True)
    mask = ((mean_BP - low) / (high - low) >= threshold).to(mean_BP).view(-1, 1, side, side)
    return {
        name: F.interpolate(mask, size=(own, own)).flatten(1).bool() for name, own in sides.items()
    }


def outside(more_BPd: Tensor, mask_BP: Tensor) -> Tensor:
    """The mean square of what an adapter adds outside of a mask, mean over rows; 0 where nothing is outside."""
    rest_BP = (~mask_BP).to(more_BPd)
    squares_BP = more_BPd.square().mean(-1) * rest_BP
    return (squares_BP.sum(1) / rest_BP.sum(1).clamp(min=1)).mean()


def put(phrases: Conditioning, soft: Sequence[Tensor], ends: Sequence[int]) -> Conditioning:
    """Phrases with soft states behind their own tokens; they have no token ids any more.

    Args:
        phrases: B rows.
        soft: States [n, D] of each row.
        ends: The last own token of each row.
    """
    rows = []
    for states_LD, soft_nD, end in zip(phrases.states_BLD, soft, ends, strict=True):
        room = soft_nD[: len(states_LD) - end - 1].to(states_LD)
        rows.append(torch.cat([states_LD[: end + 1], room, states_LD[end + 1 + len(room) :]]))
    return phrases.with_states(torch.stack(rows))


@contextmanager
def _outputs(model: TextToImage, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While it lasts, the outputs of cross-attentions in the last call, before anything is added to them."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: Any, args: Any, out: Tensor) -> None:
        kept[name] = out

    with listening(model, {f"{name}.to_out.0": partial(keep, name) for name in layers}):
        yield kept


@dataclass(eq=False)
class _Soft:
    """The soft states of a concept, [n, D], and the optimiser that moves them."""

    states: Tensor
    engine: torch.optim.Optimizer

    @classmethod
    def drawn(cls, n: int, width: int, lr: float, decay: float, draw: torch.Generator) -> _Soft:
        """Uniform in [0, 1)."""
        states = torch.rand(n, width, generator=draw).requires_grad_()
        return cls(states, torch.optim.Adam([states], lr=lr, weight_decay=decay))

    def step(self, grad: Tensor | None) -> None:
        """A step of Adam, without gradients of a concept that no row was of."""
        if grad is not None:
            self.states.grad = grad.to(self.states)
            self.engine.step()


class Receler(Erasure):
    """Trains adapters behind the cross-attention to guide the network away from the concepts.

    Presets (methods-2.md 8):
        paper: the search's states enter: 500 steps, each with 50 of the search.
        release: they do not, as in the authors' code. One setting for everything that they erased.
        mini: for the miniature: narrower adapters, fewer and larger steps, more rows per step, and no
            search. With three steps of it the plain name comes back (mini-dev).

    Attributes:
        rank: r of the adapters.
        iterations: Optimiser steps (Adam).
        lr: Learning rate.
        batch_size: Rows per step.
        eta: Strength of the negative guidance.
        regularisation: Weight of what is added outside of the mask.
        threshold: Of the mask.
        attack_steps: Of the search, per optimiser step; 0: no search.
        attack_states: Soft states.
        attack_lr: Learning rate of the search (Adam).
        attack_decay: Its weight decay, as a part of the gradient.
        start_guidance: Guidance scale on the way to x_t.
        sampling_steps: DDIM steps of a whole trajectory.
        spacing: Of their timesteps.
    """

    name: ClassVar[str] = "receler"
    slots: ClassVar[frozenset[Slot]] = frozenset({"hooks"})
    bypassed_by: ClassVar[tuple[str, ...]] = Erasers.bypassed_by
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "release": {"attack_steps": 0},
        "mini": {
            "rank": 32, "iterations": 150, "lr": 3e-3, "batch_size": 4, "attack_steps": 0,
            "sampling_steps": 10, "spacing": "trailing",
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "iterations": 2, "batch_size": 2, "sampling_steps": 2, "attack_steps": 2,
    }  # fmt: skip
    rank: int = Field(128, ge=1, le=4096)
    iterations: Steps = 500
    lr: LearningRate = 3e-4
    batch_size: Count = 1
    eta: Weight = 1.0
    regularisation: Weight = 0.1
    threshold: float = Field(0.1, ge=0, le=1)
    attack_steps: int = Field(50, ge=0, le=10_000)
    attack_states: int = Field(16, ge=1, le=1000)
    attack_lr: LearningRate = 0.1
    attack_decay: Weight = 0.1
    start_guidance: Guidance = 3.0
    sampling_steps: Solver = 50
    spacing: Spacing = "leading"

    def roles(self) -> frozenset[Role]:
        """Every cross-attention, whose output is changed."""
        return frozenset({Role.CROSS_ATTENTION})

    def parameters(self, model: TextToImage) -> list[str]:
        """None: the weights stay."""
        return []

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with adapters in it.

        Raises:
            FloatingPointError: the training diverged, or the search did.
        """
        layers = model.layers(Role.CROSS_ATTENTION)
        texts = [concept.text for concept in concepts]
        with torch.no_grad():
            phrases = model.encode(texts).detach().to(model.device, model.dtype)
            contexts = model.guidance.contexts(model, phrases)
            empty = model.encode_branches([""])
        ends = [last_token(model, text) for text in texts]
        width = phrases.states_BLD.shape[-1]
        soft = [
            _Soft.drawn(
                self.attack_states, width, self.attack_lr, self.attack_decay,
                ctx.generator("soft", k),
            )
            for k in range(len(texts))
        ]  # fmt: skip
        sampler = PartialSampler(self.sampling_steps, self.start_guidance, self.spacing)
        total = self.iterations * self.batch_size
        turns = in_turn(len(texts), total, ctx.generator("concepts")).view(-1, self.batch_size)

        def loss_of(live: TextToImage, step: int) -> Tensor:
            which = turns[step]
            draws = ctx.generator("step", step)
            noise = torch.randn(len(which), *model.latent_shape, generator=draws)
            stops = torch.randint(sampler.steps, (len(which),), generator=draws)
            rows = which.to(model.device)
            with torch.no_grad():
                x, t = sampler.run(live, [context[rows] for context in contexts], noise, stops)
                x = x.to(model.dtype)
                e0 = model.denoise(x, t, empty.repeat(len(which)))
                ec, maps = attention_maps(model, x, t, phrases[rows], layers)
                tokens = [range(1, ends[k] + 1) for k in which.tolist()]
                masks = masks_of(maps, tokens, self.threshold)
            predicted, outputs = self._attacked(live, x, t, phrases, which, soft, ends, ec, layers)
            loss = F.mse_loss(predicted.float(), negative_guidance(e0, ec, self.eta).float())
            tensors = live.hooks[-1].tensors
            spilt = [outside(added(n, outputs[n], tensors).float(), masks[n]) for n in layers]
            return loss + self.regularisation * torch.stack(spilt).mean()

        widths = {n: model.parameter(f"{n}.to_out.0.weight").shape[0] for n in layers}
        start = fresh(widths, self.rank, ctx.generator("adapters"))
        tensors = tune_hook(
            model,
            Erasers(),
            start,
            list(start),
            loss_of,
            Optimiser(self.iterations, self.lr, "adam"),
            progress=ctx.progress,
            what=self.name,
        )
        return model.with_hook(Erasers(), tensors)

    def _attacked(
        self,
        live: TextToImage,
        x_BChw: Tensor,
        t_B: Tensor,
        phrases: Conditioning,
        which_B: Tensor,
        soft: Sequence[_Soft],
        ends: Sequence[int],
        aim_BChw: Tensor,
        layers: Sequence[str],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The prediction for the states that the search ends with, and what the cross-attentions put out on the way."""
        which = which_B.tolist()
        said = phrases[which_B.to(phrases.states_BLD.device)]
        aim = aim_BChw.float()
        for left in range(max(self.attack_steps, 1) - 1, -1, -1):
            told = said
            if self.attack_steps:
                told = put(said, [soft[k].states for k in which], [ends[k] for k in which])
            with _outputs(live, layers) as outputs:
                predicted = live.denoise(x_BChw, t_B, told)
            if self.attack_steps:
                near = F.mse_loss(predicted.float(), aim)
                states = [one.states for one in soft]
                # The last prediction is trained on too, so its graph is kept.
                grads = torch.autograd.grad(near, states, retain_graph=not left, allow_unused=True)
                require_finite(grads, "receler: the gradient of the search")
                for one, grad in zip(soft, grads, strict=True):
                    one.step(grad)
        return predicted, outputs
