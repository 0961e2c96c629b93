"""Computes the cells of a plan by many workers on Ray: on this machine, or on a cluster that runs already.

An actor for each device holds the base and the edit that it used last (:mod:`bench.run.workbench`). It is
told a cell's name at a time and answers in JSON, so Ray holds no result, and the driver none of what is
done. A worker that dies is replaced, and its cell done again. Only this module imports Ray.
"""

from __future__ import annotations

import importlib
import itertools
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from bench.core.digest import digest_of
from bench.core.errors import UsageError, in_one_line, shown
from bench.run.cells import Cell
from bench.run.chains import Share, chain_of
from bench.run.driver import Driver, Worker
from bench.run.executor import Executor
from bench.run.leases import Lease
from bench.run.plan import Plan
from bench.run.scraps import own_folder
from bench.run.store import Store
from bench.run.survey import Survey, survey
from bench.run.watching import AtWork, Outcome, Watcher
from bench.run.workbench import Job, Reply, Seat, same_plan

__all__ = ["HeadLost", "OnRay", "local_ray"]

_LONGEST_FOLDER: Final = 40
"""Characters of the folder that Ray works in: the paths of its sockets are longer by 62, and may have 107."""
_OBJECTS: Final = 100 * 2**20
_TICK_S: Final = 1.0
_TOLD_EVERY_S: Final = 2.0
_HEAD_EVERY_S, _HEAD_MISSES = 3.0, 3
_MOST_BAD_STARTS: Final = 3
_TOLD: Final = "told"


class HeadLost(OSError):
    """The head of the Ray cluster does not answer any more."""


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
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: Images worked on at once.
        compiled: Whether the networks are compiled.
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
        device: str = "auto",
        batch_size: str = "auto",
        compiled: bool = False,
        bench: str = "bench.run.workbench:Workbench",
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device: expected auto, cpu or cuda where several workers share, got {shown(device)}"
            )
        self._ray = _imported(address)
        self._workers, self._address, self._per_gpu = workers, address, per_gpu
        self._only, self._limit, self._bench = only, limit, bench
        self._device, self._batch_size, self._compiled = device, batch_size, compiled

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
            gpus = self._device != "cpu" and self._ray.cluster_resources().get("GPU", 0) > 0
            job = Job(
                suite=plan.suite.file.model_dump(mode="json"), only=self._only, limit=self._limit,
                cells=same_plan(plan.cells), store=str(store.root), token=str(token.path),
                device="cuda" if gpus else "cpu" if self._device == "auto" else self._device,
                batch_size=self._batch_size, compiled=self._compiled, threads=0 if gpus else 1,
            )  # fmt: skip
            options = {
                "num_cpus": 1,
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
            crew.work(min(self._number(gpus), len(found.todo)))
            store.clean_tmp()  # what workers that died have left

    def _number(self, gpus: bool) -> int:
        if self._workers is not None:
            return self._workers
        there = self._ray.cluster_resources()
        return max(
            1, int(there.get("GPU", 0)) * self._per_gpu if gpus else int(there.get("CPU", 1))
        )

    @contextmanager
    def _cluster(self) -> Iterator[str]:
        """Joins the cluster that this process is in or that was named, or starts one; gives its head's address."""
        ray = self._ray
        with ExitStack() as stack:
            stack.enter_context(_silent(ray))
            if ray.is_initialized():
                pass
            elif self._address is None:
                cpus = self._workers or len(os.sched_getaffinity(0))
                stack.enter_context(local_ray(cpus, gpus=0 if self._device == "cpu" else None))
            else:
                try:
                    ray.init(address=self._address, **_quiet())
                except (
                    ConnectionError,
                    RuntimeError,
                    ValueError,
                    ray.exceptions.RayError,
                ) as error:
                    raise UsageError(
                        f"--ray {shown(self._address)}: no Ray cluster answers there: {in_one_line(error)}"
                    ) from error
                stack.callback(_shut_down, ray)
            yield ray.get_runtime_context().gcs_address


@contextmanager
def local_ray(cpus: int, *, gpus: int | None = 0) -> Iterator[None]:
    """Starts a Ray for this process that listens to this machine alone and leaves nothing behind.

    Args:
        cpus: Workers that it has room for.
        gpus: Those it may use; ``None``: all.

    Raises:
        UsageError: Ray is not installed.
    """
    ray = _imported(None)
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder("tvc-ray-", _LONGEST_FOLDER))
        stack.callback(_shut_down, ray)
        with _inward(ray):
            ray.init(
                num_cpus=cpus, num_gpus=gpus, include_dashboard=False, object_store_memory=_OBJECTS,
                _temp_dir=str(folder), _node_ip_address="127.0.0.1", **_quiet(),
            )  # fmt: skip
        yield


