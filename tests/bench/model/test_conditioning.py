"""Rows of a conditioning: every part moves with its row, and what does not fit is refused."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from bench.model.conditioning import Conditioning
from bench.model.guidance import NegativePrompt, contexts_of
from bench.model.text_to_image import TextToImage


def rows(*marks: int, pooled: bool = True) -> Conditioning:
    """A row per mark; each part of a row is filled with its mark."""
    of = torch.tensor(marks, dtype=torch.float32)
    return Conditioning(
        of[:, None, None].expand(-1, 2, 3).clone(),
        of[:, None].expand(-1, 4).clone() if pooled else None,
        {"size": of[:, None].clone()} if pooled else {},
        (of[:, None].long().expand(-1, 2), of[:, None].long().expand(-1, 2)),
    )


def marks(told: Conditioning) -> list[int]:
    """The mark of each row; fails where the parts of a row have different ones."""
    parts = [*told.said, *told.added.values(), *told.ids]
    seen = [[set(row) for row in part.flatten(1).tolist()] for part in parts]
    assert all(one == seen[0] for one in seen)
    assert all(len(row) == 1 for row in seen[0])
    return [int(row.pop()) for row in seen[0]]


def parts_of(told: Conditioning) -> tuple[int, bool, list[str], int]:
    return len(told.said), told.pooled_BD is None, sorted(told.added), len(told.ids)


@pytest.mark.parametrize("pooled", [True, False])
def test_rows_are_taken_repeated_and_put_together(pooled: bool) -> None:
    told = rows(1, 2, 3, pooled=pooled)
    for found, expected in (
        (told[1:], [2, 3]),
        (told[[2, 0, 0]], [3, 1, 1]),
        (told[torch.tensor([2, 1])], [3, 2]),
        (told[torch.tensor([True, False, True])], [1, 3]),
        (told[:0], []),
        (told[:2].repeat(2), [1, 2, 1, 2]),
        (told[:2].repeat_interleave(2), [1, 1, 2, 2]),
        (Conditioning.cat([told[2:], told[:1]]), [3, 1]),
        (told.detach(), [1, 2, 3]),
    ):
        assert marks(found) == expected
        assert len(found) == len(expected)
        assert parts_of(found) == parts_of(told)


def test_one_row_is_no_conditioning() -> None:
    with pytest.raises(ValueError, match=r"expected text states \[B, L, D\], got \[2, 3\]; index"):
        rows(1, 2)[cast("list[int]", 0)]
    with pytest.raises(ValueError, match="expected text states"):
        list(cast("list[Tensor]", rows(1, 2)))


def test_parts_of_other_lengths_are_refused() -> None:
    told = rows(1, 2)
    with pytest.raises(
        ValueError, match="expected 3 rows in each part, as in its text states, got"
    ):
        told.with_states(torch.zeros(3, 2, 3))
    with pytest.raises(ValueError, match="expected 2 rows in each part"):
        Conditioning(told.states_BLD, ids=(torch.zeros(1, 2),))


def test_other_kinds_are_not_put_together_and_unknown_ids_are_left_out() -> None:
    for parts in ([rows(1), rows(1, pooled=False)], []):
        with pytest.raises(ValueError, match="with the same pooled vectors and conditions"):
            Conditioning.cat(parts)
    bare = Conditioning(torch.zeros(1, 2, 3))
    assert Conditioning.cat([rows(1, pooled=False), bare]).ids == ()


def test_a_precision_is_for_all_but_the_ids() -> None:
    told = rows(1, 2).to("cpu", torch.bfloat16)
    assert {part.dtype for part in (*told.said, *told.added.values())} == {torch.bfloat16}
    assert {part.dtype for part in told.ids} == {torch.int64}
    assert marks(rows(1, 2).to("cpu")) == [1, 2]


def test_gradients_reach_what_the_text_says() -> None:
    told = rows(1, 2)
    doubled = [(2 * said).requires_grad_() for said in told.said]
    again = told.with_said(doubled).repeat(2)
    sum((said.sum() for said in again.said), start=torch.zeros(())).backward()
    for said in doubled:
        assert said.grad is not None
        assert (said.grad == 2).all()
    assert torch.equal(told.with_states(doubled[0]).states_BLD, doubled[0])


def test_states_that_no_text_gave_have_no_token_ids(model: TextToImage) -> None:
    told = model.encode(["a heart", "a star"])
    assert told.ids
    for changed in (
        told.with_states(2 * told.states_BLD),
        told.with_said([2 * x for x in told.said]),
    ):
        assert changed.ids == ()


def test_a_prompts_conditioning_knows_its_ids_and_its_own_branch_is_the_last(
    model: TextToImage,
) -> None:
    prompts = ["a star", "a zorbo in a meadow"]
    told = model.encode(prompts)
    assert len(told) == 2
    assert told.pooled_BD is None
    assert not told.added
    assert torch.equal(told.ids[0], model.tokenize(prompts))
    negative = NegativePrompt(text="star", weight=0.5)
    branches = negative.contexts(model, told)
    assert branches[-1] is told
    for branch, text in zip(branches, ("", "star"), strict=False):
        assert torch.equal(branch.ids[0], model.tokenize([text, text]))
    injected = Conditioning(told.states_BLD)  # whose tokens nobody knows
    assert Conditioning.cat(contexts_of(model, ("",), injected)).ids == ()
