"""Low-rank adapters with a gate per prompt, as SPM has them (Lyu et al., CVPR 2024, arXiv 2312.16145).

    y <- W x + (sum_i m_i U_i) (sum_j m_j D_j) x        as the authors' code does it,
    y <- W x + sum_i m_i U_i D_i x                      as the paper writes it.

m_i says how near a prompt is to concept i. It is the larger of two. One is the cosine of all their
text states, taken as one vector. The other is the share of the concept's tokens that the prompt
has. So with one adapter the code's effect is that of m^2, and with several there are terms between
them. A file of the authors' loads into the same hook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bench.core.lazy import torch
from bench.interfaces import Role
from bench.model.hooks import Hook, Pass
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GatedAdapters", "Transport", "gate_tensors", "nearness", "transformer_layers"]

Transport = Literal["release", "paper"]
_NONE = -1  # the id of no token


class GatedAdapters(Hook):
    """Adds low-rank maps of what layers are given, each as strongly as the prompt is near its concept.

    All branches of a guidance have the gate of the prompt. Injected text states and learned embeddings
    have no token ids: the gate is then the cosine alone.

    Tensors, with n adapters of rank r for p texts of m tokens at most. Of each layer there are
    ``down`` [n, r, in] and ``up`` [n, out, r]. Of the texts there are ``states`` [p, L, D] and
    ``ids`` [p, m], -1 standing for no token. And there is ``owner`` [p], the adapter of each text.

    Attributes:
        transport: Whose reading of several adapters and of the gate's power; see the module.
        multiplier: The gate, set by hand; ``None``: the prompt's.
    """

    name: ClassVar[str] = "gated_adapters"
    bypassed_by: ClassVar[tuple[str, ...]] = ("hooks off", "injected text states")
    transport: Transport = "release"
    multiplier: float | None = Field(None, ge=-1000, le=1000)

    def layers(self, tensors: Mapping[str, Tensor]) -> Sequence[str]:
        """The linear layers and 1 x 1 convolutions that have an adapter."""
        return [n.removesuffix("/down") for n in tensors if n.endswith("/down")]

    def gate(self, tensors: Mapping[str, Tensor], told: Pass) -> Tensor | None:
        """m, [R, n]."""
        if told.conditioning is None:
            return None  # a text encoder, in which it has no layers
        rows = len(told.conditioning) // told.branches  # the prompts' own are the last
        states = told.conditioning.states_BLD[-rows:]
        adapters = int(tensors["owner"].max()) + 1
        if self.multiplier is not None:
            return states.new_full((len(told.conditioning), adapters), self.multiplier)
        ids = told.ids[0][-rows:] if told.ids else None
        near_Rp = nearness(states, tensors["states"], ids, tensors["ids"])
        gates = [near_Rp[:, tensors["owner"] == i].amax(1) for i in range(adapters)]
        return torch.stack(gates, dim=1).repeat(told.branches, 1)

    def change(
        self,
        layer: str,
        given: Tensor,
        out: Tensor,
        tensors: Mapping[str, Tensor],
        gate: Tensor | None,
        told: Pass,
    ) -> Tensor:
        """The output, and what the adapters make of the input."""
        if gate is None:
            return out
        down, up = tensors[f"{layer}/down"], tensors[f"{layer}/up"]
        convolution = given.ndim == 4
        x = (given.movedim(1, -1) if convolution else given).flatten(1, -2)
        m_Rn = gate.to(down)
        inner = (x @ down.flatten(0, 1).T).unflatten(-1, down.shape[:2])  # [R, P, n, r]
        inner = inner * m_Rn[:, None, :, None].to(inner)
        if self.transport == "paper":
            more = inner.flatten(-2) @ up.movedim(1, -1).flatten(0, 1)
        else:
            more = inner.sum(2) @ torch.einsum("Rn,nor->Rro", m_Rn, up)
        if convolution:
            return out + more.mT.unflatten(-1, out.shape[2:])
        return out + more.view(out.shape)


def nearness(
    states_RLD: Tensor, concepts_pLD: Tensor, ids_RL: Tensor | None, concept_ids_pm: Tensor
) -> Tensor:
    """How near prompts are to texts, [R, p], float32 or wider.

    Args:
        states_RLD: Of the prompts.
        concepts_pLD: Of the texts.
        ids_RL: Tokens of the prompts; ``None``: the cosine decides alone.
        concept_ids_pm: Different tokens of each text, filled up with -1.
    """
    wide = torch.promote_types(states_RLD.dtype, torch.float32)
    one, other = states_RLD.to(wide).flatten(1), concepts_pLD.to(wide).flatten(1)
    near = torch.cosine_similarity(one[:, None], other[None], dim=-1)
    if ids_RL is None:
        return near
    there = (ids_RL[:, None, :, None] == concept_ids_pm[None, :, None, :]).any(2)
    counted = concept_ids_pm != _NONE
    shares = (there & counted).sum(-1) / counted.sum(-1).clamp(min=1)
    return torch.maximum(near, shares.to(near))


def gate_tensors(model: TextToImage, texts: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """The tensors that the gate of a hook reads: the texts of each adapter, as a model encodes them.

    Args:
        model: The base.
        texts: Of each adapter; one or more.
    """
    every = [text for some in texts for text in some]
    with torch.no_grad():
        states = model.encode(every).states_BLD
    ids = [torch.tensor(sorted(set(model.words.ids(text)))) for text in every]
    owner = [k for k, some in enumerate(texts) for _ in some]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=_NONE)
    return {"states": states, "ids": padded.long(), "owner": torch.tensor(owner)}


def transformer_layers(model: TextToImage) -> dict[str, tuple[int, int]]:
    """The linear layers and convolutions inside the denoiser's transformers: (out, in) by name."""
    found = {}
    for name in model.having(Role.DENOISER):
        shape = model.parameter(name).shape
        if ".attentions." in name and name.endswith(".weight") and len(shape) >= 2:
            found[name.removesuffix(".weight")] = (shape[0], shape[1])
    return found
