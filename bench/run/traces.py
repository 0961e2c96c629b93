"""How the search behind each row went: the account that attacks keep, joined to the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from bench.interfaces import Trace

__all__ = ["SEARCH", "TRACE", "curve_of", "traces_of", "with_traces"]

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
    found = plain[by].merge(traces, on=by, how="left").set_axis(plain.index)  # no copy of the rest
    return plain.assign(**{name: found[name] for name in TRACE})


def curve_of(
    candidates: Sequence[Mapping[str, Any]], about: Mapping[str, object], bar: float
) -> list[dict[str, object]]:
    """Returns how many goals of an attack were reached by each of its looks, in its own view.

    A goal that stopped early stays as it was, with the budget that it took. Steps lie evenly between looks.

    Args:
        candidates: What it stored.
        about: The method, the attack, and whatever else each row repeats.
        bar: The surrogate's threshold.

    Returns:
        A row per look, with the columns of :data:`~bench.tables.budget.CURVES`. There is none where a goal has
        several finds, or nobody kept account of three looks and what they took.
    """
    told = [_kept(row["trace"]) for row in candidates if row.get("trace")]
    looks = max((len(trace.looks) for trace in told), default=0)
    goals = [row["goal"] for row in candidates]
    if looks < 3 or len(told) < len(goals) or len(set(goals)) < len(goals):
        return []
    counted = all(len(trace.images) == len(trace.looks) for trace in told)
    if not all(trace.looks for trace in told) or not (counted or all(t.budget for t in told)):
        return []
    rows = []
    for look in range(looks):
        at = [(trace, min(look, len(trace.looks) - 1)) for trace in told]
        rows.append(
            {
                **about,
                "look": look,
                "goals": len(told),
                "reached": sum(trace.looks[k] >= bar for trace, k in at),
                "images": fmean(trace.images[k] for trace, k in at) if counted else None,
                "steps": fmean(trace.steps * k / max(1, len(trace.looks) - 1) for trace, k in at),
            }
        )
    return rows


def _kept(trace: Mapping[str, Any]) -> Trace:
    lists = {name: tuple(trace.get(name, ())) for name in ("looks", "images")}
    return Trace(**{**trace, **lists})


def _account(trace: Mapping[str, Any]) -> tuple[Any, ...]:
    kept = _kept(trace)
    return kept.changed, kept.steps, kept.zero, kept.bad, kept.late_gain
