"""The driver holds nothing of what is done: its memory does not grow with the cells."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

import bench
from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.model.pipeline.inspect import inspect_base
from bench.run.driver import MOST_DEATHS, Driver, Worker
from bench.run.messages import Job, Reply
from bench.run.plan import Plan, make_plan
from bench.run.store import Store
from bench.run.survey import survey
from bench.run.watching import Outcome, Watcher
from bench.run.workbench import plan_of, same_plan

WORKERS = range(3)


OURS = tracemalloc.Filter(True, f"{Path(bench.__file__).parent}/*")
"""What this package allocated: threads of other tests allocate in the same process."""


def held() -> int:
    """Bytes that this package has allocated since tracing began and still holds."""
    traced = tracemalloc.take_snapshot().filter_traces([OURS])
    return sum(trace.size for trace in traced.traces)


def driver_of(plan: Plan, root: Path) -> tuple[Driver, Outcome]:
    store, outcome = Store(root), Outcome()
    found = survey(plan, store)
    return Driver(plan, store, Watcher(), found=found, outcome=outcome), outcome


def test_memory_does_not_grow_while_cells_are_done(tmp_path: Path) -> None:
    suite = load_suite("mini-quick").with_(repeats=20, images="thumbnails")
    plan = make_plan(suite, "0" * 64)
    driver, outcome = driver_of(plan, tmp_path)
    total = driver.open
    assert total > 2000
    sizes = []
    tracemalloc.start()
    try:
        while driver.open:
            for worker in WORKERS:
                if worker not in driver.at:
                    driver.next(worker, apart=False)
            driver.said(next(iter(driver.at)), Reply("computed", seconds=1.0), [])
            if driver.open in (total * 9 // 10, 0):
                sizes.append(held())
    finally:
        tracemalloc.stop()
    assert outcome.computed == total
    first, last = sizes
    assert last - first < 20 * total, "not twenty bytes per cell"


def test_a_cell_whose_workers_die_is_tried_alone_and_then_given_up(tmp_path: Path) -> None:
    suite = load_suite("mini-quick").with_(concepts=["star"], goals=1)
    driver, outcome = driver_of(make_plan(suite, "0" * 64), tmp_path)
    numbers = count()
    bad = driver.next(next(numbers), apart=False)
    assert bad is not None
    driver.died(0, "killed")
    deaths = 1
    while driver.open:
        worker = next(numbers)
        cell = driver.next(worker, apart=False)
        assert cell is not None
        if cell.digest != bad.digest:
            assert driver.said(worker, Reply("computed"), []) is Worker.STAYS
            continue
        if deaths >= 2:
            assert driver.next(next(numbers), apart=False) is None, "no other runs beside it"
        driver.died(worker, "killed")
        deaths += 1
    assert deaths == MOST_DEATHS
    assert [title for title, _ in outcome.failed] == [bad.title]
    (failure,) = Store(tmp_path).failures(bad.kind, bad.digest)
    assert "5 workers died at it; the last: killed" in failure.traceback


def test_a_worker_with_another_plan_is_refused() -> None:
    suite = load_suite("mini-quick")
    base = inspect_base(suite.base)
    plan = make_plan(suite, base.digest, folder=base.folder)
    job = Job(suite=suite.file.model_dump(mode="json"), cells=same_plan(plan.cells))
    mine, _ = plan_of(Job.from_json(job.as_json()))
    assert mine.suite_digest == plan.suite_digest
    with pytest.raises(UsageError, match="expected the plan of the command, got another"):
        plan_of(replace(job, limit=1))


def test_a_job_and_a_reply_are_plain_json() -> None:
    job = Job(suite={"name": "x"}, only=("a", "b"), limit=3, cells="c", store="/s", token="/t")
    assert Job.from_json(job.as_json()) == job
    reply = Reply("failed", "ValueError: é", memory=True, damaged=("x",), check={"a": 0.5})
    assert Reply.from_json(reply.as_json()) == reply
