"""SAFREE (Yoon et al., ICLR 2025, arXiv 2410.12761): takes a concept out of the text states of single tokens.

With ``P_c`` the projector on the pooled states of the concept's texts, and ``p_i`` the pooled state
of the prompt with its token i masked:

    d_i    = |(I - P_c) p_i|;  token i is a trigger if  d_i >= (1 + alpha) mean_{j != i} d_j
    E'_i   = (I - P_c) P_m E_i  for triggers, E_i otherwise      (P_m: projector on span{p_1 .. p_n})
    beta   = 1 - mean_i cos((I - P_c) P_m E_i, E_i)              (start, real and end tokens)
    t'     = round(10 sigmoid(2 k (10 beta - b)))

Sampling steps 0 to t' see ``E'``, later ones ``E``; start, end and padding states are never changed.
Reproduced: the rule as the authors' code has it (b8b2c3f), with the concept's texts as a negative
prompt, as every official run has them. No weight changes.

Different on purpose: the concepts' names take the place of the authors' 17 phrases (``texts`` brings
any list back). Projectors come from singular vectors in float64, where the code inverts a Gram
matrix in float32. The release's "latent re-attention" is left out: its call selects no filter, so it
changes nothing there. An empty prompt stays as it is, where the code stops. Not read in the code:
SDXL, where the states of both encoders at the end token take the place of the pooled state.

Text states without token ids (learned embeddings, injected states) hold nothing that could be
masked. They are sampled as they are, against the negative prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.core.bounds import Count, Number, Weight
from bench.core.lazy import F, torch
from bench.interfaces import Concept, Context, Erasure, Slot
from bench.model.conditioning import Conditioning
from bench.model.encoder import TextEncoder
from bench.model.guidance import Guidance, contexts_of
from bench.model.text_to_image import TextToImage
from bench.toolkit.pooled import at_end, ends

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Safree", "SafreeGuidance", "TokenFilter", "basis_of"]

_MASK = 0  # the first token of CLIP's vocabulary, "!", as in the authors' code


class SafreeGuidance(Guidance):
    """Guidance whose prompt branch has its triggers projected during the first steps; see the module.

    The memory is ``t'`` of each row [B]: -1 where nothing is filtered.

    Attributes:
        texts: Of the concept; they span what is taken out.
        alpha: How far above the mean a trigger lies.
        negative: Guides away from this text; empty: from the empty prompt.
        validate_filter: ``t'`` from beta; otherwise every step is filtered.
        most: The 10 of ``t'``.
        steepness: k.
        middle: b.
    """

    name: ClassVar[str] = "safree"
    # A row is a sum of branches whose weights do not depend on the place in the latent.
    affine: ClassVar[bool] = True
    texts: tuple[str, ...] = Field(min_length=1)
    alpha: Number = 0.01
    negative: str = ""
    validate_filter: bool = True
    most: Count = 10
    steepness: Number = 2.5
    middle: Number = 5.333

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        """The negative prompt, the filtered prompt, and the prompt."""
        away, prompt = contexts_of(model, (self.negative,), conditioning)
        if not conditioning.ids:
            return away, prompt, prompt
        found = TokenFilter.of(model, conditioning.ids[0], self.texts, self.alpha)
        triggers_BL1 = found.triggers_BL[..., None]
        states_BLD = prompt.states_BLD
        filtered = found.projected(states_BLD).to(states_BLD.dtype)
        states_BLD = torch.where(triggers_BL1, filtered, states_BLD)
        return away, prompt.with_states(states_BLD), prompt

    def start(self, model: TextEncoder, conditioning: Conditioning) -> Tensor:
        """``t'`` of each row, as float32 [B]."""
        states_BLD = conditioning.states_BLD
        rows = len(conditioning)
        if not conditioning.ids:
            return torch.full((rows,), -1.0, device=states_BLD.device)
        written_B = ends(model, conditioning.ids[0]) > 1
        if not self.validate_filter:
            return torch.where(written_B, torch.inf, -1.0)
        found = TokenFilter.of(model, conditioning.ids[0], self.texts, self.alpha)
        near_BL = F.cosine_similarity(
            found.projected(states_BLD.detach()), states_BLD.detach().double(), dim=-1
        )
        read_BL = found.read_BL
        beta_B = 1 - (near_BL * read_BL).sum(1) / read_BL.sum(1)
        gate_B = torch.sigmoid(2 * self.steepness * (10 * beta_B - self.middle))
        return torch.where(written_B, (self.most * gate_B).round(), -1.0).float()

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See the module. Without a memory nothing is filtered."""
        away, filtered, prompt = eps_KBChw
        if memory is not None:
            prompt = torch.where((memory >= step)[:, None, None, None], filtered, prompt)
        return torch.lerp(away, prompt, scale), memory


class TokenFilter:
    """The tokens of B prompts that ask for a concept, and the projection that their states get.

    Shapes: B prompts, L tokens, N masked prompts each, D text width.

    Attributes:
        real_BL: Tokens between start and end.
        read_BL: These, start and end.
        triggers_BL: Tokens to project.
    """

    def __init__(
        self, real_BL: Tensor, end_B: Tensor, masked_BND: Tensor, concept_MD: Tensor, alpha: float
    ) -> None:
        """``masked_BND`` holds the state of prompt b without token n + 1; zeros where there is none."""
        self.real_BL = real_BL
        places_L = torch.arange(real_BL.shape[1], device=real_BL.device)
        self.read_BL = places_L <= end_B[:, None]
        self._concept_MD = basis_of(concept_MD.double())
        masked = masked_BND.double()
        self._masked_BND = basis_of(masked)
        apart_BN = (masked - _onto(self._concept_MD, masked)).norm(dim=-1)
        there_BN = real_BL[:, 1:-1]
        others_BN = (apart_BN * there_BN).sum(1, keepdim=True) - apart_BN * there_BN
        mean_BN = others_BN / (there_BN.sum(1, keepdim=True) - 1)
        # Of one token there are no others: the mean is not a number, and the token is a trigger.
        triggers_BN = there_BN & ~(apart_BN < (1 + alpha) * mean_BN)
        self.triggers_BL = F.pad(triggers_BN, (1, 1))

    @classmethod
    def of(
        cls, model: TextEncoder, ids_BL: Tensor, texts: Sequence[str], alpha: float
    ) -> TokenFilter:
        """Reads each different prompt once with each of its tokens masked."""
        with torch.no_grad():
            ids_UL, prompt_B = torch.unique(ids_BL, dim=0, return_inverse=True)
            end_U = ends(model, ids_UL)
            real_UL = _real(ids_UL, end_U)
            which_R, place_R = real_UL.nonzero(as_tuple=True)
            masked_RL = ids_UL[which_R].scatter(1, place_R[:, None], _MASK)
            states = at_end(model, torch.cat([model.tokenize(texts), masked_RL]))
            concept_MD, states_RD = states[: len(texts)], states[len(texts) :]
            width = ids_UL.shape[1] - 2
            masked_UND = states_RD.new_zeros(len(ids_UL), width, states_RD.shape[1])
            masked_UND[which_R, place_R - 1] = states_RD
            return cls(real_UL[prompt_B], end_U[prompt_B], masked_UND[prompt_B], concept_MD, alpha)

    def projected(self, states_BLD: Tensor) -> Tensor:
        """``(I - P_c) P_m E`` of every token, float64 [B, L, D]."""
        seen = _onto(self._masked_BND, states_BLD.double())
        return seen - _onto(self._concept_MD, seen)


def basis_of(rows_ND: Tensor) -> Tensor:
    """An orthonormal basis of the span of rows, as rows [..., min(N, D), D]; zeros beyond its dimension.

    Directions whose singular value is below rounding, relative to the largest, do not count.
    """
    _, values, basis_ND = torch.linalg.svd(rows_ND, full_matrices=False)
    least = values[..., :1] * max(rows_ND.shape[-2:]) * torch.finfo(values.dtype).eps
    return basis_ND * (values > least)[..., None]


def _onto(basis_ND: Tensor, rows_LD: Tensor) -> Tensor:
    return rows_LD @ basis_ND.mT @ basis_ND


def _real(ids_BL: Tensor, end_B: Tensor) -> Tensor:
    """Which tokens stand between start and end [B, L]."""
    places_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    return (places_L > 0) & (places_L < end_B[:, None])


class Safree(Erasure):
    """Filters the tokens that ask for the concepts, in the first steps of sampling.

    Presets (constants of the authors' scripts, out of 50 steps):
        release: alpha 0.01, t' up to 10, k and b of styles for styles and of nudity for everything
            else, with the negative prompt; the default.
        alone: the same without the negative prompt, which shows what the filter itself does.
        mini: every step is filtered. The miniature's sampler takes few, and its pooled states give
            another range of beta than the one that k and b were chosen for.

    Attributes:
        alpha: How far above the mean of the others a trigger lies.
        negative: The concept's texts are a negative prompt, as in every official run.
        validate_filter: ``t'`` per prompt; otherwise every step is filtered.
        most: The largest ``t'``.
        steepness: k; ``None``: 3.5 for a style, 2.5 for everything else.
        middle: b; ``None``: 5.5 for a style, 5.333 for everything else.
        texts: Of the concept; empty: the concepts' names.
        separator: Between the texts in the negative prompt.
    """

    name: ClassVar[str] = "safree"
    slots: ClassVar[frozenset[Slot]] = frozenset({"guidance"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("injected text states", "guidance off")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "alone": {"negative": False},
        "mini": {"validate_filter": False},
    }
    alpha: Number = 0.01
    negative: bool = True
    validate_filter: bool = True
    most: Count = 10
    steepness: Weight | None = None
    middle: Number | None = None
    texts: tuple[str, ...] = ()
    separator: str = ", "

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with another guidance."""
        texts = self.texts or tuple(c.text for c in concepts)
        style = all(c.family == "style" for c in concepts)
        steepness, middle = (3.5, 5.5) if style else (2.5, 5.333)
        return model.with_guidance(
            SafreeGuidance(
                texts=texts,
                alpha=self.alpha,
                negative=self.separator.join(texts) if self.negative else "",
                validate_filter=self.validate_filter,
                most=self.most,
                steepness=steepness if self.steepness is None else self.steepness,
                middle=middle if self.middle is None else self.middle,
            )
        )
