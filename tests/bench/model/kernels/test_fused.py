"""The fused norm and activation: on a GPU, and on a CPU in Triton's interpreter, which a process of its own starts."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from bench.model.kernels.blocks import FusedBlock, can_fuse, fuse, unfuse

WHERE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = (torch.contiguous_format, torch.channels_last)
NEAR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""The norm of the difference to torch's own operations in float64, as a share of the result's norm."""
runs = pytest.mark.skipif(not can_fuse(WHERE), reason="needs a GPU, or Triton's interpreter")


@pytest.mark.slow
@pytest.mark.skipif(can_fuse(WHERE), reason="the tests below run here anyway")
def test_the_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--noconftest", "-p", "no:cacheprovider",
             "-p", "no:randomly", str(Path(__file__).resolve())]  # fmt: skip
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[4]
    done = subprocess.run(words, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "2 skipped" in done.stdout, "it ran the others"


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled there")
def test_the_kernels_compile_for_an_h100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes what the compiler refuses; and the compiler needs no GPU."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bench.model.kernels import norm_silu

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    half, full = "*bf16", "*fp32"
    given = {"x": half, "weight": half, "bias": half, "means": full, "scales": full}
    numbers = dict.fromkeys(("inside", "channels", "pixels"), "i32")
    fixed: dict[str, object] = {"block": norm_silu._BLOCK}
    for kernel, more in (
        (norm_silu._forward, {"y": half, "eps": "fp32"}),
        (norm_silu._backward, {"grad": half, "out": half}),
    ):
        known = {**given, **numbers, **more, **dict.fromkeys(("last", "block"), "constexpr")}
        signature = {name: known[name] for name in kernel.arg_names}
        for last in (False, True):
            source = ASTSource(kernel, signature, constexprs={**fixed, "last": last})
            made = triton.compile(
                source, target=GPUTarget("cuda", 90, 32), options={"num_warps": norm_silu._WARPS}
            )
            assert made.asm["cubin"]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    # Of the same numbers in every precision that is tested.
    return drawn.bfloat16().to(WHERE, dtype)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).float().norm() / other.float().norm())


def through(work: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of what went in."""
    leaf = x.detach().requires_grad_()
    out = work(leaf)
    (grad,) = torch.autograd.grad(out, leaf, draw(*out.shape, dtype=out.dtype, seed=1))
    return out.detach(), grad


@runs
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", NEAR)
def test_it_gives_torchs_values_and_gradients(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    from bench.model.kernels import norm_silu

    # Groups of 3 channels and of 33 x 35 values: more than a block, and no power of 2. A mean far from 0.
    x = (5 + draw(2, 12, 33, 35, dtype=dtype)).contiguous(memory_format=layout)
    # Laid out as no parameter is, but as an edit's values may be.
    weight, bias = (draw(12, 2, dtype=dtype, seed=seed)[:, 0] for seed in (2, 3))
    fields: dict[str, Any] = {"groups": 4, "eps": 1e-5}
    wide = {"weight_C": weight.double(), "bias_C": bias.double(), **fields}
    fused = through(partial(norm_silu.norm_silu, weight_C=weight, bias_C=bias, **fields), x)
    exact = through(partial(norm_silu.eager, **wide), x.double())
    for mine, wanted in zip(fused, exact, strict=True):
        assert mine.dtype == dtype
        assert mine.is_contiguous(memory_format=layout)
        assert apart(mine, wanted) < NEAR[dtype]


@runs
def test_a_gradient_of_the_gradient_is_torchs() -> None:
    from bench.model.kernels import norm_silu

    weight, bias = draw(4, seed=2), draw(4, seed=3)
    found = []
    for way in (norm_silu.norm_silu, norm_silu.eager):
        x = draw(1, 4, 3, 3).requires_grad_()
        y = way(x, weight, bias, 2, 1e-5)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert apart(*found) < 1e-4


def pair(**fields: Any) -> tuple[ResnetBlock2D, ResnetBlock2D]:
    """A frozen block as its library made it, and the same fused."""
    given = {"in_channels": 8, "out_channels": 12, "temb_channels": 16, "groups": 4, **fields}
    plain = ResnetBlock2D(**given)
    with torch.no_grad():
        for seed, value in enumerate(plain.parameters()):
            value.copy_(draw(*value.shape, seed=seed) / 3)
    plain.eval().requires_grad_(requires_grad=False).to(WHERE)
    fused = deepcopy(plain)
    fuse([fused])
    return plain, fused


@runs
@pytest.mark.parametrize(
    "fields", [{}, {"out_channels": 8, "output_scale_factor": 2.0}, {"temb_channels": None}]
)
def test_a_fused_block_gives_what_the_librarys_does(fields: dict[str, Any]) -> None:
    plain, fused = pair(**fields)
    assert type(fused) is FusedBlock
    assert fused.state_dict().keys() == plain.state_dict().keys()
    temb = None if plain.time_emb_proj is None else draw(2, 16, seed=5)
    ours, theirs = (
        through(lambda x, b=block: b(x, temb), draw(2, 8, 5, 5)) for block in (fused, plain)
    )
    for mine, wanted in zip(ours, theirs, strict=True):
        assert apart(mine, wanted) < 1e-5
    unfuse([fused])
    assert type(fused) is ResnetBlock2D


@runs
def test_an_edit_of_a_norm_reaches_it_and_a_learned_one_has_its_gradient() -> None:
    plain, fused = pair()
    x, temb = draw(1, 8, 5, 5), draw(1, 16)
    found = []
    for block in (fused, plain):
        value = (2 + plain.norm1.weight).requires_grad_()
        out = torch.func.functional_call(block, {"norm1.weight": value.detach()}, (x, temb))
        learned = torch.func.functional_call(block, {"norm1.weight": value}, (x, temb))
        found.append((out, torch.autograd.grad(learned.square().sum(), value)[0]))
    for mine, wanted in zip(*found, strict=True):
        assert apart(mine, wanted) < 1e-5
    assert apart(found[0][0], plain(x, temb)) > 0.01


@runs
@pytest.mark.parametrize("part", ["norm1", "norm2", "nonlinearity"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_who_listens_inside_hears_what_the_librarys_block_tells(part: str, kind: str) -> None:
    x, temb = draw(1, 8, 5, 5), draw(1, 16)
    heard: list[list[Tensor]] = []
    for block in pair():
        told: list[Tensor] = []
        layer: nn.Module = getattr(block, part)
        handle = getattr(layer, kind)(
            lambda module, given, *out, t=told: t.append((*out, *given)[0])
        )
        block(x, temb)
        handle.remove()
        block(x, temb)  # nobody hears this one
        heard.append(told)
    assert len(heard[0]) == len(heard[1]) > 0
    for theirs, ours in zip(*heard, strict=True):
        assert torch.equal(ours, theirs)


def test_blocks_that_do_more_are_left_alone() -> None:
    odd = [
        ResnetBlock2D(in_channels=8, groups=4, up=True),
        ResnetBlock2D(in_channels=8, groups=4, down=True),
        ResnetBlock2D(in_channels=8, groups=4, time_embedding_norm="scale_shift"),
        ResnetBlock2D(in_channels=8, groups=4, non_linearity="gelu"),
    ]
    fuse(odd)
    assert {type(block) for block in odd} == {ResnetBlock2D}
