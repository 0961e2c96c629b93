"""Unified Concept Editing (Gandikota et al., WACV 2024): a closed-form edit of the cross-attention keys and values.

For every key and value matrix W of every cross-attention,

    W' = (lam W + s_e sum_i W g_i c_i^T + s_p sum_j W p_j p_j^T) (lam I + s_e sum_i c_i c_i^T + s_p
    sum_j p_j p_j^T)^-1

with c_i the erased text states, g_i the states they should act as, p_j those to keep. Reproduced:
both published variants, as presets. Different on purpose: the empty prompt is always preserved and
the system is solved in float64, because the 2023 code, which does neither when nothing is
preserved, is ill-conditioned and users got noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.bounds import Weight
from bench.clock import model_time
from bench.interfaces import Concept, Erasure, Progress, Rng, Slot, silent
from bench.model import TextToImage
from methods.calibration import named

__all__ = ["UCE", "solve"]


def solve(
    W: Tensor,
    erase_ND: Tensor,
    guide_ND: Tensor,
    keep_MD: Tensor,
    *,
    lam: float,
    s_e: float,
    s_p: float,
) -> Tensor:
    """The edited matrix.

    Args:
        W: [out, D].
        erase_ND: States c_i.
        guide_ND: States g_i, one for each c_i.
        keep_MD: States p_j; M may be 0.
        lam: Weight of staying at W.
        s_e: Weight of erasing.
        s_p: Weight of preserving.

    Returns:
        float64 [out, D].
    """
    W, c, g, p = (x.double() for x in (W, erase_ND, guide_ND, keep_MD))
    eye = torch.eye(W.shape[1], dtype=torch.float64, device=W.device)
    kept = s_p * p.T @ p + lam * eye
    left = W @ (kept + s_e * g.T @ c)
    right = kept + s_e * c.T @ c  # symmetric
    return torch.linalg.solve(right, left.T).T


class UCE(Erasure):
    """Closed-form erasure of concepts from every cross-attention.

    Presets (methods.md 2.2; the repository at two dates):
        repo-2023: from the last subject token to the end of the sequence, towards " ", lam 0.5,
            s_e 1, s_p max(0.1, 1/M), all tokens of the preserved prompts.
        repo-2025: the last subject token only, towards "" (its first state), lam 0.5,
            s_e = s_p = 1.

    On the miniature the suite ``mini-dev`` compares presets on concepts that no other suite reports.

    Attributes:
        span: Which states of the concept's prompt are erased.
        lam: Weight of the original matrix.
        erase_scale: s_e.
        preserve_scale: s_p; ``None``: max(0.1, 1/M) with M preserved prompts.
        guide: Text the concept should act as; ``None``: the concept's own guide.
        preserve: Prompts kept, besides the empty one.
        templates: Prompts that hold the concept at ``{}``.
    """

    name: ClassVar[str] = "uce"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "repo-2023": {"span": "to_end", "guide": " ", "preserve_scale": None},
        "repo-2025": {"span": "last_subject", "guide": "", "preserve_scale": 1.0},
    }
    span: Literal["to_end", "last_subject"] = "to_end"
    lam: float = Field(0.5, gt=0, le=1e6)
    erase_scale: Weight = 1.0
    preserve_scale: Weight | None = None
    guide: str | None = " "
    preserve: tuple[str, ...] = ()
    templates: tuple[str, ...] = Field(("{}",), min_length=1)

    def touches(self, parameter: str) -> bool:
        """Keys and values of every cross-attention."""
        return parameter.startswith("unet.") and parameter.endswith(
            ("attn2.to_k.weight", "attn2.to_v.weight")
        )

    def erase(
        self,
        model: TextToImage,
        concepts: Sequence[Concept],
        *,
        rng: Rng,
        progress: Progress = silent,
    ) -> TextToImage:
        """The model with edited key and value matrices.

        Raises:
            ValueError: no concept, or a preserved prompt names an erased concept.
        """
        if not concepts:
            raise ValueError("uce: expected at least one concept to erase")
        clash = [p for p in self.preserve if any(named(c.text, p) for c in concepts)]
        if clash:
            raise ValueError(
                f"uce: preserved prompts name an erased concept: {clash}; remove them from `preserve`"
            )
        with torch.no_grad():
            pairs = [self._pairs(model, concept) for concept in concepts]
            erase, guide = (torch.cat(part) for part in zip(*pairs, strict=True))
            keep, prompts = self._kept(model)
        s_p = max(0.1, 1 / prompts) if self.preserve_scale is None else self.preserve_scale
        names = [n for n in model.backbone.parameters if self.touches(n)]
        edited = {}
        for done, name in enumerate(names):
            with model_time():
                edited[name] = solve(
                    model.parameter(name),
                    erase,
                    guide,
                    keep,
                    lam=self.lam,
                    s_e=self.erase_scale,
                    s_p=s_p,
                )
            progress(done + 1, len(names), "uce")
        return model.with_weights(edited)

    def _pairs(self, model: TextToImage, concept: Concept) -> tuple[Tensor, Tensor]:
        guide = self.guide if self.guide is not None else concept.guide
        sources, targets = [], []
        for template in self.templates:
            said, instead = template.format(concept.text), template.format(guide)
            c, g = model.encode([said, instead])
            last, last_guide = (_last_token(model, text) for text in (said, instead))
            if self.span == "last_subject":
                sources.append(c[last : last + 1])
                targets.append(g[last_guide : last_guide + 1])
            else:
                # Aligned from the subject's last token on; the guide's last state stands in where
                # it runs out.
                rest = torch.arange(len(c) - last, device=c.device)
                sources.append(c[last:])
                targets.append(g[(last_guide + rest).clamp(max=len(g) - 1)])
        return torch.cat(sources), torch.cat(targets)

    def _kept(self, model: TextToImage) -> tuple[Tensor, int]:
        prompts = ["", *self.preserve]
        states = model.encode(prompts)
        if self.span == "last_subject":
            rows = [
                states[0],
                *(
                    s[_last_token(model, p)][None]
                    for s, p in zip(states[1:], self.preserve, strict=True)
                ),
            ]
            return torch.cat(rows), len(prompts)
        return states.flatten(0, 1), len(prompts)


def _last_token(model: TextToImage, text: str) -> int:
    """Index of the last token before the end token; 0, the start token, for an empty text."""
    ids = model.tokenize([text])[0].tolist()
    end = ids.index(model.backbone.tokenizer.eos_token_id)
    return max(0, end - 1)
