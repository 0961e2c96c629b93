"""AdaVD: adaptive value decomposition (Wang et al., CVPR 2025, arXiv 2412.06143), in the forward pass.

Of the value v of each token in the cross-attention, what it shares with the value v* of the concept is
taken away. With x the token's and y the concept's,

    v <- v - s(cos(x, y)) <x, y> / <y, y> v*,    s(c) = 2 / (1 + exp(-a (c - b)));    nothing is trained.

The paper speaks of v alone: x = v, y = v*. The authors' code joins the value u of the empty prompt at
the same place to both, x = [u; v], y = [u; v*]. It changes u by the same share. So its threshold
0.93 is one of 0.86 on the values alone, and 2 (c - b) there is c - b here. Both are here, as
presets.

Reproduced from the authors' code: v* of the last token before the end, at every place; the first
token stays; heads are not told apart. The share s reaches 2, so that what equals the concept is
reversed rather than removed. Different on purpose:

* Several concepts are decomposed by true Gram-Schmidt. The code divides by the raw vectors, which is
  right for two of them alone. What is here are its coefficients as those of least squares: without s,
  the rest is orthogonal to every concept, in any order.
* u is that of the base's empty prompt, whatever takes its place in guidance. In the code it is the
  first half of the batch.
* The code can decompose keys, queries and maps too, and switch itself off for late steps. By default
  it does neither, and neither is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.hooks import Hook, Pass
from bench.model.text_to_image import TextToImage
from methods.shared.guides import last_token

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaVD", "ValueDecomposition", "inverse_of", "weights_of"]

Pairing = Literal["branch", "joint"]
Shift = Literal["adaptive", "none"]
_TINY = 1e-12


class ValueDecomposition(Hook):
    """Takes from each token's value what it shares with the concepts' values.

    In a call for the branches of a guidance, ``joint`` scales the rows of the others by the shares of the
    prompt's own row. Called for prompts alone, it treats each row as a prompt's.

    Tensors of a layer with n concepts, d channels and L tokens. ``concepts`` [n, d] are the values
    v*. ``empty`` [L] is the length of u, or 0 where that plays no part. ``inverse`` [L, n, n], the
    inverse of the cosines between the concepts.

    Attributes:
        pairing: What is compared: the value alone, or it joined to that of the empty prompt.
        shift: ``adaptive``: s of the module; ``none``: 1.
        steepness: a.
        threshold: b, of the cosine.
        ceiling: What s comes near to: 2 reverses, 1 removes.
    """

    name: ClassVar[str] = "value_decomposition"
    bypassed_by: ClassVar[tuple[str, ...]] = ("hooks off", "a state injected at the start token")
    pairing: Pairing = "branch"
    shift: Shift = "adaptive"
    steepness: float = Field(50.0, gt=0, le=1e4)
    threshold: float = Field(0.86, ge=-1, le=1)
    ceiling: float = Field(2.0, gt=0, le=10)

    def layers(self, tensors: Mapping[str, Tensor]) -> Sequence[str]:
        """The matrices of values that it has vectors for."""
        return [n.removesuffix("/concepts") for n in tensors if n.endswith("/concepts")]

    def change(
        self,
        layer: str,
        given: Tensor,
        out: Tensor,
        tensors: Mapping[str, Tensor],
        gate: Tensor | None,
        told: Pass,
    ) -> Tensor:
        """Without the concepts' part in all tokens but the first."""
        wide = torch.promote_types(out.dtype, torch.float32)
        concepts_nd, empty_L, inverse_Lnn = (
            tensors[f"{layer}/{name}"].to(wide) for name in ("concepts", "empty", "inverse")
        )
        every = out.to(wide)
        rows = len(out) // told.branches if self.pairing == "joint" else len(out)
        values_RLd = every[-rows:]  # the prompts' own block is the last
        weights_RLn = weights_of(values_RLd, concepts_nd, empty_L, inverse_Lnn, self._shifted)
        left = values_RLd - weights_RLn @ concepts_nd
        if rows == len(out):
            return left
        others = every[:-rows].unflatten(0, (-1, rows)) * (1 - weights_RLn.sum(-1, keepdim=True))
        return torch.cat([others.flatten(0, 1), left])

    def _shifted(self, cosine: Tensor) -> Tensor:
        """The factor s of a cosine."""
        if self.shift == "none":
            return torch.ones_like(cosine)
        return self.ceiling * torch.sigmoid(self.steepness * (cosine - self.threshold))


