"""Muon in single precision, over kernels of any number of dimensions.

The library's (``torch.optim.Muon``) takes matrices alone and orthogonalises in bfloat16. A processor
without bfloat16 mimics it: there it took four fifths of a training step.

Reference:
    Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonal"]

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""The published coefficients of the iteration."""
_ITERATIONS = 5
_MOMENTUM = 0.95
_LEAST = 1e-7
_RMS = 0.2
"""The root mean square of AdamW's updates, to which an update is scaled: 0.2 sqrt(max(out, in))."""


def orthogonal(matrices_Kmn: Tensor) -> Tensor:
    """The nearest orthogonal matrix of each, about: singular values between 0.7 and 1.2.

    Five steps of X <- aX + (bXX' + c(XX')²)X, from X over its Frobenius norm.

    Args:
        matrices_Kmn: float [K, m, n].
    """
    tall = matrices_Kmn.shape[1] > matrices_Kmn.shape[2]
    x = matrices_Kmn.mT if tall else matrices_Kmn
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, made orthogonal, at the size of AdamW's updates.

    Args:
        weights: Matrices and kernels [out, ...]; each is taken as a matrix [out, rest].
        lr: The learning rate.
        weight_decay: Taken off before the update, times the learning rate.
    """

    def __init__(self, weights: Sequence[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step from the gradients; kernels of one shape are worked on at once."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[len(weight), weight.numel() // len(weight)].append(weight)
            for (rows, columns), weights in alike.items():
                moves = torch.stack([self._moved(w).reshape(rows, columns) for w in weights])
                size = group["lr"] * _RMS * max(rows, columns) ** 0.5
                torch._foreach_mul_(list[Tensor](weights), 1 - group["lr"] * group["weight_decay"])
                for weight, move in zip(weights, orthogonal(moves), strict=True):
                    weight.add_(move.view(weight.shape), alpha=-size)

    def _moved(self, weight: nn.Parameter) -> Tensor:
        """The gradient with Nesterov's momentum, which is kept."""
        state, slope = self.state[weight], cast(Tensor, weight.grad)
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        held = state["momentum_buffer"].lerp_(slope, 1 - _MOMENTUM)
        return slope.lerp(held, _MOMENTUM)
