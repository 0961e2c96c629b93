"""How attacks that step by an adaptive optimiser are compared: by gradients, not by where they end.

Adam divides a gradient by its own size, so the rounding of a gradient next to nothing becomes a whole
step. Another processor then walks another path. The gradient itself is the same to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.shared import once, prompt_search
from bench.toolkit import inversion
from bench.toolkit.inversion import gradient_faults

_TOLERANCE = 1e-3


@pytest.fixture
def gradients_of() -> Callable[[Callable[[], object]], list[Tensor]]:
    """A function that runs an attack and returns the gradients of its embeddings, step by step."""
    return _gradients_of


@pytest.fixture
def same_gradients() -> Callable[[Tensor, Tensor], None]:
    """A function that asserts that rows [R, ...] of gradients differ by rounding alone."""
    return _same_gradients


@pytest.fixture
def plain_descent() -> Callable[[], AbstractContextManager[None]]:
    """A context in which embeddings are learned by gradient descent, which leaves rounding small."""
    return _plain_descent


def _gradients_of(run: Callable[[], object]) -> list[Tensor]:
    seen: list[Tensor] = []

    def note(grad: Tensor) -> Tensor:
        seen.append(grad.detach().clone())
        return gradient_faults(grad)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inversion, "gradient_faults", note)
        patch.setattr(prompt_search, "gradient_faults", note)
        run()
    return seen


def _same_gradients(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    sizes = other.flatten(1).norm(dim=1)
    assert float(sizes.min()) > 0
    assert float(((one - other).flatten(1).norm(dim=1) / sizes).max()) < _TOLERANCE


@contextmanager
def _plain_descent() -> Iterator[None]:
    def descent(parameters: list[Tensor], lr: float, **kwargs: Any) -> torch.optim.SGD:
        return torch.optim.SGD(parameters, lr=lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", descent)
        yield


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    """The test searches for itself: finds that are kept would hide what a batch does."""
    once._found.clear()
    yield
    once._found.clear()
