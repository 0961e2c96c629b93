"""Chooses a GPU's kernels by measurement, when a base is loaded: some calls of its own denoiser, timed.

Another kernel has to be faster than the usual one by more than noise, so that workers on like GPUs choose alike.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import product
from typing import Any, Final, TypeAlias, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from bench.core.errors import UsageError, in_one_line
from bench.core.rng import normal_rows, seed_for
from bench.model.families.family import Family
from bench.model.kernels.attention import BACKENDS, in_order
from bench.model.kernels.blocks import can_fuse
from bench.model.kernels.choice import KINDS, Kernels
from bench.model.networks import Networks

__all__ = [
    "Attended",
    "Timer",
    "attended",
    "attention_times",
    "choose",
    "gradient_step",
    "settle",
    "timer_on",
]

log = logging.getLogger(__name__)

Timer: TypeAlias = Callable[[Callable[[], object]], float]
"""Seconds that a piece of work takes once it is warm."""
Attended: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shapes of queries and keys [B, heads, tokens, width], and their precision."""

_ROWS: Final = 8
"""Rows that are timed at once: with few of them the processor is timed, which launches the kernels."""
_MARGIN: Final = 0.95
_TIMED: Final = 2
_Name = TypeVar("_Name")


def timer_on(device: torch.device, times: int = _TIMED) -> Timer:
    """A clock that lets a piece of work run once, and then times it: the best of a few times."""

    def timed(work: Callable[[], object]) -> float:
        work()
        best = math.inf
        for _ in range(times):
            _wait(device)
            began = time.perf_counter()
            work()
            _wait(device)
            best = min(best, time.perf_counter() - began)
        return best

    return timed


def settle(base: Family, device: str, kernels: Mapping[str, str] | None = None) -> None:
    """Moves a base to a device before it is used, and has its kernels chosen there if that is a GPU.

    Args:
        base: Just made.
        device: A torch device.
        kernels: Those that somebody named, by kind.

    Raises:
        UsageError: they do not run there.
    """
    base.settle(device)
    if base.device.type == "cuda":
        choose(base, kernels or {}, timer_on(base.device))
    elif kernels:
        words = " ".join(kernels.values())
        raise UsageError(
            f"--kernels: expected a GPU to use {words} on, and the device is {device}; leave it out"
        )


def choose(base: Family, asked: Mapping[str, str], timer: Timer, *, rows: int = _ROWS) -> Kernels:
    """The kernels that a base is fastest by on its device; it uses them from then on.

    Attention comes first, by the shapes that the denoiser asks for. Layout and norms follow
    together, by whole gradient steps, because a norm may be fast in one layout only.

    Args:
        base: On its device.
        asked: Kernels that somebody named, by kind: these are not measured.
        timer: Seconds of a piece of work; tests bring their own.
        rows: At once; fewer where memory is short.

    Raises:
        UsageError: a kernel that was asked for does not run here.
    """
    given = {**Kernels().as_json(), **asked}
    base.use(Kernels(**cast("Any", given)))
    if set(asked) == set(KINDS):
        return base.kernels
    model = Networks(base)
    if "attention" not in asked:
        times = attention_times(attended(model), rows, base.device, timer)
        given["attention"] = _quickest(times)
    layouts = [asked["layout"]] if "layout" in asked else KINDS["layout"]
    fusable = "norms" not in asked and can_fuse(base.device.type)
    norms = KINDS["norms"] if fusable else [given["norms"]]
    ways = [
        Kernels(**cast("Any", {**given, "layout": layout, "norms": norm}))
        for layout, norm in product(layouts, norms)
    ]
    base.use(_quickest(_steps_of(base, model, ways, timer, rows)) if len(ways) > 1 else ways[0])
    return base.kernels


def gradient_step(model: Networks, rows: int) -> Tensor:
    """The gradient [B, L, D] of the noise prediction's square by the text states, as attacks ask for.

    Args:
        model: Edited or not.
        rows: B, each with noise of its own.
    """
    noisy_BChw = normal_rows(model.latent_shape, range(rows)).to(model.device, model.dtype)
    told = model.encode(["a picture"] * rows).detach()
    states_BLD = told.states_BLD.requires_grad_()
    predicted = model.denoise(noisy_BChw, 500, told)
    (grad,) = torch.autograd.grad(predicted.float().square().mean((1, 2, 3)).sum(), states_BLD)
    return grad


