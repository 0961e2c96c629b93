"""How the noise predictions of several text branches are combined at each step: a slot of an edited model.

A guidance is differentiable, so an attack goes through the edited model's own guidance, not through
a plain UNet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from bench.core.bounds import Weight
from bench.core.lazy import torch
from bench.core.spec import Spec
from bench.model.conditioning import Conditioning

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.encoder import TextEncoder

__all__ = ["ClassifierFree", "Guidance", "NegativePrompt", "combine_as_sampled", "contexts_of"]


class Guidance(Spec, ABC):
    """Combines K branches of noise predictions.

    Attributes:
        affine: The result is a sum of the branches with weights, the same everywhere, that add up
            to 1. Then what the network predicts (noise or v) can be combined as it is; any other
            guidance is handed noise, whatever the network predicts.
    """

    kind: ClassVar[str] = "guidance"
    affine: ClassVar[bool] = False

    @abstractmethod
    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        """The conditioning of each of the K branches, B rows each; the prompt's own branch is the last."""

    def start(self, model: TextEncoder, conditioning: Conditioning) -> Tensor | None:
        """The memory that the first step is handed; ``None``, the default, where it begins with nothing.

        What a guidance finds out once per prompt is kept so, such as a number of steps for each row. Its
        :meth:`combine` hands it on.

        Args:
            model: To read more text.
            conditioning: Of the prompts, B rows. It has no token ids where states were injected.
        """
        return None

    @abstractmethod
    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The guided prediction.

        Args:
            eps_KBChw: Predictions of the branches.
            scale: Guidance scale; 1 means no guidance.
            step: Index of the sampling step, from 0.
            memory: What the previous step returned; at the first, what :meth:`start` did.

        Returns:
            [B, C, h, w], and the memory for the next step.
        """


class ClassifierFree(Guidance):
    """``eps(0) + s (eps(c) - eps(0))`` (Ho & Salimans 2022)."""

    name: ClassVar[str] = "classifier_free"
    affine: ClassVar[bool] = True

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        """The empty prompt and the prompt."""
        return contexts_of(model, ("",), conditioning)

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See the class."""
        return torch.lerp(eps_KBChw[0], eps_KBChw[1], scale), None


class NegativePrompt(Guidance):
    """Away from a text: ``e_w + s (e(c) - e_w)`` with ``e_w = e(0) + w (e(n) - e(0))``. No effect at scale 1.

    At weight 1 the text takes the empty prompt's place, which is what users call a negative prompt.
    Any other makes the empty prompt's branch a third one: written out, ``e(0) + s (e(c) - e(0)) -
    (s - 1) w (e(n) - e(0))``, the negation of Composable Diffusion (Liu et al., ECCV 2022, arXiv
    2206.01714).

    Attributes:
        text: The negative prompt.
        weight: w; 0 is plain guidance.
    """

    name: ClassVar[str] = "negative_prompt"
    affine: ClassVar[bool] = True
    text: str
    weight: Weight = 1.0

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        """The empty prompt unless the weight is 1, the negative prompt, and the prompt."""
        texts = (self.text,) if self.weight == 1 else ("", self.text)
        return contexts_of(model, texts, conditioning)

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See the class."""
        away, prompt = eps_KBChw[-2], eps_KBChw[-1]
        if self.weight != 1:
            away = torch.lerp(eps_KBChw[0], away, self.weight)
        return torch.lerp(away, prompt, scale), None


def combine_as_sampled(
    guidance: Guidance,
    eps_KBChw: Tensor,
    scale: float,
    steps: Sequence[int],
    memory: Tensor | None = None,
) -> Tensor:
    """The guided predictions that a loss on single timesteps differentiates, where a guidance remembers steps.

    Row b is combined as at sampling step ``steps[b]``, with the warm-up and the memory that the
    steps before it leave behind. Their predictions are taken to be the row's own, so that no
    further call of the UNet is needed. Momentum is met at the size that it has in sampling, and
    only its direction is approximate. Without memory and warm-up this is plain ``combine``.

    Args:
        guidance: How branches are combined.
        eps_KBChw: Predictions of the branches.
        scale: Guidance scale.
        steps: Index of the sampling step of each row.
        memory: What the first step is handed.

    Returns:
        [B, C, h, w]; differentiable in the predictions.
    """
    out, memory = guidance.combine(eps_KBChw, scale, 0, memory)
    at_B111 = torch.tensor(steps, device=eps_KBChw.device)[:, None, None, None]
    for step in range(1, max(steps, default=0) + 1):
        eps_BChw, memory = guidance.combine(eps_KBChw, scale, step, memory)
        out = torch.where(at_B111 >= step, eps_BChw, out)
    return out


def contexts_of(
    model: TextEncoder, texts: Sequence[str], conditioning: Conditioning
) -> tuple[Conditioning, ...]:
    """K + 1 branches: of K texts, the same for all rows and without gradients, and the prompts' own.

    An empty text stands for no prompt at all, whatever that is to the base.
    """
    with torch.no_grad():
        others = model.encode_branches(texts)
    rows, added = (
        len(conditioning),
        conditioning.added,
    )  # no text decides what is added, such as sizes
    told = (replace(others[k : k + 1].repeat(rows), added=added) for k in range(len(texts)))
    return (*told, conditioning)
