"""Tables of the comparison: a CSV with every ranking, and the medians per attack for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import pandas as pd

from bench.core.errors import UsageError, in_one_line
from bench.core.files import regular
from bench.tables.frames import conform, read_table
from bench.tables.schema import TABLE
from bench.validity.compare import Compared
from bench.validity.figure import UTILITY
from bench.validity.published import Twice

__all__ = ["ceilings", "every_pair", "every_ranking", "medians", "read_run"]

_RANKING: Final = (
    *("suite", "source", "where", "family", "concept", "attack", "metric"),
    *("our_attack", "our_concepts", "n", "rho", "rho_low", "rho_high", "p", "methods"),
)
_PAIR: Final = (
    *("suite", "source", "where", "concept", "attack", "metric"),
    *("our_attack", "method", "published", "ours"),
)

_HEAD: Final = (
    *("suite", "our attack", "published concepts", "rankings", "methods", "median rho"),
    *("least, most", "published tables among themselves"),
)


def read_run(folder: Path) -> pd.DataFrame:
    """The lines of a report's ``table.csv``.

    Raises:
        UsageError: the folder holds none, or it is none.
    """
    path = folder / "table.csv"
    try:
        return conform(read_table(regular(path)), TABLE)
    except ValueError as error:
        raise UsageError(f"{path}: expected the table of a report: {in_one_line(error)}") from error


def every_ranking(found: Sequence[Compared]) -> pd.DataFrame:
    """A line per published ranking and suite."""
    lines = []
    for one in found:
        ranking, agreed = one.ranking, one.agreement
        told = (ranking.source, ranking.where, ranking.family, ranking.concept)
        measured = (agreed.n, agreed.rho, agreed.low, agreed.high, agreed.p)
        asked = (ranking.attack, ranking.metric, ranking.ours, one.concept)
        lines.append((one.suite, *told, *asked, *measured, " ".join(one.pairs.index)))
    return pd.DataFrame(lines, columns=list(_RANKING))


def every_pair(found: Sequence[Compared]) -> pd.DataFrame:
    """A line per published ranking, suite and method: the two numbers; high means the same in both."""
    lines = [
        (one.suite, r.source, r.where, r.concept, r.attack, r.metric, r.ours, method, *numbers)
        for one in found
        for r in (one.ranking,)
        for method, *numbers in one.pairs.itertuples()
    ]
    return pd.DataFrame(lines, columns=list(_PAIR))


def ceilings(between: Sequence[Twice]) -> dict[str, tuple[float, int]]:
    """The median correlation of published tables with each other, and how many pairs, by attack or ``utility``."""
    found: dict[str, list[float]] = {}
    for twice in between:
        if not math.isnan(twice.agreement.rho):
            found.setdefault(twice.ours or UTILITY, []).append(twice.agreement.rho)
    return {name: (median(rhos), len(rhos)) for name, rhos in found.items()}


def medians(found: Sequence[Compared], between: Sequence[Twice]) -> str:
    """The table of the page: per suite, attack and kind of concept the median, beside the ceiling."""
    ceiling = ceilings(between)
    groups: dict[tuple[str, str, str], list[Compared]] = {}
    for one in found:
        ours = one.ranking.ours or UTILITY
        groups.setdefault((one.suite, ours, one.ranking.family), []).append(one)
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for (suite, ours, family), mine in groups.items():
        rhos = [one.agreement.rho for one in mine if not math.isnan(one.agreement.rho)]
        sizes = sorted({one.agreement.n for one in mine})
        methods = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        said = (
            (f"{median(rhos):.2f}", f"{min(rhos):.2f}, {max(rhos):.2f}")
            if rhos
            else ("no order", "")
        )
        against = "fewer than two" if ours not in ceiling else "{:.2f} ({})".format(*ceiling[ours])
        cells = (suite, f"`{ours}`", family, str(len(mine)), methods, *said, against)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
