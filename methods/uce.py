"""Unified Concept Editing (Gandikota et al., WACV 2024): a closed-form edit of the cross-attention keys and values.

For every key and value matrix W of every cross-attention,

    W' = (lam W + s_e sum_i W g_i c_i^T + s_p sum_j W p_j p_j^T) A^-1
    A  =  lam I + s_e sum_i c_i c_i^T   + s_p sum_j p_j p_j^T

with c_i the erased text states, g_i the states they should act as, p_j those to keep. Reproduced: the
authors' code at two dates, as presets, with what each preserves and guides to by default. Left to
the user, or different on purpose:

* For art the code of 2023 also preserves 1734 artists, and RECE's code does so too. Their list is
  ``data/artists1734_prompts.csv`` (column ``artist``) of the repository; ``preserve`` takes it, or
  any other. The miniature knows none of them, so the presets preserve none.
* The system is solved in float64. The authors invert in float32, where rounding depends on the
  machine; ``solver="float32"`` does as they do.
* The code of 2023 can also make the targets orthogonal (``tensor``); its default is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from bench.core.bounds import Weight
from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.text_to_image import TextToImage
from methods.shared.calibration import named
from methods.shared.guides import Guides, guides_or_text, last_token

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["UCE", "Solver", "but_for", "solve"]

Solver = Literal["float64", "float32"]


def solve(
    W: Tensor,
    erase_ND: Tensor,
    guide_ND: Tensor,
    keep_MD: Tensor,
    *,
    lam: float,
    s_e: float,
    s_p: float,
    solver: Solver = "float64",
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
        solver: ``float64`` solves the system; ``float32`` inverts it, as the authors' code does.

    Returns:
        [out, D] in the solver's precision.
    """
    dtype = torch.float64 if solver == "float64" else torch.float32
    W, c, g, p = (x.to(dtype) for x in (W, erase_ND, guide_ND, keep_MD))
    eye = torch.eye(W.shape[1], dtype=dtype, device=W.device)
    kept = s_p * p.T @ p + lam * eye
    left = W @ (kept + s_e * g.T @ c)
    right = kept + s_e * c.T @ c  # symmetric
    if solver == "float32":
        return left @ torch.linalg.inv(right)
    return torch.linalg.solve(right, left.T).T


def but_for(concepts: Sequence[Concept], prompts: Sequence[str]) -> list[str]:
    """The prompts that are not the name of an erased concept, in any case of its letters."""
    erased = {c.text.lower() for c in concepts}
    return [p for p in prompts if p.lower() not in erased]


class UCE(Erasure):
    """Closed-form erasure of concepts from every cross-attention.

    Presets (methods.md 2.2; the repository at two dates, and ours):
        repo-2023: from the last subject token to the end of the sequence, towards " ", lam 0.5, s_e 1,
            s_p max(0.1, 1/M) with M preserved prompts; "" is preserved. ``templates`` format the
            concept and leave the guide bare.
        repo-2025: the last subject token only, towards the first state of "", or towards "art" for
            styles; lam 0.5, s_e 1, s_p 1; nothing is preserved. ``templates`` format the guide too.
        ours: the last subject token only, towards "", with every state of "" preserved at s_p 1:
            the rest of the model moves less, and more of what means the concept survives.

    On the miniature the suite ``mini-dev`` compares presets on concepts that no other suite reports.

    Attributes:
        span: Which states of the concept's prompt are erased.
        lam: Weight of the original matrix.
        erase_scale: s_e.
        preserve_scale: s_p; ``None``: max(0.1, 1/M) with M preserved prompts.
        guide: Text the concept should act as, of all or by family; ``None``: the concept's own guide.
        always: Prompts of which every state is kept.
        preserve: More prompts to keep: every state (``to_end``), or the last subject token's
            (``last_subject``). The name of an erased concept is left out of the list, as in the code
            of 2023, so that one list suits every concept.
        templates: Prompts that hold the concept at ``{}``.
        formats: What ``templates`` format: the concept, or the guide too.
        solver: See :func:`solve`.
    """

    name: ClassVar[str] = "uce"
    revision: ClassVar[int] = 2
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "repo-2023": {},
        "repo-2025": {
            "span": "last_subject", "guide": {"style": "art", "other": ""}, "always": (),
            "preserve_scale": 1.0, "formats": "both",
        },
        "ours": {"span": "last_subject", "guide": "", "preserve_scale": 1.0, "formats": "both"},
    }  # fmt: skip
    span: Literal["to_end", "last_subject"] = "to_end"
    lam: float = Field(0.5, gt=0, le=1e6)
    erase_scale: Weight = 1.0
    preserve_scale: Weight | None = None
    guide: Annotated[str | Guides | None, BeforeValidator(guides_or_text)] = " "
    always: tuple[str, ...] = ("",)
    preserve: tuple[str, ...] = ()
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)
    formats: Literal["concept", "both"] = "concept"
    solver: Solver = "float64"

    def roles(self) -> frozenset[Role]:
        """Keys and values of every cross-attention."""
        return frozenset({Role.TEXT_KEYS_AND_VALUES})

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with edited key and value matrices.

        Raises:
            ValueError: a preserved prompt names an erased concept.
        """
        preserve = but_for(concepts, self.preserve)
        clash = [p for p in preserve if any(named(c.text, p) for c in concepts)]
        if clash:
            raise ValueError(
                f"uce: preserved prompts name an erased concept: {clash}; remove them from `preserve`"
            )
        with torch.no_grad():
            pairs = [self._pairs(model, concept) for concept in concepts]
            erase, guide = (torch.cat(part) for part in zip(*pairs, strict=True))
            keep = self._kept(model, preserve)
        prompts = len(self.always) + len(preserve)
        s_p = max(0.1, 1 / max(prompts, 1)) if self.preserve_scale is None else self.preserve_scale
        names = self.parameters(model)
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
                    solver=self.solver,
                )
            ctx.progress(done + 1, len(names), "uce")
        return model.with_weights(edited)

    def _pairs(self, model: TextToImage, concept: Concept) -> tuple[Tensor, Tensor]:
        """The states c_i of a concept and their g_i, each [N, D]."""
        guide = self.guide.of(concept) if isinstance(self.guide, Guides) else self.guide
        guide = concept.guide if guide is None else guide
        sources, targets = [], []
        for template in self.templates:
            said = template.format(concept.text)
            instead = template.format(guide) if self.formats == "both" else guide
            c, g = model.encode([said, instead]).states_BLD
            last, last_guide = (last_token(model, text) for text in (said, instead))
            # Aligned at the last subject token of each, as far as both sequences reach.
            count = 1 if self.span == "last_subject" else len(c) - max(last, last_guide)
            sources.append(c[last : last + count])
            targets.append(g[last_guide : last_guide + count])
        return torch.cat(sources), torch.cat(targets)

    def _kept(self, model: TextToImage, preserve: Sequence[str]) -> Tensor:
        """The states p_j, [M, D]; M is 0 where nothing is preserved."""
        if not (prompts := [*self.always, *preserve]):
            return model.encode([""]).states_BLD[0, :0]
        states = model.encode(prompts).states_BLD
        if self.span == "to_end":
            return states.flatten(0, 1)
        n = len(self.always)
        ends = [s[last_token(model, p)] for s, p in zip(states[n:], preserve, strict=True)]
        return torch.cat([states[:n].flatten(0, 1), *(end[None] for end in ends)])
