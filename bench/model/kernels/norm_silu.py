"""Group norm and SiLU in one operation, forward and backward, in Triton.

Torch does them in two operations, which read and write more, and keep the normed values for the backward pass
besides. Here a program per row and group reads its values twice, the second time out of the cache, and
writes once. The backward pass is fused too, because most of an attack's step is spent there. It gives the
gradient of what went in alone. Where the norm's own values are learned, or a gradient's gradient is asked
for, torch's operations are used. They are the oracle of the tests too.

Sums are in float32, of differences to the group's first value, so that a large mean costs no digits.
Between norm and activation nothing is rounded.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

__all__ = ["eager", "norm_silu"]

# Compiled for an H100 these need 72 registers at most. Twice as long a block spills some.
_BLOCK: Final = 2048
_WARPS: Final = 8


@triton.jit  # type: ignore[untyped-decorator]  # triton is not typed
def _places(at, inside, channels, pixels, last: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the next values of a group: which there are, their channels in it, and where they lie from its start."""
    i = at + tl.arange(0, block)
    if last:
        channel = i % inside
        where = (i // inside) * channels + channel
    else:
        channel = i // pixels
        where = i
    return i < inside * pixels, channel, where


@triton.jit  # type: ignore[untyped-decorator]  # triton is not typed
def _start(inside, channels, pixels, last: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the program's group: its number in its row, and where it starts."""
    number = tl.program_id(0)
    groups = channels // inside
    group = number % groups
    row = (number // groups).to(tl.int64) * channels * pixels
    if last:
        begin = row + group * inside
    else:
        begin = row + group * inside * pixels
    return group, begin


@triton.jit(do_not_specialize=("inside",))  # type: ignore[untyped-decorator]  # triton is not typed
def _forward(  # type: ignore[no-untyped-def]
    x, weight, bias, y, means, scales, inside, channels, pixels, eps,
    last: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Writes ``silu(norm(x))``, and of each group its mean and one over its deviation."""
    group, begin = _start(inside, channels, pixels, last)
    count = inside * pixels
    first = tl.load(x + begin).to(tl.float32)
    total = tl.zeros((block,), dtype=tl.float32)
    square = tl.zeros((block,), dtype=tl.float32)
    for at in range(0, count, block):
        there, channel, where = _places(at, inside, channels, pixels, last, block)
        value = tl.load(x + begin + where, mask=there, other=0.0).to(tl.float32)
        apart = tl.where(there, value - first, 0.0)
        total += apart
        square += apart * apart
    off = tl.sum(total, 0) / count
    variance = tl.maximum(tl.sum(square, 0) / count - off * off, 0.0)
    mean = first + off
    scale = 1.0 / tl.sqrt(variance + eps)
    tl.store(means + tl.program_id(0), mean)
    tl.store(scales + tl.program_id(0), scale)
    for at in range(0, count, block):
        there, channel, where = _places(at, inside, channels, pixels, last, block)
        value = tl.load(x + begin + where, mask=there, other=0.0).to(tl.float32)
        w = tl.load(weight + group * inside + channel, mask=there, other=0.0).to(tl.float32)
        b = tl.load(bias + group * inside + channel, mask=there, other=0.0).to(tl.float32)
        z = (value - mean) * scale * w + b
        tl.store(y + begin + where, (z * tl.sigmoid(z)).to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not typed
def _slopes(  # type: ignore[no-untyped-def]
    x, grad, weight, bias, begin, group, mean, scale, at, inside, channels, pixels,
    last: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Of the next values: their normed selves, the gradient by those, which there are, and where."""
    there, channel, where = _places(at, inside, channels, pixels, last, block)
    value = tl.load(x + begin + where, mask=there, other=0.0).to(tl.float32)
    given = tl.load(grad + begin + where, mask=there, other=0.0).to(tl.float32)
    w = tl.load(weight + group * inside + channel, mask=there, other=0.0).to(tl.float32)
    b = tl.load(bias + group * inside + channel, mask=there, other=0.0).to(tl.float32)
    normed = (value - mean) * scale
    z = normed * w + b
    s = tl.sigmoid(z)
    slope = given * s * (1.0 + z * (1.0 - s)) * w
    return tl.where(there, normed, 0.0), tl.where(there, slope, 0.0), there, where


@triton.jit(do_not_specialize=("inside",))  # type: ignore[untyped-decorator]  # triton is not typed
def _backward(  # type: ignore[no-untyped-def]
    x, grad, weight, bias, means, scales, out, inside, channels, pixels,
    last: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Writes the gradient by ``x``: ``s (d - mean(d) - n mean(d n))`` of normed values ``n`` and slopes ``d``."""
    group, begin = _start(inside, channels, pixels, last)
    count = inside * pixels
    mean = tl.load(means + tl.program_id(0))
    scale = tl.load(scales + tl.program_id(0))
    slopes = tl.zeros((block,), dtype=tl.float32)
    products = tl.zeros((block,), dtype=tl.float32)
    for at in range(0, count, block):
        normed, slope, there, where = _slopes(
            x, grad, weight, bias, begin, group, mean, scale, at, inside, channels, pixels, last, block
        )  # fmt: skip
        slopes += slope
        products += slope * normed
    a = tl.sum(slopes, 0) / count
    c = tl.sum(products, 0) / count
    for at in range(0, count, block):
        normed, slope, there, where = _slopes(
            x, grad, weight, bias, begin, group, mean, scale, at, inside, channels, pixels, last, block
        )  # fmt: skip
        found = scale * (slope - a - normed * c)
        tl.store(out + begin + where, found.to(out.dtype.element_ty), mask=there)


def eager(x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float) -> Tensor:
    """The same by torch's two operations."""
    return functional.silu(functional.group_norm(x_BCHW, groups, weight_C, bias_C, eps))


def norm_silu(x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float) -> Tensor:
    """``silu(group_norm(x))`` [B, C, H, W], in the layout of ``x``, with the gradient of ``x`` alone.

    Args:
        x_BCHW: In float32 or half precision.
        weight_C: Of the norm; it and the bias are no leaves that learn.
        bias_C: Of the norm.
        groups: Of channels.
        eps: Added to the variance.
    """
    out: Tensor = _NormSilu.apply(x_BCHW, weight_C, bias_C, groups, eps)
    return out


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float
    ) -> Tensor:
        layout = _layout(x_BCHW)
        x = x_BCHW.contiguous(memory_format=layout)
        weight_C, bias_C = weight_C.contiguous(), bias_C.contiguous()
        y = torch.empty_like(x)
        size = (len(x) * groups,)
        means, scales = (torch.empty(size, device=x.device, dtype=torch.float32) for _ in range(2))
        with torch.cuda.device_of(x):  # Triton launches on the current device, whatever it is given
            _forward[size](
                x, weight_C, bias_C, y, means, scales, *_sizes(x, groups), eps, **_how(x)
            )
        ctx.save_for_backward(x_BCHW, weight_C, bias_C, means, scales)
        ctx.groups, ctx.eps = groups, eps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, bias_C, means, scales = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient of this gradient is asked for
            with torch.enable_grad():
                y = eager(x_BCHW, weight_C, bias_C, ctx.groups, ctx.eps)
                (found,) = torch.autograd.grad(y, x_BCHW, grads[0], create_graph=True)
            return found, None, None, None, None
        layout = _layout(x_BCHW)
        x, grad = (one.contiguous(memory_format=layout) for one in (x_BCHW, grads[0]))
        out = torch.empty_like(x)
        with torch.cuda.device_of(x):
            _backward[(len(means),)](
                x, grad, weight_C, bias_C, means, scales, out, *_sizes(x, ctx.groups), **_how(x)
            )
        return out, None, None, None, None


def _layout(x_BCHW: Tensor) -> torch.memory_format:
    """Channels last where they are, and channels first for anything else."""
    first, last = torch.contiguous_format, torch.channels_last
    return (
        last if not x_BCHW.is_contiguous() and x_BCHW.is_contiguous(memory_format=last) else first
    )


def _sizes(x_BCHW: Tensor, groups: int) -> tuple[int, int, int]:
    """Channels in a group, channels, pixels."""
    channels = x_BCHW.shape[1]
    return channels // groups, channels, x_BCHW.shape[2] * x_BCHW.shape[3]


def _how(x_BCHW: Tensor) -> dict[str, Any]:
    last = _layout(x_BCHW) == torch.channels_last
    return {"last": last, "block": _BLOCK, "num_warps": _WARPS}
