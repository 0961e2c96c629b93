"""Kills runs of a tiny suite at random times, and compares what comes of it with an unbroken run.

    make fuzz ARGS="kills --cases 100 --seed 1"

One process imports everything and does nothing else; each run is a child of it, so a kill costs no
import. Kills fall on all of a run: on cells, on the store and on the writing of the report.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.cli import main as cli
from tests.forks import FORKABLE, alone, begin, ended, require_success
from tests.fuzz.same import compare
from tests.tiny import SUITE

ROOT = Path(__file__).parents[2]
LOG = "child.log"
HEAVY = (
    "bench.report.write",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "matplotlib.backends.backend_pdf",
    "transformers.models.clip.modeling_clip",
)
"""Imported before the first child, which would import them once more."""


def kills(folder: Path, number: int, seed: int = 0) -> dict[str, int]:
    """Runs the suite unbroken, then with so many kills, in a fresh process; returns what was counted.

    Args:
        folder: an empty one.
        number: of kills.
        seed: of their times.

    Raises:
        AssertionError: a file of the two differs by more than what was measured, or something was left
            behind, or a run that nobody killed failed. It holds the end of what the process said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.kills", str(number), str(seed), str(folder)],
        capture_output=True, text=True, cwd=ROOT, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), **FORKABLE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _kills(folder: Path, number: int, seed: int) -> dict[str, int]:
    """Does what :func:`kills` says, in this process."""
    torch.set_num_threads(1)
    (folder / "tiny.yaml").write_text(SUITE)
    whole, broken = folder / "whole", folder / "broken"
    _import_what_is_run(folder, whole)
    report = lasted(folder, whole)
    draws, done, rounds, torn = random.Random(seed), 0, 1, 0
    pieces: set[Path] = set()
    while done < number:
        share = 1 - entries(broken) / entries(whole)
        # The cells of this suite take about as long as its report. With a tenth more some runs end.
        if killed(folder, broken, draws.random() * report * (1.1 + share)):
            done += 1
            # They lie there until a report is done: each counts for the kill that left it.
            found = set((broken / "report").glob(".report-*"))
            torn += bool(found - pieces)
            pieces = found
        else:
            rounds, pieces = rounds + 1, set()
            broken.rename(folder / f"round-{rounds}")
            _compared(folder, whole, folder / f"round-{rounds}")
    lasted(folder, broken)
    _compared(folder, whole, broken)
    return {"kills": done, "rounds": rounds, "torn_reports": torn}


def _compared(folder: Path, whole: Path, broken: Path) -> None:
    """Compares in a child: to read tables begins threads, and who forks must have none."""

    def work() -> int:
        compare(whole, broken)
        return 0

    require_success(ended(begin(work, folder / LOG)), folder / LOG)


def _import_what_is_run(folder: Path, place: Path) -> None:
    """Runs the suite in a child, and imports here what it has imported: much is imported where it is used."""
    told, log = folder / "modules.json", folder / LOG
    for name in HEAVY:
        importlib.import_module(name)

    def work() -> int:
        code = run(folder, place)
        told.write_text(json.dumps(list(sys.modules)))
        return code

    require_success(ended(begin(work, log)), log)
    for name in json.loads(told.read_text()):
        with contextlib.suppress(ImportError):  # some stand in `sys.modules` alone
            importlib.import_module(name)


def run(folder: Path, place: Path) -> int:
    """Runs the suite in this process, which is a child's; returns the exit code.

    Reports name the command, and with it the places: seen from there they are the same for all.
    """
    place.mkdir(exist_ok=True)
    os.chdir(place)
    suite = os.path.relpath(folder / "tiny.yaml", place)
    words = ["run", suite, "--store", "store", "--out", "report", "--device", "cpu"]
    try:
        cli.main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def begun(folder: Path, place: Path) -> int:
    """Starts a run in a child; returns its number."""
    alone()
    return begin(lambda: run(folder, place), folder / LOG)


def lasted(folder: Path, place: Path) -> float:
    """Seconds that a run to its end took."""
    at = time.monotonic()
    require_success(ended(begun(folder, place)), folder / LOG)
    return time.monotonic() - at


def killed(folder: Path, place: Path, after: float) -> bool:
    """Starts a run and kills it; returns False if it had ended before."""
    child = begun(folder, place)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    code = ended(child)
    if code == -signal.SIGKILL:
        return True
    require_success(code, folder / LOG)
    return False


def entries(place: Path) -> int:
    return sum(1 for _ in (place / "store").glob("*/??/*/manifest.json"))


if __name__ == "__main__":
    wanted, drawn, where = sys.argv[1:]
    sys.stdout.write(json.dumps(_kills(Path(where), int(wanted), int(drawn))) + "\n")
