"""Starts a Ray for one run, and watches over the head of it. Only this module imports Ray."""

from __future__ import annotations

import importlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, in_one_line, shown
from bench.run.scraps import own_folder

__all__ = [
    "Head",
    "HeadLost",
    "imported",
    "joined_ray",
    "local_ray",
    "quiet",
    "shut_down",
    "silent",
]

_LONGEST_FOLDER: Final = 40
"""Characters of the folder that Ray works in: the paths of its sockets are longer by 62, and may have 107."""
_TRIES: Final = 3
_OBJECTS: Final = 100 * 2**20
_HEAD_EVERY_S, _HEAD_MISSES = 3.0, 3


class HeadLost(OSError):
    """The head of the Ray cluster does not answer any more."""


def imported(address: str | None) -> Any:
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
def _lean(ray: Any) -> Iterator[None]:
    """Lets a Ray that starts meanwhile do without three processes that serve nobody here.

    They scale clusters, read what workers print, and answer browsers; the start would wait for the last.
    Where a later Ray names them otherwise, they start as ever.
    """
    with ExitStack() as stack:
        for name in ("start_monitor", "start_log_monitor", "start_api_server"):
            stack.enter_context(
                _in_place_of(ray._private.node.Node, name, lambda node, **how: None)
            )
        yield


@contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Lets processes that start meanwhile keep temporary files there: they go with it, whoever is killed."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


@contextmanager
def silent(ray: Any) -> Iterator[None]:
    """Keeps Ray from writing of dead workers to standard output: the run tells of them itself."""
    with _in_place_of(ray._private.worker, "print_to_stdstream", lambda *told, **how: None):
        yield


@contextmanager
def _in_place_of(owner: Any, name: str, other: Callable[..., Any]) -> Iterator[None]:
    """Puts another function of a module or class in the place of one, where there is one."""
    before = getattr(owner, name, None)
    if before is not None:
        setattr(owner, name, other)
    try:
        yield
    finally:
        if before is not None:
            setattr(owner, name, before)


def shut_down(ray: Any) -> None:
    """Leaves the cluster, or ends the one that was started here; without a head Ray may hang at it."""
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(20)


@contextmanager
def local_ray(cpus: int, *, gpus: int | None = 0) -> Iterator[None]:
    """Starts a Ray for this process that listens to this machine alone and leaves nothing behind.

    Args:
        cpus: Workers that it has room for.
        gpus: Those it may use; ``None``: all.

    Raises:
        UsageError: Ray is not installed, or does not start.
    """
    ray = imported(None)
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder("tvc-ray-", _LONGEST_FOLDER))
        stack.callback(shut_down, ray)
        for tries_left in reversed(range(_TRIES)):
            try:
                with _inward(ray), _lean(ray), _temporary(folder):
                    ray.init(
                        num_cpus=cpus, num_gpus=gpus, include_dashboard=False,
                        object_store_memory=_OBJECTS, _temp_dir=str(folder),
                        _node_ip_address="127.0.0.1", **quiet(),
                    )  # fmt: skip
                break
            except (
                Exception
            ) as error:  # Ray has no class for this: a busy machine is slower than it waits
                shut_down(ray)
                if not tries_left:
                    raise UsageError(
                        f"Ray does not start on this machine: {in_one_line(error)}; is it busy, or short of memory?"
                    ) from error
        yield


@contextmanager
def joined_ray(address: str) -> Iterator[None]:
    """Lets this process into a cluster that runs, which goes on afterwards.

    Args:
        address: ``HOST:PORT`` of its head, or ``auto``.

    Raises:
        UsageError: nobody answers there, or it lets nobody in.
    """
    ray = imported(address)
    if address != "auto" and not Head(address).answers():
        raise UsageError(f"--ray {shown(address)}: nobody answers there")
    try:
        with _inward(ray) if _is_near(ray, address) else nullcontext():
            ray.init(address=address, **quiet())
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UsageError(
            f"--ray {shown(address)}: no Ray cluster lets this process in; is RAY_AUTH_TOKEN that of "
            f"the cluster? {in_one_line(error)}"
        ) from error
    try:
        yield
    finally:
        shut_down(ray)


def _is_near(ray: Any, address: str) -> bool:
    """Whether a cluster listens to this machine alone: Ray would ask for it at the outward address, and hang."""
    services = ray._private.services
    if address == "auto":
        address = services.get_ray_address_from_environment("auto", None) or ""
    host, _, port = address.rpartition(":")
    outward = services.resolve_ip_for_localhost(host) if host else ""
    return outward != host and not Head(f"{outward}:{port}").answers()


def quiet() -> dict[str, Any]:
    """How a process joins: it says nothing of its own accord."""
    return {
        "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False,
        "namespace": f"tvc-bench-{secrets.token_hex(4)}",
    }  # fmt: skip


class Head:
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
