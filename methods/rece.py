"""RECE: reliable and efficient concept erasure (Gong et al., ECCV 2024, arXiv 2407.12383), on top of UCE.

After a UCE edit, states still exist on which the edited keys and values W_e act like the original
W_o on the concept's states c. They have a closed form, over all key and value matrices together,

    c' = (reg I + sum W_e^T W_e)^-1 (sum W_e^T W_o) c,

and are erased in turn by the same closed form as the concept; then again, for a number of epochs.

Reproduced: all tokens of the concept's prompt, the published constants, "" preserved whatever the
guide is. It is counted once per concept where the authors' code does so. Left to the user, or
different on purpose:

* For art the authors preserve 1734 artists besides, in UCE and here; see :mod:`methods.uce`.
  ``preserve`` takes their list (``dataset/artists1734_prompts.csv``), or any other.
* The number of epochs is fixed. The authors' code keeps the epoch that scored best on validation
  prompts, and skips concepts that UCE erased already: a selection on what is reported.
* Both systems are solved in float64; ``solver="float32"`` inverts them, as the authors do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.core.bounds import MOST_STEPS, Weight
from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.text_to_image import TextToImage
from methods.uce import UCE, Solver, but_for, solve

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RECE", "surviving"]


def surviving(
    edited: Sequence[Tensor],
    original: Sequence[Tensor],
    states_ND: Tensor,
    reg: float,
    solver: Solver = "float64",
) -> Tensor:
    """The states on which edited matrices act as the original ones do on ``states_ND``.

    The minimum of ``sum_k ||W_e,k c' - W_o,k c||^2 + reg ||c'||^2``.

    Args:
        edited: W_e, each [out_k, D].
        original: W_o, of the same shapes.
        states_ND: c, one per row.
        reg: Weight of staying small; more than 0 where the matrices together have no full rank.
        solver: See :func:`methods.uce.solve`.

    Returns:
        [N, D] in the solver's precision.
    """
    dtype = torch.float64 if solver == "float64" else torch.float32
    c = states_ND.to(dtype)
    left = reg * torch.eye(c.shape[1], dtype=dtype, device=c.device)
    right = torch.zeros_like(left)
    for W_e, W_o in zip(edited, original, strict=True):
        We, Wo = W_e.to(dtype), W_o.to(dtype)
        left = left + We.T @ We
        right = right + We.T @ Wo
    if solver == "float32":
        return c @ (torch.linalg.inv(left) @ right).T
    return torch.linalg.solve(left, right @ c.T).T


class RECE(Erasure):
    """UCE, then the erasing of what survives it, in closed form.

    Presets (methods.md 3.1; by what the authors erased with them):
        nudity: reg 0.1, 3 epochs; unsafe: reg 0.1, 2 epochs. "" is preserved once per concept.
        style: reg 0.001, 1 epoch, towards "art".
        hard-object: reg 0.001, 1 epoch (their church and garbage truck).
        easy-object: reg 0.1, 1 epoch.
        mini: for the miniature: as easy-object, but the matrices stay nearer to what they are.

    Attributes:
        start: UCE's preset that the edit starts from.
        guide: Text that the concept, and what survives of it, should act as.
        preserve: Prompts kept besides the empty one, in UCE and in every epoch; the name of an erased
            concept is left out.
        counted: How often a preserved prompt counts in an epoch: once, or once per concept.
        reg: Weight of small surviving states.
        epochs: How often the surviving states are looked for and erased.
        lam: Weight of the matrices as they are, when erasing what survives.
        erase_scale: s_e, then.
        preserve_scale: s_p, then.
        templates: Prompts that hold the concept at ``{}``; ours, theirs uses the bare name.
        solver: Of UCE and of every epoch; see :func:`methods.uce.solve`.
    """

    name: ClassVar[str] = "rece"
    revision: ClassVar[int] = 2
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "nudity": {"reg": 1e-1, "epochs": 3, "counted": "per-concept"},
        "unsafe": {"reg": 1e-1, "epochs": 2, "counted": "per-concept"},
        "style": {"reg": 1e-3, "epochs": 1, "guide": "art", "counted": "once"},
        "hard-object": {"reg": 1e-3, "epochs": 1, "counted": "once"},
        "easy-object": {"reg": 1e-1, "epochs": 1, "counted": "once"},
        "mini": {"reg": 1e-1, "epochs": 1, "lam": 0.3, "counted": "once"},
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 1}
    start: Literal["repo-2023", "repo-2025", "ours"] = "repo-2023"
    guide: str = " "
    preserve: tuple[str, ...] = ()
    counted: Literal["once", "per-concept"] = "per-concept"
    reg: float = Field(1e-1, gt=0, le=1e6)
    epochs: int = Field(3, ge=0, le=MOST_STEPS)
    lam: float = Field(0.1, gt=0, le=1e6)
    erase_scale: Weight = 1.0
    preserve_scale: Weight = 0.1
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)
    solver: Solver = "float64"

    def roles(self) -> frozenset[Role]:
        """Keys and values of every cross-attention."""
        return self._uce().roles()

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with edited key and value matrices."""
        edited = self._uce()(model, concepts, rng=ctx.rng)
        prompts = [t.format(c.text) for c in concepts for t in self.templates]
        with torch.no_grad():
            # It solves for text states alone.
            states = model.encode(prompts).states_BLD.flatten(0, 1)
            guide = model.encode([self.guide]).states_BLD[0]
            keep = model.encode(["", *but_for(concepts, self.preserve)]).states_BLD.flatten(0, 1)
        times = len(concepts) if self.counted == "per-concept" else 1
        names = self.parameters(model)
        original = [model.parameter(n) for n in names]
        for epoch in range(self.epochs):
            with model_time():
                current = [edited.parameter(n) for n in names]
                found = surviving(current, original, states, self.reg, self.solver)
                values = {
                    name: solve(
                        W,
                        found,
                        guide.repeat(len(prompts), 1),
                        keep,
                        lam=self.lam,
                        s_e=self.erase_scale,
                        s_p=times * self.preserve_scale,
                        solver=self.solver,
                    )
                    for name, W in zip(names, current, strict=True)
                }
            edited = edited.with_weights(values)
            ctx.progress(epoch + 1, self.epochs, "rece")
        return edited

    def _uce(self) -> UCE:
        return UCE.preset(
            self.start,
            guide=self.guide,
            preserve=self.preserve,
            templates=self.templates,
            solver=self.solver,
        )
