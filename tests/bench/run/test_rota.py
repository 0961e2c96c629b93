"""The order in which many workers compute a plan: parents first, an edit together, nothing twice, nothing lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.run.cells import Cell
from bench.run.chains import chain_of, chains_of
from bench.run.rota import Rota
from tests.bench.run.test_chains import MOVING, PLAIN


@pytest.mark.parametrize("plan", [PLAIN, MOVING])
@given(workers=st.integers(1, 9), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_every_cell_is_done_once_and_after_its_parents(
    plan: tuple[Cell, ...], workers: int, seed: int
) -> None:
    draw, rota = random.Random(seed), Rota(plan)
    there: set[str] = set()
    at: dict[int, Cell] = {}
    now = 0.0
    while rota.open:
        now += 1.0
        rota.wake(now)
        for worker in range(workers):
            if worker not in at and (cell := rota.take(worker)) is not None:
                assert there.issuperset(cell.parents.values())
                assert cell.digest not in there
                assert cell not in at.values()
                at[worker] = cell
        if not at:
            assert rota.put_off
            continue
        worker = draw.choice(sorted(at))
        cell = at.pop(worker)
        match draw.random():
            case fate if fate < 0.1:  # the worker has died
                rota.leave(worker)
                rota.again(cell)
            case fate if fate < 0.2:  # another process is at it
                rota.again(cell, now + draw.random() * 3)
            case _:
                rota.done(cell)
                there.add(cell.digest)
    assert there == {cell.digest for cell in plan}
    assert rota.take(0) is None


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_what_needs_a_lost_cell_is_blocked_and_nothing_else(seed: int) -> None:
    draw, rota = random.Random(seed), Rota(MOVING)
    there: set[str] = set()
    lost: set[str] = set()
    while rota.open:
        cell = rota.take("one")
        assert cell is not None
        if draw.random() < 0.15:
            lost |= {cell.digest, *(other.digest for other in rota.lost(cell))}
        else:
            rota.done(cell)
            there.add(cell.digest)
    assert there | lost == {cell.digest for cell in MOVING}
    for cell in MOVING:
        if not lost.isdisjoint(cell.parents.values()):
            assert cell.digest in lost


def test_references_come_first_and_then_the_longest_chains() -> None:
    rota, chains = Rota(PLAIN), chains_of(PLAIN)
    references = [chain.key for chain in chains if len(chain.cells) == 1]
    longest = sorted((c for c in chains if len(c.cells) > 1), key=lambda c: -c.weight)
    taken = [rota.take(worker) for worker in range(len(references) + 3)]
    keys = [chain_of(cell) for cell in taken if cell is not None]
    assert keys[: len(references)] == references
    weights = {chain.key: chain.weight for chain in chains}
    assert [weights[key] for key in keys[len(references) :]] == [c.weight for c in longest[:3]]


def test_a_worker_stays_with_its_edit_as_long_as_there_is_work() -> None:
    rota, changes = Rota(PLAIN), 0
    last = ""
    while rota.open:
        cell = rota.take("one")
        assert cell is not None
        changes += chain_of(cell) != last
        last = chain_of(cell)
        rota.done(cell)
    assert changes == len(chains_of(PLAIN))


def test_who_has_no_chain_left_helps_with_another() -> None:
    chain = max(chains_of(PLAIN), key=lambda one: len(one.cells))
    rota = Rota(chain.cells)
    edit = rota.take("one")
    assert edit is not None
    assert rota.take("two") is None, "nothing is ready before the edit"
    rota.done(edit)
    first, second = rota.take("one"), rota.take("two")
    assert first is not None
    assert second is not None
    assert first != second
