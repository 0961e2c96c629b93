"""Latents where the unedited model goes, and its predictions there: for edits that train nothing on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.core.lazy import no_grad, torch
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import require_finite
from methods.shared.partial_sampling import PartialSampler

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Routes", "Waypoints"]

_CHUNK: Final = 32
"""Rows of a pool that are drawn at once."""


class Waypoints(NamedTuple):
    """Noisy latents [B, C, h, w], their timesteps [B], and predictions of the unedited model.

    Attributes:
        x_BChw: On the way to an image of a text.
        t_B: Of each row.
        own_BChw: The prediction for that text.
        wanted_BChw: What is to be learnt.
    """

    x_BChw: Tensor
    t_B: Tensor
    own_BChw: Tensor
    wanted_BChw: Tensor


class Routes:
    """Latents where the unedited model goes with its texts, drawn anew each time or from a pool.

    Args:
        model: The unedited model.
        texts: What it samples.
        sampler: Brings noise there.
        wanted_of: (prediction for no text, for a row's text) -> what is to be learnt; ``None``: the latter.
        pool: How many there are in all, at least one per text; 0 draws each anew.
        generator: Of the pool.
    """

    def __init__(
        self,
        model: TextToImage,
        texts: Sequence[str],
        sampler: PartialSampler,
        *,
        wanted_of: Callable[[Tensor, Tensor], Tensor] | None,
        pool: int,
        generator: torch.Generator,
    ) -> None:
        self._model, self._sampler, self._wanted_of = model, sampler, wanted_of
        with torch.no_grad():
            self._told = model.encode(texts)
            self._empty = model.encode_branches([""])
            self._contexts = model.guidance.contexts(model, self._told)
        self._each = -(-pool // len(texts))
        self._pool: Waypoints | None = None
        if pool:
            every = torch.arange(len(texts)).repeat_interleave(self._each)
            made = [self._made(which, generator) for which in every.split(_CHUNK)]
            self._pool = Waypoints(*(torch.cat(parts) for parts in zip(*made, strict=True)))

    def draw(self, which_B: Tensor, generator: torch.Generator) -> Waypoints:
        """A waypoint of each of these texts, by their index.

        Raises:
            FloatingPointError: a prediction is not finite.
        """
        if self._pool is None:
            return self._made(which_B, generator)
        drawn = torch.randint(self._each, (len(which_B),), generator=generator)
        rows = (which_B * self._each + drawn).to(self._pool.t_B.device)
        return Waypoints(*(part[rows] for part in self._pool))

    @no_grad
    def _made(self, which_B: Tensor, generator: torch.Generator) -> Waypoints:
        model, n = self._model, len(which_B)
        noise = torch.randn(n, *model.latent_shape, generator=generator)
        stops = torch.randint(self._sampler.steps, (n,), generator=generator)
        rows = which_B.to(model.device)
        x, t = self._sampler.run(model, [of[rows] for of in self._contexts], noise, stops)
        x = x.to(model.dtype)
        own = model.denoise(x, t, self._told[rows])
        wanted = own
        if self._wanted_of is not None:
            wanted = self._wanted_of(model.denoise(x, t, self._empty.repeat(n)), own)
        require_finite([x, own, wanted], "a prediction of the unedited model")
        return Waypoints(x, t, own, wanted)
