"""How the search behind each row went: the account that attacks keep, joined to the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bench.interfaces import Trace

__all__ = ["SEARCH", "TRACE", "traces_of", "with_traces"]

TRACE = ("changed", "gradient_steps", "gradient_zero", "gradient_bad", "late_gain")
SEARCH = ("attack_digest", "candidate")
"""The columns that a row and the account of the search behind it have in common."""


def traces_of(candidates: Iterable[Mapping[str, Any]], digest: str) -> list[tuple[Any, ...]]:
    """Returns how the searches of an attack went, for :func:`with_traces`.

    Args:
        candidates: What it stored; without ``trace`` in stores of before there was one.
        digest: The attack's.

    Returns:
        A tuple per candidate whose search was kept account of.
    """
    return [
        (digest, number, *_account(trace))
        for number, row in enumerate(candidates)
        if (trace := row.get("trace"))
    ]


def with_traces(rows: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows with how the search for their goal went; missing where nobody kept account.

    Args:
        rows: Of trials.
        traces: A line per search: the columns of :func:`traces_of`.
    """
    by = list(SEARCH)
    plain = rows.drop(columns=list(TRACE), errors="ignore")
    if not len(traces):
        return plain.assign(**dict.fromkeys(TRACE))
    return plain.merge(traces, on=by, how="left")


def _account(trace: dict[str, Any]) -> tuple[Any, ...]:
    kept = Trace(**{**trace, "looks": tuple(trace["looks"])})
    return kept.changed, kept.steps, kept.zero, kept.bad, kept.late_gain
