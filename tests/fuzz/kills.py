"""Kills runs of a tiny suite at random times, and compares what comes of it with an unbroken run.

    python -m tests.fuzz.kills 100 [seed] [folder]

One process loads everything; each run is a child of it, so a kill costs no import. Kills fall on all
of a run: on cells, on the store and on the writing of the report.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.cli import main as cli
from tests.tiny import SUITE

TIMED = ("edit_seconds", "edit_memory_mb", "seconds", "peak_memory_mb")
SAME = ("trials.parquet", "utility.parquet", "flags.csv", "grid-star.png", "scatter.png")


def kills(folder: Path, number: int, seed: int = 0) -> dict[str, int]:
    """Runs the suite unbroken, then with so many kills; returns what was counted.

    Args:
        folder: an empty one.
        number: of kills.
        seed: of their times.

    Raises:
        AssertionError: the two differ, times and memory aside, or something was left behind.
    """
    torch.set_num_threads(1)  # a child must not wait for threads that it does not have
    (folder / "tiny.yaml").write_text(SUITE)
    whole, broken = folder / "whole", folder / "broken"
    run(folder, whole)  # loads what is loaded when it is used
    lasts = [lasted(folder, folder / "timed") for _ in range(2)]
    cells, report = lasts[0] - lasts[1], lasts[1]
    draws, done, rounds, torn = random.Random(seed), 0, 1, 0
    while done < number:
        share = 1 - entries(broken) / entries(whole)
        if killed(folder, broken, draws.random() * (report + share * cells)):
            done += 1
            torn += any((broken / "report").glob(".report-*"))
        else:
            rounds += 1
            broken.rename(folder / f"round-{rounds}")
            compare(whole, folder / f"round-{rounds}")
    assert lasted(folder, broken) > 0
    compare(whole, broken)
    return {"kills": done, "rounds": rounds, "torn_reports": torn}


def run(folder: Path, place: Path) -> int:
    """Runs the suite in this process, quietly; returns the exit code."""
    words = ["run", str(folder / "tiny.yaml"), "--store", str(place / "store")]
    try:
        cli.main([*words, "--out", str(place / "report"), "--device", "cpu"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def begin(folder: Path, place: Path) -> int:
    """Starts a run in a child; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os._exit(run(folder, place))
    except BaseException:  # a child must never come back
        os._exit(3)


def lasted(folder: Path, place: Path) -> float:
    """Seconds that a run to its end took."""
    at = time.monotonic()
    assert os.waitpid(begin(folder, place), 0)[1] == 0
    return time.monotonic() - at


def killed(folder: Path, place: Path, after: float) -> bool:
    """Starts a run and kills it; returns False if it had ended before."""
    child = begin(folder, place)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert status == 0, status
    return False


def entries(place: Path) -> int:
    return sum(1 for _ in (place / "store").glob("*/??/*/manifest.json"))


def names(place: Path) -> list[str]:
    """Every file and folder of a store and its report; digests are the same in both."""
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))


def compare(whole: Path, broken: Path) -> None:
    """Raises AssertionError unless both hold the same bytes, times and memory aside."""
    folders = ("store/tmp", "store/claims", "store/quarantine", "store/errors")
    left = [name for name in names(broken) if name.startswith(folders) and name not in folders]
    assert left == [], left
    mine, theirs = ({n for n in names(p) if n not in folders} for p in (whole, broken))
    assert mine == theirs, mine ^ theirs
    assert bytes_of(whole) == bytes_of(broken)


def bytes_of(place: Path) -> dict[str, str]:
    """The sha256 of everything that no clock and no memory has to do with."""
    found = {}
    for path in (place / "store").glob("*/??/*/*"):
        if path.is_file() and path.name not in ("record.json", "manifest.json"):
            found[str(path.relative_to(place))] = digest(path.read_bytes())
    report = place / "report"
    found |= {name: digest((report / name).read_bytes()) for name in SAME}
    for name in ("table.csv", "cells.csv"):
        table = pd.read_csv(report / name)
        kept = [c for c in table if c not in (*TIMED, "model_seconds", "micro_batch")]
        found[name] = digest(table[kept].to_csv().encode())
    about: dict[str, Any] = json.loads((report / "provenance.json").read_text())
    timed = ("run", "cell_seconds", "share_outside_models", "command")
    found["provenance"] = json.dumps({k: v for k, v in about.items() if k not in timed})
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    wanted, *more = sys.argv[1:]
    where = Path(more[1]) if len(more) > 1 else Path(tempfile.mkdtemp(prefix="kills-"))
    sys.stdout.write(json.dumps(kills(where, int(wanted), int(more[0]) if more else 0)) + "\n")
