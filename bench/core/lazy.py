"""torch, imported when something of it is first used.

Importing torch takes longer than planning a suite does, and ten times the memory. Specs need none
of it: they are listed, checked and hashed without a tensor. A module that defines one takes torch
from here, and ``Tensor``, which only annotations name, under ``TYPE_CHECKING``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

__all__ = ["F", "no_grad", "torch"]

Given = ParamSpec("Given")
Result = TypeVar("Result")


class _Lazy(ModuleType):
    """Stands for a module, and imports it when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if not TYPE_CHECKING:
    torch = _Lazy("torch")
    F = _Lazy("torch.nn.functional")


def no_grad(work: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function under ``torch.no_grad()``, whose own decorator needs torch where it is written."""

    @wraps(work)
    def without_gradients(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with torch.no_grad():
            return work(*args, **kwargs)

    return without_gradients