def attended(model: Networks) -> Counter[Attended]:
    """How often a call of the denoiser on one row asks for attention of each shape."""
    noisy_BChw = normal_rows(model.latent_shape, [0]).to(model.device, model.dtype)
    with torch.no_grad():
        told = model.encode(["a picture"])
        with _Attended() as seen:
            model.denoise(noisy_BChw, 500, told)
    return seen.calls


def attention_times(
    calls: Mapping[Attended, int], rows: int, device: torch.device, timer: Timer
) -> dict[str, float]:
    """Seconds of all attention of a gradient step, by kernel; infinite where one can do none of it, or lacks memory.

    What a kernel cannot do, such as a wide head, is done by another, as it is in use.

    Args:
        calls: From :func:`attended`.
        rows: So many of them.
        device: Where.
        timer: Seconds of a piece of work.
    """
    return {name: _attention_time(name, calls, rows, device, timer) for name in KINDS["attention"]}


class _Attended(TorchFunctionMode):
    """Notes which attention is asked for, and lets it be computed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Attended] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            q, k = args[:2]
            self.calls[tuple(q.shape), tuple(k.shape), q.dtype] += 1
        return func(*args, **(kwargs or {}))


def _attention_time(
    name: str, calls: Mapping[Attended, int], rows: int, device: torch.device, timer: Timer
) -> float:
    total, able = 0.0, name == "torch"
    with warnings.catch_warnings():  # a kernel that cannot do it says why at length
        warnings.simplefilter("ignore")
        for asked, times in calls.items():
            try:
                drawn = _drawn(asked, rows, device)
                if name == "torch":
                    total += times * timer(partial(_attend, None, drawn))
                    continue
                try:
                    seconds = timer(partial(_attend, [BACKENDS[name]], drawn))
                    able = True
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError:  # there is no such kernel for this shape
                    seconds = timer(partial(_attend, in_order(name), drawn))
                total += times * seconds
            except torch.OutOfMemoryError:
                return math.inf
    return total if able else math.inf


def _drawn(asked: Attended, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of these shapes, which lie as a denoiser has them."""
    queries, keys, dtype = asked
    generator = torch.Generator(device).manual_seed(seed_for("attention"))

    def draw(shape: tuple[int, ...]) -> Tensor:
        _, heads, tokens, width = shape
        drawn = torch.randn(
            rows, tokens, heads, width, generator=generator, device=device, dtype=dtype
        )
        return drawn.transpose(1, 2).requires_grad_()

    return draw(queries), draw(keys), draw(keys)


def _attend(order: list[SDPBackend] | None, drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    with nullcontext() if order is None else sdpa_kernel(order, set_priority=True):
        out = functional.scaled_dot_product_attention(*drawn)
        torch.autograd.grad(out, drawn, torch.ones_like(out))


def _steps_of(
    base: Family, model: Networks, ways: Iterable[Kernels], timer: Timer, rows: int
) -> dict[Kernels, float]:
    """Seconds of a gradient step in each way; of fewer rows where the first way has no memory for so many.

    A way that fails, other than the first, takes for ever.
    """
    found: dict[Kernels, float] = {}
    for way in ways:
        base.use(way)
        while True:
            try:
                found[way] = timer(partial(gradient_step, model, rows))
            except torch.OutOfMemoryError:
                if not found and rows > 1:
                    rows //= 2
                    continue
                found[way] = math.inf
            except Exception as error:
                # Triton lacks a compiler, a driver, ...: it promises no kind.
                if not found:
                    raise
                log.warning("%s cannot be used here: %s", way, in_one_line(error))
                found[way] = math.inf
            break
    return found


def _quickest(times: Mapping[_Name, float]) -> _Name:
    """The first name, which is the usual one, unless another is faster by more than noise."""
    usual = next(iter(times))
    best = min(times, key=lambda name: times[name])
    return best if times[best] < _MARGIN * times[usual] else usual


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
