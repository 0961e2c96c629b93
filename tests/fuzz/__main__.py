"""Plays mutated input of every kind, or one case alone, and says what came of it.

    make fuzz ARGS="suites prompts --cases 500 --seed 1"
    python -m tests.fuzz checkpoints --only-seed 1234

Allowed are success, or one line of a UsageError, which the command line shows with exit code 2. Either
comes within 5 seconds of the processor and 2 GB. Anything else is printed with its seed, and its files are kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.environment.scenes import SCENES, all_said, faults_of
from tests.fuzz.kills import kills
from tests.fuzz.kinds import KINDS, field_cases
from tests.fuzz.worker_kills import worker_kills
from tests.fuzz.workers import Case, Limits, played

__all__ = ["Count", "fuzz", "main"]

_OTHERS = ("kills", "ray", "environments")
_KILLS, _WORKER_KILLS = 100, 20
_ROW = "{:13}{:>8}{:>9}{:>10}{:>10}{:>10}{:>8}"


@dataclass(slots=True)
class Count:
    """The outcome of all cases of a kind; its text is a line of the table."""

    kind: str
    cases: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    faults: list[Case] = field(default_factory=list)

    def add(self, case: Case) -> None:
        """Counts a case."""
        self.cases += 1
        self.refused += case.told is not None and not case.fault
        self.accepted += case.told is None and not case.fault
        self.seconds = max(self.seconds, case.seconds)
        self.memory = max(self.memory, case.memory)
        if case.fault:
            self.faults.append(case)

    def __str__(self) -> str:
        measured = (f"{self.seconds:.2f}", f"{self.memory:.0f}")
        return _ROW.format(
            self.kind, self.cases, self.refused, self.accepted, *measured, len(self.faults)
        )


def fuzz(kind: str, seeds: Sequence[int], kept: Path, limits: Limits) -> Count:
    """Plays cases of a kind; returns what was counted.

    Args:
        kind: One of :data:`tests.fuzz.kinds.KINDS`.
        seeds: Of the cases.
        kept: Where the files of faults stay.
        limits: Of each case.
    """
    torch.set_num_threads(1)  # a child must not wait for threads that it does not have
    KINDS[kind].warm()
    count = Count(kind)
    for case in played(KINDS[kind].play, seeds, kept / kind, limits):
        count.add(case)
        if case.fault:
            place = kept / kind / str(case.seed)
            (place / "fault.txt").write_text(case.fault)
            _say(
                f"fault: {kind} {case.seed}, {case.seconds:.2f} s: {case.fault.strip()}\n  {place}"
            )
    return count


def main(words: Sequence[str]) -> int:
    """Returns the exit code: 1 where there was a fault."""
    asked = _asked(words)
    kept = asked.keep or Path(tempfile.mkdtemp(prefix="tvc-fuzz-"))
    counts = [_count(kind, asked, kept) for kind in asked.kinds or (*KINDS, *_OTHERS)]
    _say(_ROW.format("kind", "cases", "refused", "accepted", "seconds", "MB", "faults"))
    for count in counts:
        _say(str(count))
    return int(any(count.faults for count in counts))


def _count(kind: str, asked: argparse.Namespace, kept: Path) -> Count:
    if kind == "kills":
        return _kills(asked.cases or _KILLS, asked.seed, kept / kind)
    if kind == "ray":
        return _worker_kills(asked.cases or _WORKER_KILLS, kept / kind)
    if kind == "environments":
        return _environments(kept / kind)
    if asked.only_seed is not None:
        return fuzz(kind, [asked.only_seed], kept, Limits(asked.seconds))
    first, every = 0, KINDS[kind].cases
    if kind == "fields":  # they are counted, not drawn
        every = len(field_cases())
    else:
        first = asked.seed * 1_000_000
    seeds = range(
        first, first + min(asked.cases or every, every if kind == "fields" else sys.maxsize)
    )
    return fuzz(kind, seeds, kept, Limits(asked.seconds))


def _kills(number: int, seed: int, folder: Path) -> Count:
    count = Count("kills", cases=number)
    folder.mkdir(parents=True)
    try:
        found = kills(folder, number, seed)
    except AssertionError as error:
        count.faults.append(Case(seed, fault=str(error)))
        _say(f"fault: kills {seed}: {error}\n  {folder}")
    else:
        _say(f"kills: {found}")
        count.accepted = number
    return count


def _worker_kills(number: int, folder: Path) -> Count:
    count = Count("ray", cases=number)
    try:
        found = worker_kills(folder, number)
    except AssertionError as error:
        count.faults.append(Case(0, fault=str(error)))
        _say(f"fault: ray: {error}\n  {folder}")
    else:
        _say(f"ray: {found}")
        count.accepted = number
    return count


def _environments(folder: Path) -> Count:
    count = Count("environments")
    folder.mkdir(parents=True)
    for name, found in all_said(folder).items():
        faults = "; ".join(faults_of(name, found))
        count.add(Case(count.cases, name if SCENES[name][0] else None, faults))
        if faults:
            _say(f"fault: environments {name}: {faults}\n  {folder / name}")
    return count


def _asked(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    names = [*KINDS, *_OTHERS]
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"of {', '.join(names)}; all by default"
    )
    parser.add_argument("--cases", type=int, help="per kind, instead of the usual number")
    parser.add_argument(
        "--seed", type=int, default=0, help="the cases' numbers begin at a million times it"
    )
    parser.add_argument("--only-seed", type=int, help="plays the case of this number alone")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of the processor, for a case at most"
    )
    parser.add_argument("--keep", type=Path, help="an empty folder for the files of faults")
    asked = parser.parse_args(words)
    if unknown := [kind for kind in asked.kinds if kind not in names]:
        parser.error(f"expected kinds of {', '.join(names)}, got {unknown[0]!r}")
    return asked


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
