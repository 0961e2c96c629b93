"""Kills workers of a local Ray at random moments, as `tests/bench/run/test_on_ray.py` does, as often as is asked.

make fuzz ARGS="ray --cases 20"
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["worker_kills"]

ROOT = Path(__file__).parents[2]
POISON = "a_cell_kills_whoever_tries_it"
_PER_RUN = 20
"""Of 27 cells one at least is done between two kills."""


def worker_kills(folder: Path, number: int) -> dict[str, int]:
    """Runs a tiny suite unbroken, and with so many kills of workers; returns what was counted.

    Raises:
        AssertionError: the results differ, something was left behind, or a kill cost more than a cell.
    """
    counts = {"kills": 0, "twice": 0, "runs": 0}
    while counts["kills"] < number:
        kills = min(_PER_RUN, number - counts["kills"])
        at = folder / f"run-{counts['runs']}"
        at.mkdir(parents=True)
        whole, broken, poisoned = _played(at, kills)
        assert len(poisoned["lost"]) == 5, poisoned
        assert poisoned["there"] == poisoned["cells"] - 3, "it, and its two metrics"
        assert poisoned["failed"][0]["error"].startswith("Lost: 5 workers died at it"), poisoned
        assert broken["there"] == broken["cells"], broken
        assert (broken["failed"], broken["damaged"], broken["left"]) == ([], 0, []), broken
        assert broken["bytes"] == whole["bytes"]
        assert broken["twice"] <= broken["killed"], broken
        assert broken["killed"], "nothing was killed"
        counts["kills"] += broken["killed"]
        counts["twice"] += broken["twice"]
        counts["runs"] += 1
    return counts


def _played(at: Path, kills: int) -> list[dict[str, Any]]:
    script = ROOT / "tests" / "bench" / "run" / "ray_scenes.py"
    done = subprocess.run(
        [sys.executable, str(script), str(at), "unbroken", "workers_are_killed", POISON],
        capture_output=True, text=True, cwd=ROOT, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_KILLS": str(kills)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    sys.stdout.write(f"{worker_kills(Path(sys.argv[1]), int(sys.argv[2]))}\n")
