"""Muon against the library's, and against what it says of itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.core.rng import generator_for
from bench.mini.train.muon import Muon, orthogonal

SHAPES = [(8, 12), (12, 8), (6, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_takes_the_steps_of_the_librarys(shape: tuple[int, int]) -> None:
    draws = generator_for("muon")
    start = torch.randn(shape, generator=draws)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    own = Muon([mine], lr=0.01, weight_decay=0.1)
    library = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        slope = torch.randn(shape, generator=draws)
        mine.grad, theirs.grad = slope.clone(), slope.clone()
        own.step()
        library.step()
    moved = (theirs - start).norm()
    assert (mine - theirs).norm() < 0.03 * moved  # the library's iterates in bfloat16
    assert moved > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_the_singular_values_come_near_one_and_the_directions_stay(shape: tuple[int, int]) -> None:
    matrices = torch.randn(4, *shape, generator=generator_for("muon"), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonal(matrices)
    inner = u.mT @ found @ v.mT
    values = torch.diagonal(inner, dim1=1, dim2=2)
    kept = s / s.norm(dim=1, keepdim=True) > 0.05  # smaller ones need more iterations
    assert bool(((values > 0.6) & (values < 1.3))[kept].all())
    torch.testing.assert_close(inner, torch.diag_embed(values))


def test_a_kernel_is_taken_as_a_matrix_in_any_memory_order() -> None:
    draws = generator_for("muon")
    start, slope = (torch.randn(4, 3, 3, 3, generator=draws) for _ in range(2))
    kernel = nn.Parameter(start.clone())
    last = nn.Parameter(start.clone(memory_format=torch.channels_last))
    flat = nn.Parameter(start.reshape(4, 27).clone())
    kernel.grad, last.grad, flat.grad = slope, slope.clone(), slope.reshape(4, 27)
    before = kernel.data_ptr()
    Muon([kernel, last], lr=0.1, weight_decay=0.0).step()
    Muon([flat], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(kernel.reshape(4, 27), flat)
    torch.testing.assert_close(last, kernel)
    assert kernel.data_ptr() == before


def test_kernels_of_one_shape_do_not_mix() -> None:
    draws = generator_for("muon")
    many = [nn.Parameter(torch.randn(5, 7, generator=draws)) for _ in range(3)]
    alone = [nn.Parameter(w.detach().clone()) for w in many]
    for one, other in zip(many, alone, strict=True):
        one.grad = torch.randn(5, 7, generator=draws)
        other.grad = one.grad.clone()
    Muon(many, lr=0.1, weight_decay=0.01).step()
    for weight in alone:
        Muon([weight], lr=0.1, weight_decay=0.01).step()
    torch.testing.assert_close(many, alone)


def test_a_weight_without_a_gradient_stays() -> None:
    one, other = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    one.grad = torch.ones(2, 2)
    Muon([one, other], lr=0.1, weight_decay=0.5).step()
    assert bool((other == 1).all())
    assert not bool((one == 1).any())
