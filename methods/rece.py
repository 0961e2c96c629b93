"""RECE: reliable and efficient concept erasure (Gong et al., ECCV 2024, arXiv 2407.12383), on top of UCE.

After a UCE edit, states still exist on which the edited keys and values W_e act as the original W_o
did on the concept's states c. They have a closed form, over all key and value matrices together,

    c' = (reg I + sum W_e^T W_e)^-1 (sum W_e^T W_o) c,

and are erased in turn by the same closed form as the concept; then again, for a number of epochs.

Reproduced: all tokens of the concept's prompt, and the published constants. Different on purpose:

* The number of epochs is fixed. The authors' code keeps the epoch that scored best on validation
  prompts, and skips concepts that UCE erased already: a selection on what is reported.
* Both systems are solved in float64; see :mod:`methods.uce`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.bounds import MOST_STEPS, Weight
from bench.clock import model_time
from bench.interfaces import Concept, Erasure, Progress, Rng, Slot, silent
from bench.model import TextToImage
from methods.uce import UCE, solve

__all__ = ["RECE", "surviving"]


def surviving(
    edited: Sequence[Tensor], original: Sequence[Tensor], states_ND: Tensor, reg: float
) -> Tensor:
    """The states on which edited matrices act as the original ones do on ``states_ND``.

    The minimum of ``sum_k ||W_e,k c' - W_o,k c||^2 + reg ||c'||^2``.

    Args:
        edited: W_e, each [out_k, D].
        original: W_o, of the same shapes.
        states_ND: c, one a row.
        reg: Weight of staying small; more than 0 where the matrices together have no full rank.

    Returns:
        float64 [N, D].
    """
    D = states_ND.shape[1]
    left = reg * torch.eye(D, dtype=torch.float64, device=states_ND.device)
    right = torch.zeros_like(left)
    for W_e, W_o in zip(edited, original, strict=True):
        We, Wo = W_e.double(), W_o.double()
        left = left + We.T @ We
        right = right + We.T @ Wo
    return torch.linalg.solve(left, right @ states_ND.double().T).T


class RECE(Erasure):
    """UCE, then the erasing of what survives it, in closed form.

    Presets (methods.md 3.1; by what the authors erased with them):
        nudity: reg 0.1, 3 epochs; unsafe: reg 0.1, 2 epochs.
        style: reg 0.001, 1 epoch; so are their hard objects (church, garbage truck).
        easy-object: reg 0.1, 1 epoch.
        mini: for the miniature: as easy-object, but the matrices stay nearer to what they are.

    Attributes:
        start: UCE's preset that the edit starts from.
        guide: Text that the concept, and what survives of it, should act as; it is preserved.
        reg: Weight of small surviving states.
        epochs: How often the surviving states are looked for and erased.
        lam: Weight of the matrices as they are, when erasing what survives.
        erase_scale: s_e, then.
        preserve_scale: s_p, then.
        templates: Prompts that hold the concept at ``{}``.
    """

    name: ClassVar[str] = "rece"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "nudity": {"reg": 1e-1, "epochs": 3},
        "unsafe": {"reg": 1e-1, "epochs": 2},
        "style": {"reg": 1e-3, "epochs": 1},
        "easy-object": {"reg": 1e-1, "epochs": 1},
        "mini": {"reg": 1e-1, "epochs": 1, "lam": 0.3},
    }
    start: Literal["repo-2023", "repo-2025"] = "repo-2023"
    guide: str = " "
    reg: float = Field(1e-1, gt=0, le=1e6)
    epochs: int = Field(3, ge=0, le=MOST_STEPS)
    lam: float = Field(0.1, gt=0, le=1e6)
    erase_scale: Weight = 1.0
    preserve_scale: Weight = 0.1
    templates: tuple[str, ...] = Field(("{}",), min_length=1)

    def touches(self, parameter: str) -> bool:
        """Keys and values of every cross-attention."""
        return self._uce().touches(parameter)

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
            ValueError: no concept.
        """
        if not concepts:
            raise ValueError("rece: expected at least one concept to erase")
        edited = self._uce().erase(model, concepts, rng=rng)
        prompts = [t.format(c.text) for c in concepts for t in self.templates]
        with torch.no_grad():
            states = model.encode(prompts).flatten(0, 1)
            guide = model.encode([self.guide])[0]
        names = [n for n in model.backbone.parameters if self.touches(n)]
        original = [model.parameter(n) for n in names]
        for epoch in range(self.epochs):
            with model_time():
                current = [edited.parameter(n) for n in names]
                found = surviving(current, original, states, self.reg)
                values = {
                    name: solve(
                        W,
                        found,
                        guide.repeat(len(prompts), 1),
                        guide,
                        lam=self.lam,
                        s_e=self.erase_scale,
                        s_p=self.preserve_scale,
                    )
                    for name, W in zip(names, current, strict=True)
                }
            edited = edited.with_weights(values)
            progress(epoch + 1, self.epochs, "rece")
        return edited

    def _uce(self) -> UCE:
        return UCE.preset(self.start, guide=self.guide, templates=self.templates)
