"""Computes the cells of a plan by many workers on Ray: on this machine, or on a cluster that runs already.

An actor for each device holds the base and the edit that it used last (:mod:`bench.run.workbench`). It is
told one cell's name at a time and answers in JSON. So Ray holds no result, and the driver none of what is
done. A worker that dies is replaced, and its cell done again.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.core.digest import digest_of
from bench.core.errors import UsageError, in_one_line, shown
from bench.run.cells import Cell
from bench.run.chains import Share, chain_of
from bench.run.driver import Driver, Worker
from bench.run.executor import Executor
from bench.run.leases import Lease
from bench.run.loading import NOTHING_SAID, Runtime
from bench.run.messages import Job, Reply
from bench.run.plan import Plan
from bench.run.ray_start import Head, imported, joined_ray, local_ray, silent
from bench.run.seats import refuse_too_many, seats
from bench.run.store import Store
from bench.run.survey import Survey, survey
from bench.run.watching import AtWork, Outcome, Watcher
from bench.run.workbench import Seat, same_plan

__all__ = ["OnRay"]

_TICK_S: Final = 1.0
_TOLD_EVERY_S: Final = 2.0
_MOST_BAD_STARTS: Final = 3
_TOLD: Final = "told"
_ADDRESS = re.compile(r"[^/\s]+:[0-9]{1,5}")


@dataclass(slots=True, eq=False)
class _Hand:
    """A worker as the driver sees it."""

    number: int
    actor: Any
    ready: bool = False
    apart: bool = False
    where: str = ""
    chain: str = ""
    has: set[tuple[str, str]] = field(default_factory=set)
    asked: bool = False
    at: tuple[int, int, str] = (0, 0, "")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message that is not answered yet."""

    hand: _Hand
    what: str  # begin, do or told


class OnRay(Executor):
    """Many workers.

    Args:
        workers: How many; ``None``: one per processor core, or as ``per_gpu`` says where there are GPUs.
        address: Of a cluster that runs; ``None``: one is started here, for this run alone.
        per_gpu: Workers on each GPU.
        only: The patterns that the plan was made with.
        limit: The limit that the plan was made with.
        runtime: How the base is computed; on the device ``auto``, ``cpu`` or ``cuda``.
        bench: The name of the class that does the cells, ``module:Class``.

    Raises:
        UsageError: Ray is not installed, or no such device can be shared out.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        address: str | None = None,
        per_gpu: int = 1,
        only: tuple[str, ...] = (),
        limit: int | None = None,
        runtime: Runtime = NOTHING_SAID,
        bench: str = "bench.run.workbench:Workbench",
    ) -> None:
        if runtime.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device: expected auto, cpu or cuda where several workers share, got {shown(runtime.device)}"
            )
        if address is not None and address != "auto" and not _ADDRESS.fullmatch(address):
            raise UsageError(
                f"--ray: expected HOST:PORT of the cluster's head, or auto, got {shown(address)}"
            )
        self._ray = imported(address)
        self._workers, self._address, self._per_gpu = workers, address, per_gpu
        self._only, self._limit, self._bench = only, limit, bench
        self._runtime = runtime

    def run(
        self, plan: Plan, store: Store, watcher: Watcher, *, share: Share | None = None
    ) -> Outcome:
        """See the base class.

        Raises:
            HeadLost: the head of the cluster is gone; what was computed is in the store.
        """
        began, outcome = time.perf_counter(), Outcome()
        found = survey(plan, store, share)
        outcome.cached = len(found.unique) - len(found.lacking)
        watcher.begin(len(found.todo), len(found.unique))
        if found.todo:
            self._computed(plan, store, watcher, found, outcome)
        outcome.set_aside = [
            *(f"{d.kind} {d.digest[:12]}: {d.reason}" for d in store.damage),
            *outcome.set_aside,
        ]
        outcome.seconds = time.perf_counter() - began
        return outcome

    def _computed(
        self, plan: Plan, store: Store, watcher: Watcher, found: Survey, outcome: Outcome
    ) -> None:
        driver = Driver(plan, store, watcher, found=found, outcome=outcome)
        with ExitStack() as stack:
            stack.callback(driver.close)
            # Who sees the file of this claim sees the store; it goes with the run.
            token = stack.enter_context(_token(store))
            head = stack.enter_context(self._cluster())
            device = self._runtime.device
            gpus = device != "cpu" and self._ray.cluster_resources().get("GPU", 0) > 0
            job = Job(
                suite=plan.suite.file.model_dump(mode="json"), only=self._only, limit=self._limit,
                cells=same_plan(plan.laid_out), store=str(store.root), token=str(token.path),
                runtime=replace(
                    self._runtime, device="cuda" if gpus else "cpu" if device == "auto" else device
                ),
                threads=0 if gpus else 1,
            )  # fmt: skip
            options = {
                "num_cpus": 0 if gpus else 1,  # few cores are no reason to leave a GPU idle
                "num_gpus": 1 / self._per_gpu if gpus else 0,
                "max_restarts": 0,
                "max_task_retries": 0,
                "concurrency_groups": {_TOLD: 1},
            }
            crew = _Crew(
                self._ray,
                driver,
                watcher,
                outcome,
                head=head,
                bench=self._bench,
                job=job,
                options=options,
            )
            stack.callback(crew.close)
            outcome.workers = min(self._number(gpus), len(found.todo))
            self._seated(outcome.workers, watcher, gpus=gpus)
            crew.work(outcome.workers)
            store.clean_tmp()  # what workers that died have left

    def _number(self, gpus: bool) -> int:
        if self._workers is not None:
            return self._workers
        return max(1, seats(self._ray.cluster_resources(), per_gpu=self._per_gpu, gpus=gpus))

    def _seated(self, workers: int, watcher: Watcher, *, gpus: bool) -> None:
        """Tells of workers that find no place; refuses them where there will never be one."""
        if self._address is None:
            there = self._ray.cluster_resources()
            refuse_too_many(workers, there, per_gpu=self._per_gpu, gpus=gpus)
            return
        free = seats(self._ray.available_resources(), per_gpu=self._per_gpu, gpus=gpus)
        if workers > free:  # others may leave the cluster, and machines may join it
            watcher.unseated(workers - free, workers)

    @contextmanager
    def _cluster(self) -> Iterator[str]:
        """Joins the cluster that this process is in or that was named, or starts one; gives its head's address."""
        ray = self._ray
        with ExitStack() as stack:
            stack.enter_context(silent(ray))
            if ray.is_initialized():
                pass
            elif self._address is None:
                cpus = self._workers or len(os.sched_getaffinity(0))
                stack.enter_context(
                    local_ray(cpus, gpus=0 if self._runtime.device == "cpu" else None)
                )
            else:
                stack.enter_context(joined_ray(self._address))
            yield ray.get_runtime_context().gcs_address


