"""Listens to layers of a network while a block lasts: what they are given, or what they put out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.core.lazy import torch
from bench.model.networks import Networks
from bench.model.regions import is_compiled

__all__ = ["listening"]


@contextmanager
def listening(
    model: Networks, listeners: Mapping[str, Callable[..., Any]], *, before: bool = False
) -> Iterator[None]:
    """While it lasts, each layer tells its listener of every call.

    A compiled network asks for no hooks that came later, so meanwhile it runs as it is written.

    Args:
        model: Edited or not.
        listeners: A forward hook of torch by the name of a layer, ``component.name``. It is given
            the layer, what that was given, and what it put out. What the hook returns takes the
            place of that, unless it is ``None``.
        before: They are forward pre-hooks, which are given the layer and what it is given.
    """
    parts = {name.partition(".")[0] for name in listeners}
    with ExitStack() as stack:
        if any(is_compiled(model.backbone.network(part)) for part in parts):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, hook in listeners.items():
            layer = model.layer(name)
            register = layer.register_forward_pre_hook if before else layer.register_forward_hook
            stack.callback(register(hook).remove)
        yield
