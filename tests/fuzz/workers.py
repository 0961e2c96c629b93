"""Plays cases in a process of its own that is used again, within limits of time and memory.

The process is a fork of this one, so nothing is imported twice. The kernel ends it where a case takes too
much time, also inside a library; the next case gets a new one.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from bench.core.errors import MOST_MESSAGE, UsageError

__all__ = ["Case", "Limits", "played"]

Play = Callable[[int, Path], None]
"""Plays the case of a number in an empty folder; raises UsageError where it is refused."""

_MOST_WALL: Final = 120  # seconds of the clock: whoever waits for a pipe uses no processor
_MOST_CASES: Final = 250  # of one process, so that what libraries keep does not count as a case's
_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_ENDS: Final = {signal.SIGPROF: "seconds of the processor", signal.SIGALRM: "seconds of the clock"}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a case.

    Attributes:
        seconds: Of the processor.
        memory: Bytes of address space beyond those that the process has when it starts.
    """

    seconds: float = 5.0
    memory: int = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Case:
    """The outcome of a case.

    Attributes:
        seed: Its number.
        told: The line that refused it; ``None``: it was accepted, or the process ended.
        fault: What is not allowed; empty: nothing.
        seconds: Of the processor.
        memory: The most megabytes beyond the start of the process.
    """

    seed: int
    told: str | None = None
    fault: str = ""
    seconds: float = 0.0
    memory: float = 0.0


def played(play: Play, seeds: Sequence[int], folder: Path, limits: Limits) -> Iterator[Case]:
    """Plays cases one after the other, each within its limits.

    Args:
        play: A case.
        seeds: Of the cases.
        folder: For the cases' files; those of a fault stay, below the number of the case.
        limits: Of each case.
    """
    done = 0
    while done < len(seeds):
        upto = min(done + _MOST_CASES, len(seeds))
        child, lines = _begun(play, seeds[done:upto], folder, limits)
        with lines:
            for line in lines:
                done += 1
                yield Case(**json.loads(line))
        status = os.waitpid(child, 0)[1]
        if done < upto:  # it ended in the middle of a case
            yield Case(seeds[done], fault=_why(status, limits))
            done += 1


def line_fault(line: str) -> str:
    """Why a line that refuses is not a clear one; empty if it is."""
    if not line or len(line) > MOST_MESSAGE:
        return f"a line of {len(line)} characters"
    if not line.isprintable():
        return f"a line that cannot be printed: {line!r}"
    return "a traceback in the line" if "Traceback" in line else ""


def _begun(play: Play, seeds: Sequence[int], folder: Path, limits: Limits) -> tuple[int, BinaryIO]:
    """Starts a process for the cases; returns its number and where it tells of each."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, os.fdopen(reader, "rb")
    code = 1
    try:
        os.close(reader)
        most = _kilobytes("VmSize") * 1024 + limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for seed in seeds:
            case = _one(play, seed, folder / str(seed), limits)
            os.write(writer, json.dumps(asdict(case)).encode() + b"\n")
        code = 0
    except BaseException:  # a child must never come back
        traceback.print_exc()
    os._exit(code)


def _one(play: Play, seed: int, folder: Path, limits: Limits) -> Case:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _REFS.write_text("5")  # forgets the earlier peak
    before, at = _kilobytes("VmRSS"), _processor()
    signal.setitimer(signal.ITIMER_PROF, limits.seconds)
    signal.setitimer(signal.ITIMER_REAL, _MOST_WALL)
    told, fault = None, ""
    try:
        play(seed, folder)
    except UsageError as error:
        told = str(error)
        fault = line_fault(told)
    except BaseException:
        fault = traceback.format_exc()
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    memory = max(0, _kilobytes("VmHWM") - before) / 1024
    if memory * 2**20 > limits.memory:
        fault = fault or f"{memory:.0f} MB of memory"
    if not fault:
        shutil.rmtree(folder)
    return Case(seed, told, fault, _processor() - at, memory)


def _why(status: int, limits: Limits) -> str:
    """Why a process ended in the middle of a case."""
    if not os.WIFSIGNALED(status):
        return f"the process ended with code {os.waitstatus_to_exitcode(status)}"
    number = signal.Signals(os.WTERMSIG(status))
    most = {signal.SIGPROF: limits.seconds, signal.SIGALRM: float(_MOST_WALL)}
    if number in most:
        return f"it took more than {most[number]:g} {_ENDS[number]}"
    return f"the process was ended by {number.name}"


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _kilobytes(name: str) -> int:
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1])
