"""The order in which files of tests are shared out: the longest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

__all__ = ["LONGEST", "longest_first"]

LONGEST: Final = (
    "bench/run/test_on_ray.py",
    "bench/rehearse/test_rehearsal.py",
    "bench/run/test_runner.py",
    "bench/cli/test_cli.py",
    "contract/test_methods.py",
    "bench/test_extend.py",
    "contract/test_attacks.py",
    "environment/test_bad_environments.py",
    "bench/perf/test_perf.py",
    "contract/test_forms.py",
    "mini/test_training.py",
    "bench/run/test_on_ray_for_real.py",
    "mini/test_on_bases.py",
    "bench/leaderboard/test_entries.py",
    "tvc/test_paper.py",
    "bench/report/test_report.py",
    "methods/test_families.py",
    "bench/run/test_kills.py",
    "methods/test_stereo.py",
    "bench/leaderboard/test_tampering.py",
    "bench/perf/test_sd14.py",
    "bench/tables/test_transfer.py",
    "bench/run/test_scores.py",
    "bench/run/test_sharing.py",
    "bench/leaderboard/test_browser.py",
)
"""The files that take longest; the two with a Ray stand apart, since each takes more than a core."""


class _HasPath(Protocol):
    @property
    def path(self) -> Path: ...


_Test = TypeVar("_Test", bound=_HasPath)


def longest_first(items: Sequence[_Test], root: Path) -> list[_Test]:
    """The tests, those of a file together: the longest files first, then those with the most tests.

    A worker that takes a long file last leaves the others idle.

    Args:
        items: Tests.
        root: The folder that :data:`LONGEST` is below.
    """
    number = Counter(item.path for item in items)
    ranks = {root / name: rank for rank, name in enumerate(LONGEST)}
    return sorted(
        items,
        key=lambda item: (ranks.get(item.path, len(ranks)), -number[item.path], str(item.path)),
    )