def weights_of(
    values_RLd: Tensor,
    concepts_nd: Tensor,
    empty_L: Tensor,
    inverse_Lnn: Tensor,
    shifted: Callable[[Tensor], Tensor],
) -> Tensor:
    """How much of each concept's value is taken from each token's, [R, L, n]; 0 of the first token.

    Args:
        values_RLd: Of the tokens.
        concepts_nd: v* of n concepts.
        empty_L: The length of u at each place; 0: nothing is joined to the values.
        inverse_Lnn: Of the cosines between the joined vectors; see :func:`inverse_of`.
        shifted: The factor of a cosine, s of the module.
    """
    joined = empty_L.square()
    products = joined[:, None] + values_RLd @ concepts_nd.T  # <x, y>
    size = (joined + values_RLd.square().sum(-1)).clamp(min=_TINY).sqrt()[..., None]
    sizes_Ln = _sizes(concepts_nd, empty_L)
    along = products / sizes_Ln
    shares = (inverse_Lnn @ along[..., None])[..., 0] / sizes_Ln
    weights = shares * shifted(along / size)
    return torch.cat([torch.zeros_like(weights[:, :1]), weights[:, 1:]], dim=1)


def inverse_of(concepts_nd: Tensor, empty_L: Tensor) -> Tensor:
    """The inverse [L, n, n] of the cosines between ``[u; v*]`` of n concepts; the pseudo-inverse of alike ones."""
    sizes_Ln = _sizes(concepts_nd, empty_L)
    products = empty_L.square()[:, None, None] + concepts_nd @ concepts_nd.T
    cosines = products / (sizes_Ln[:, :, None] * sizes_Ln[:, None])
    return torch.linalg.pinv(cosines, hermitian=True, rtol=1e-6)


def _sizes(concepts_nd: Tensor, empty_L: Tensor) -> Tensor:
    squares = empty_L.square()[:, None] + concepts_nd.square().sum(-1)
    return squares.clamp(min=_TINY).sqrt()


class AdaVD(Erasure):
    """Takes the concepts' part from the values of the cross-attention, at each call.

    The vectors are of the weights that the model has when it is edited. Of a model whose values are
    edited afterwards they are no longer right.

    Presets (methods-2.md 10):
        paper: each value alone, with the strictness of the release.
        release: the authors' demo: values joined to those of the empty prompt, threshold 0.93.
        release-unshifted: their script's default, which has no threshold.
        mini: as ``paper``, which needs no change for the miniature.

    Attributes:
        pairing: See :class:`ValueDecomposition`.
        shift: See there.
        steepness: See there.
        threshold: See there.
        ceiling: See there.
    """

    name: ClassVar[str] = "adavd"
    slots: ClassVar[frozenset[Slot]] = frozenset({"hooks"})
    bypassed_by: ClassVar[tuple[str, ...]] = ValueDecomposition.bypassed_by
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "release": {"pairing": "joint", "steepness": 100.0, "threshold": 0.93},
        "release-unshifted": {"pairing": "joint", "shift": "none"},
        "mini": {},
    }
    pairing: Pairing = "branch"
    shift: Shift = "adaptive"
    steepness: float = Field(50.0, gt=0, le=1e4)
    threshold: float = Field(0.86, ge=-1, le=1)
    ceiling: float = Field(2.0, gt=0, le=10)

    def roles(self) -> frozenset[Role]:
        """The matrices of values of every cross-attention, whose output is changed."""
        return frozenset({Role.TEXT_VALUES})

    def parameters(self, model: TextToImage) -> list[str]:
        """None: the weights stay."""
        return []

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with a hook at every matrix of values."""
        with torch.no_grad():
            texts = [concept.text for concept in concepts]
            said_nLD = model.encode(texts).states_BLD.double()
            at = [last_token(model, text) for text in texts]
            states_nD = torch.stack([said[k] for said, k in zip(said_nLD, at, strict=True)])
            empty_LD = model.encode_branches([""]).states_BLD[0].double()
        tensors = {}
        layers = model.layers(Role.TEXT_VALUES)
        for done, layer in enumerate(layers):
            with model_time(), torch.no_grad():
                W = model.parameter(f"{layer}.weight").double()
                found = states_nD @ W.T
                empty = (empty_LD @ W.T).norm(dim=-1)
                if self.pairing == "branch":
                    empty = torch.zeros_like(empty)
                tensors[f"{layer}/concepts"], tensors[f"{layer}/empty"] = found, empty
                tensors[f"{layer}/inverse"] = inverse_of(found, empty)
            ctx.progress(done + 1, len(layers), self.name)
        hook = ValueDecomposition(**self.model_dump())
        return model.with_hook(hook, tensors)
