"""Chains and shares: every cell in one share, all of an edit in one, whoever asks and whenever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.run.cells import Cell, EditCell, ReferenceCell
from bench.run.chains import Share, chain_of, chains_of, late, share_of
from bench.run.plan import make_plan

CHANGES = {"methods": ["none", "destroyed", "uce", "esd"], "concepts": ["star", "zorbo", "moon"]}


def cells(**changes: object) -> tuple[Cell, ...]:
    suite = load_suite("mini-quick").with_(**{"goals": 2, **CHANGES, **changes})
    return make_plan(suite, "0" * 64).cells


PLAIN = cells()
MOVING = cells(transfer=["prompts"])


@pytest.mark.parametrize("plan", [PLAIN, MOVING])
def test_a_chain_is_an_edit_and_all_on_it(plan: tuple[Cell, ...]) -> None:
    chains = chains_of(plan)
    assert sum(len(chain.cells) for chain in chains) == len(plan)
    heads = [chain.cells[0] for chain in chains]
    assert all(isinstance(head, EditCell | ReferenceCell) for head in heads)
    assert [head.digest for head in heads] == [chain.key for chain in chains]
    for chain in chains:
        edits = {c.parents["edit"] for c in chain.cells if "edit" in c.parents}
        assert edits <= {chain.key}
        assert chain.weight > 0


@pytest.mark.parametrize("plan", [PLAIN, MOVING])
@pytest.mark.parametrize("of", [1, 2, 3, 5, 100])
def test_shares_are_disjoint_and_their_union_is_the_whole(plan: tuple[Cell, ...], of: int) -> None:
    shares = [share_of(plan, Share(number, of)) for number in range(1, of + 1)]
    counted = Counter(cell.digest for own, _ in shares for cell in own)
    assert counted == Counter(cell.digest for cell in plan)
    homes = {chain_of(cell): number for number, (own, _) in enumerate(shares) for cell in own}
    assert all(
        homes[chain_of(cell)] == number for number, (own, _) in enumerate(shares) for cell in own
    )


def test_shares_are_even() -> None:
    loads = [
        sum(chain.weight for chain in chains_of(share_of(PLAIN, Share(number, 3))[0]))
        for number in (1, 2, 3)
    ]
    longest = max(chain.weight for chain in chains_of(PLAIN))
    assert max(loads) - min(loads) <= longest


@pytest.mark.parametrize("plan", [PLAIN, MOVING])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_what_a_share_does_has_all_it_needs_before_it(
    plan: tuple[Cell, ...], data: st.DataObject
) -> None:
    of = data.draw(st.integers(1, 6))
    own, needed = share_of(plan, Share(data.draw(st.integers(1, of)), of))
    there = data.draw(st.sets(st.sampled_from([cell.digest for cell in plan])))
    todo = late(own, needed, [cell for cell in plan if cell.digest not in there])
    wanted = {cell.digest for cell in (*own, *needed)} - there
    assert {cell.digest for cell in todo} == wanted
    seen: set[str] = set()
    for cell in todo:
        assert all(parent in seen or parent in there for parent in cell.parents.values())
        seen.add(cell.digest)


def test_what_others_search_comes_last() -> None:
    own, needed = share_of(MOVING, Share(1, 2))
    todo = late(own, needed, MOVING)
    searched = [i for i, cell in enumerate(todo) if cell in needed and cell.kind == "attack"]
    plain = [
        i for i, cell in enumerate(todo) if cell in own and cell.method_label == cell.source_label
    ]
    assert searched
    assert max(plain) < min(searched)


@pytest.mark.parametrize(
    "text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "1 /2", "a/b", "1/1000001"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard: expected I/N"):
        Share.read(text)


def test_a_share_is_read() -> None:
    assert Share.read("2/8") == Share(2, 8)
    assert str(Share(2, 8)) == "2/8"