class _Crew:
    """The workers of a run, and the messages between them and the driver."""

    def __init__(
        self,
        ray: Any,
        driver: Driver,
        watcher: Watcher,
        outcome: Outcome,
        *,
        head: str,
        bench: str,
        job: Job,
        options: dict[str, Any],
    ) -> None:
        self._ray, self._driver, self._watcher, self._outcome = ray, driver, watcher, outcome
        self._head = Head(head)
        self._bench, self._job = bench, job.as_json()
        self._make = ray.remote(**options)(Seat)
        self._sent: dict[Any, _Sent] = {}
        self._hands: dict[int, _Hand] = {}
        self._numbers = itertools.count()
        self._bad_starts = 0
        self._told_at = time.monotonic()

    def work(self, workers: int) -> None:
        """Sees every cell done or lost."""
        for _ in range(workers):
            self._hire()
        while self._driver.open:
            for hand in self._hands.values():
                self._give(hand)
            if not self._driver.open:
                return
            got, _ = self._ray.wait(list(self._sent), num_returns=1, timeout=_TICK_S)
            for reference in got:
                self._answered(self._sent.pop(reference), reference)
            self._look()

    def close(self) -> None:
        """Ends the workers; those with a store of their own remove it first."""
        if not self._hands or not self._head.answers():
            return  # without a head they end with this process
        own = [hand.actor.close.remote() for hand in self._hands.values() if hand.apart]
        if own:
            self._ray.wait(own, num_returns=len(own), timeout=10)
        for hand in list(self._hands.values()):
            self._dismiss(hand)

    def _hire(self) -> None:
        hand = _Hand(next(self._numbers), self._make.remote())
        self._hands[hand.number] = hand
        self._send(hand, "begin", hand.actor.begin.remote(self._bench, self._job))

    def _send(self, hand: _Hand, what: str, reference: Any) -> None:
        self._sent[reference] = _Sent(hand, what)

    def _give(self, hand: _Hand) -> None:
        """Gives an idle worker its next cell."""
        if not hand.ready or hand.number in self._driver.at:
            return
        if (cell := self._driver.next(hand.number, apart=hand.apart)) is None:
            return
        hand.at = (0, 0, "")
        parcels = self._parcels(hand, cell) if hand.apart else []
        self._send(hand, "do", hand.actor.do.remote(cell.digest, parcels))

    def _parcels(self, hand: _Hand, cell: Cell) -> list[bytes]:
        if (chain := chain_of(cell)) != hand.chain:
            if hand.chain:
                hand.actor.forget.remote()
            hand.chain = chain
            hand.has.clear()
        return self._driver.parcels(cell, hand.has)

    def _answered(self, sent: _Sent, reference: Any) -> None:
        hand = sent.hand
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # it died, or what it said is lost
            if hand.number in self._hands:
                self._head.check()
                self._dismiss(hand)
                self._gone(hand, _reason(error))
            return
        if hand.number not in self._hands:  # it has died since, and its cell was given to another
            return
        match sent.what:
            case "begin":
                self._began(hand, Reply.from_json(answer))
            case "told":
                hand.asked, hand.at = False, answer
            case _:
                text, parcels = answer
                fate = self._driver.said(hand.number, reply := Reply.from_json(text), parcels)
                if fate is not Worker.STAYS:
                    self._dismiss(hand)
                if fate is Worker.FRESH:
                    self._hire()
                elif fate is Worker.RETIRED:
                    self._retired(hand, reply)

    def _began(self, hand: _Hand, reply: Reply) -> None:
        hand.where = reply.where
        if reply.fate == "ready":
            hand.ready, hand.apart = True, reply.apart
            self._bad_starts = 0
            if reply.check and self._outcome.self_check is None:
                from bench.run.self_check import SelfCheck

                self._outcome.self_check = SelfCheck(**reply.check)
            return
        self._dismiss(hand)
        if reply.fate == "refused":
            raise UsageError(reply.message)
        self._retired(hand, reply)

    def _retired(self, hand: _Hand, reply: Reply) -> None:
        """A worker cannot go on where it is; the others do, if there are any."""
        line = reply.message.splitlines()[0]
        self._watcher.worker_lost(f"{hand.where}: {line}")
        if self._hands:
            return
        if reply.number:
            raise OSError(
                reply.number, f"every worker's place is unfit; the last, {hand.where}: {line}"
            )
        raise UsageError(f"no worker could begin; the last, {hand.where}: {line}")

    def _gone(self, hand: _Hand, reason: str) -> None:
        """A worker has died: its cell goes to another, and a new one takes its place."""
        self._driver.died(hand.number, reason)
        if not hand.ready:
            self._bad_starts += 1
            if self._bad_starts >= _MOST_BAD_STARTS:
                raise UsageError(
                    f"{self._bad_starts} workers in a row died before they could begin ({reason}); start fewer, "
                    "or find out why in Ray's log"
                )
        self._hire()

    def _dismiss(self, hand: _Hand) -> None:
        self._hands.pop(hand.number, None)
        self._ray.kill(hand.actor)

    def _look(self) -> None:
        """Now and then: does the head live, and how far is everybody?"""
        self._head.look()
        if time.monotonic() - self._told_at < _TOLD_EVERY_S:
            return
        self._told_at = time.monotonic()
        busy = self._driver.at
        self._watcher.at_work(
            [AtWork(busy[h.number].title, *h.at) for h in self._hands.values() if h.number in busy]
        )
        for hand in self._hands.values():
            if hand.number in busy and not hand.asked:
                hand.asked = True
                told = hand.actor.at.options(concurrency_group=_TOLD).remote()
                self._send(hand, "told", told)


def _token(store: Store) -> Lease:
    """A claim under a drawn number, which nobody else has."""
    while (claim := store.claim("run", digest_of(secrets.token_hex(16)))) is None:
        continue
    return claim


def _reason(error: Exception) -> str:
    """One line of what Ray says of a dead worker."""
    text = " ".join(str(error).split())
    _, found, detail = text.partition("Worker exit detail: ")
    said = detail.partition(" Some common causes")[0] if found else text
    return f"a worker died: {in_one_line(RuntimeError(said))}"
