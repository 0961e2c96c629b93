"""Hooks, which change what layers put out during the forward pass: a slot of an edited model.

A hook is a record with tensors of its own. It is installed around each call of a network and taken
out again, so models with and without it can be used side by side. Gradients go through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.lazy import torch
from bench.core.spec import Spec
from bench.model.regions import was_compiled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.model.conditioning import Conditioning

__all__ = ["Fitted", "Hook", "Pass", "hooked"]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One call of a network, as far as hooks are told.

    Attributes:
        part: The network: ``unet``, ``text_encoder``.
        ids: Token ids [R, L] of each text encoder; empty where the text states were injected, or
            hold learned embeddings. A text encoder is told its own.
        conditioning: R rows, as the denoiser gets them; ``None`` in a text encoder.
        t_R: Timesteps of the rows; ``None`` in a text encoder.
        branches: K of a guidance: rows are K blocks of R / K, the prompts' own block last.
    """

    part: str
    ids: tuple[Tensor, ...] = ()
    conditioning: Conditioning | None = None
    t_R: Tensor | None = None
    branches: int = 1


class Hook(Spec, ABC):
    """Changes the output of layers, row by row. See ``docs/add-a-method.md``.

    Attributes:
        bypassed_by: What makes it void by construction; a method that fills the slot with it says the same.
    """

    kind: ClassVar[str] = "hook"
    bypassed_by: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def layers(self, tensors: Mapping[str, Tensor]) -> Sequence[str]:
        """The layers ``component.name`` whose output it changes; its tensors may be named after them."""

    def gate(self, tensors: Mapping[str, Tensor], told: Pass) -> Tensor | None:
        """A value of each row [R, ...], asked for once per call of a network; ``None`` if it needs none.

        Args:
            tensors: The hook's own.
            told: About the call. Where it has no token ids, a gate that reads them says what it
                does then, and :attr:`bypassed_by` says so too.
        """
        return None

    @abstractmethod
    def change(
        self,
        layer: str,
        given: Tensor,
        out: Tensor,
        tensors: Mapping[str, Tensor],
        gate: Tensor | None,
        told: Pass,
    ) -> Tensor:
        """The layer's new output, of the same shape; a row depends on no other.

        Args:
            layer: One of :meth:`layers`.
            given: The layer's first input.
            out: Its output.
            tensors: The hook's own.
            gate: What :meth:`gate` said.
            told: About the call.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A hook with its tensors.

    Attributes:
        hook: The rule.
        tensors: By name.
    """

    hook: Hook
    tensors: Mapping[str, Tensor]

    @property
    def layers(self) -> Sequence[str]:
        """The layers whose output it changes."""
        return self.hook.layers(self.tensors)

    def install(self, network: nn.Module, told: Pass) -> list[Any]:
        """Handles of the forward hooks in a network, for one call or until they are removed.

        They come before those that are there: the libraries read inner states by hooks of their own, which
        must see the change. So of several the last is installed first.
        """
        paths = {name: name.partition(".") for name in self.layers}
        mine = {name: path for name, (part, _, path) in paths.items() if part == told.part}
        if not mine:
            return []
        gate = self.hook.gate(self.tensors, told)
        return [
            network.get_submodule(path).register_forward_hook(
                partial(self._changed, name, gate, told), with_kwargs=True, prepend=True
            )
            for name, path in mine.items()
        ]

    def _changed(
        self,
        layer: str,
        gate: Tensor | None,
        told: Pass,
        module: nn.Module,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        out: Any,
    ) -> Any:
        """Returns the new output of a layer, as torch asks of a forward hook."""
        given = args[0] if args else next(iter(named.values()))
        first = out[0] if isinstance(out, tuple) else out
        if not isinstance(first, torch.Tensor):
            raise TypeError(
                f"hook {self.hook.name}: {layer}: expected a layer that puts out a tensor, got "
                f"{type(first).__name__}; hook a layer inside it"
            )
        new = self.hook.change(layer, given, first, self.tensors, gate, told)
        if new.shape != first.shape:
            raise ValueError(
                f"hook {self.hook.name}: {layer}: expected an output of shape {tuple(first.shape)}, "
                f"got {tuple(new.shape)}"
            )
        new = new.to(first.dtype)
        return (new, *out[1:]) if isinstance(out, tuple) else new


@contextmanager
def hooked(hooks: Sequence[Fitted], network: nn.Module, told: Pass) -> Iterator[None]:
    """Installs hooks for one call of a network, in their order.

    The call is neither compiled nor checkpointed. A compiled network does not look for new hooks,
    and a checkpointed block would run again after they are gone.
    """
    handles: list[Any] = []
    try:
        for one in reversed(hooks):
            handles += one.install(network, told)
        with _as_written(network) if handles else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _as_written(network: Any) -> Iterator[None]:
    modules = list(network.modules())  # once: this is done at every call of a hooked network
    checkpointed = [
        module for module in modules if getattr(module, "gradient_checkpointing", False)
    ]
    # To ask torch's compiler itself imports it, which takes seconds.
    compiled = any(map(was_compiled, modules))
    for module in checkpointed:
        module.gradient_checkpointing = False
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True
