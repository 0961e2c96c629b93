"""Compiles a network block by block: what repeats is compiled once for each of its sizes, and not once per place.

To compile Stable Diffusion's UNet as a whole did not finish within 130 s on an H100. Its blocks are
small, and alike in all but a few sizes. What lies between them, such as the concatenation of skips, runs
as it is. See "regional compilation" in torch's recipes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bench.core.lazy import torch

__all__ = ["compile_regions", "is_compiled", "regions_of", "was_compiled"]

_REPEATED: Final = frozenset({"BasicTransformerBlock", "ResnetBlock2D", "Attention"})
"""Classes of diffusers; of those inside one another the outer one is a region."""
_KINDS: Final = 256
"""Kinds of calls of one class that are compiled, before the rest runs as it is: a suite has many edits."""


def regions_of(network: Any) -> Iterator[Any]:
    """The blocks that are compiled, each once and none inside another; the network itself if it has none."""
    found = [path for path, module in network.named_modules() if _repeats(module)]
    inside = tuple(f"{path}." for path in found)
    outer = [path for path in found if not path.startswith(inside)]
    for path in outer or [""]:
        yield network.get_submodule(path)


def compile_regions(network: Any) -> None:
    """Has the blocks compiled when they are first called; their parameters and names stay."""
    settings = torch._dynamo.config
    settings.recompile_limit = max(_KINDS, settings.recompile_limit)
    settings.accumulated_recompile_limit = max(4 * _KINDS, settings.accumulated_recompile_limit)
    for region in regions_of(network):
        region.compile()


def is_compiled(network: Any) -> bool:
    """Whether any part of the network was asked to be compiled."""
    return any(map(was_compiled, network.modules()))


def was_compiled(module: Any) -> bool:
    """Whether this very module was asked to be compiled."""
    return module._compiled_call_impl is not None


def _repeats(module: Any) -> bool:
    return any(kind.__name__ in _REPEATED for kind in type(module).__mro__)  # fused ones too