def _quiet() -> dict[str, Any]:
    return {
        "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False,
        "namespace": f"tvc-bench-{secrets.token_hex(4)}",
    }  # fmt: skip


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
        self._head = _Head(head)
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
        """Ends the workers; those with a store of their own remove it."""
        own = [hand.actor.close.remote() for hand in self._hands.values() if hand.apart]
        if own and self._head.answers():
            self._ray.wait(own, num_returns=len(own), timeout=10)

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
        except self._ray.exceptions.RayActorError as error:
            if hand.number in self._hands:
                self._gone(hand, _reason(error))
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
        self._head.check()
        self._hands.pop(hand.number, None)
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


class _Head:
    """The head of the cluster: without it Ray waits for a minute, and then ends the process."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._looked = time.monotonic()
        self._missed = 0

    def answers(self) -> bool:
        """Returns whether somebody listens there."""
        try:
            socket.create_connection((self._host.strip("[]"), int(self._port)), timeout=2).close()
        except OSError:
            return False
        return True

    def look(self) -> None:
        """Looks now and then.

        Raises:
            HeadLost: it has not answered several times.
        """
        if time.monotonic() - self._looked < _HEAD_EVERY_S:
            return
        self._looked = time.monotonic()
        self._missed = 0 if self.answers() else self._missed + 1
        if self._missed >= _HEAD_MISSES:
            self._lost()

    def check(self) -> None:
        """Looks at once: a worker has died, and without a head there will be no other.

        Raises:
            HeadLost: it does not answer.
        """
        for _ in range(_HEAD_MISSES):
            if self.answers():
                return
            time.sleep(0.3)
        self._lost()

    def _lost(self) -> None:
        raise HeadLost(
            None,
            f"the head of Ray at {self._host}:{self._port} is gone; what was computed is in the store, and the "
            "same command goes on",
        )


def _token(store: Store) -> Lease:
    """A claim under a drawn number, which nobody else has."""
    while (claim := store.claim("run", digest_of(secrets.token_hex(16)))) is None:
        continue
    return claim


def _imported(address: str | None) -> Any:
    """Ray, told to report to nobody; one that is started here answers those alone who know a drawn token.

    It reads its settings when it is imported, so they are made before, and stay.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    before = sys.modules.get("ray")
    drawn = address is None and "RAY_AUTH_MODE" not in os.environ
    if drawn:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        ray = importlib.import_module("ray")
        if drawn and before is not None:  # another library has imported it: it reads them again
            ray._raylet.Config.initialize("")
        return ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError(
            "--workers and --ray need Ray, which is not installed: pip install 'tvc-bench[ray]'"
        ) from None


@contextmanager
def _inward(ray: Any) -> Iterator[None]:
    """Lets a Ray that starts meanwhile listen to this machine alone.

    `ray.init` takes 127.0.0.1 for the machine's outward address, unless the function that does so is passed
    over. Where a later Ray has it no more, the token still guards.
    """
    with _in_place_of(ray._private.services, "resolve_ip_for_localhost", lambda host: host):
        yield


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Keeps Ray from writing of dead workers to standard output: the run tells of them itself."""
    with _in_place_of(ray._private.worker, "print_to_stdstream", lambda *told, **how: None):
        yield


@contextmanager
def _in_place_of(module: Any, name: str, other: Callable[..., Any]) -> Iterator[None]:
    """Puts another function in the place of one, where there is one."""
    before = getattr(module, name, None)
    if before is not None:
        setattr(module, name, other)
    try:
        yield
    finally:
        if before is not None:
            setattr(module, name, before)


def _shut_down(ray: Any) -> None:
    """Leaves the cluster, or ends the one that was started here; without a head Ray may hang at it."""
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(20)


def _reason(error: Exception) -> str:
    """One line of what Ray says of a dead worker."""
    text = " ".join(str(error).split())
    _, found, detail = text.partition("Worker exit detail: ")
    said = detail.partition(" Some common causes")[0] if found else text
    return f"a worker died: {in_one_line(RuntimeError(said))}"
