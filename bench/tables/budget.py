"""Success against budget: what an attack reaches with fewer and with more images and gradient steps.

Two accounts, which are not mixed. Lines of a suite that differ in their budget alone are judged as always.
Within one search, the attack's own account after each look says where its success came from, by its surrogate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from bench.tables.own import without_transfers
from bench.tables.schema import BUDGET, conform
from bench.tables.stats import wilson
from bench.tables.tables import ALL, in_method_order

__all__ = ["CURVES", "budget"]

CURVES = ["cell", "method", "attack", "look", "goals", "reached", "images", "steps"]
"""The columns of searches after each look: how many goals were reached, with which budget per goal."""
_CONSTANTS = re.compile(r"\(.*\)$")


def budget(
    table: pd.DataFrame,
    trials: pd.DataFrame,
    curves: Sequence[Mapping[str, object]],
    suite: str,
    looks: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Derives the success against budget.

    Args:
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        trials: Rows of :data:`~bench.tables.schema.TRIALS`, for the gradient steps; transfers are left out.
        curves: A row per search and look, with the columns :data:`CURVES`.
        suite: Name of the suite.
        looks: Lines of the searches' own account that another report derived, of other methods.

    Returns:
        Lines of :data:`~bench.tables.schema.BUDGET`: of attacks that stand there with at least two budgets.
    """
    found = [*_of_lines(table, trials), *_of_looks(curves)]
    found += (
        []
        if looks is None
        else [{str(k): v for k, v in row.items()} for row in looks.to_dict("records")]
    )
    if not found:
        return BUDGET.empty()
    lines = pd.DataFrame(found).assign(suite=suite, concept=ALL)
    judges = [*table["judge"].unique(), ""]
    lines = in_method_order(lines, judges, then=["attack", "steps", "images", "line", "look"])
    return conform(lines[BUDGET.names], BUDGET)


def family(line: str) -> str:
    """An attack's line without its constants, such as ``relearn[mini]``: what lines of several budgets share."""
    head, slash, prompt_set = line.partition("/")
    return _CONSTANTS.sub("", head) + slash + prompt_set


def _of_lines(table: pd.DataFrame, trials: pd.DataFrame) -> list[dict[str, object]]:
    """A line per attack of the table whose family has several budgets."""
    rows = table[(table["concept"] == ALL) & table["asr"].notna()]
    if not len(rows):
        return []
    own = without_transfers(trials)
    own = own.assign(gradient_steps=own["gradient_steps"].astype(float))
    steps = own.groupby(["method", "attack"])["gradient_steps"].mean()
    pairs = zip(rows["method"], rows["attack"].str.partition("/")[0], strict=True)
    rows = rows.assign(
        family=rows["attack"].map(family),
        steps=[float(steps.get(pair, float("nan"))) for pair in pairs],
    )
    found: list[dict[str, object]] = []
    for (judge, method, name), mine in rows.groupby(["judge", "method", "family"], sort=False):
        if len(mine[["queries", "steps"]].fillna(0).drop_duplicates()) < 2:
            continue
        found += [
            {
                "judge": judge, "method": method, "attack": name, "view": "record",
                "line": row["attack"], "look": -1, "images": row["queries"], "steps": row["steps"],
                "n": row["n"], "successes": row["successes"],
                "share": row["asr"], "low": row["asr_low"], "high": row["asr_high"],
            }
            for row in mine.to_dict("records")
        ]  # fmt: skip
    return found


def _of_looks(curves: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """A line per look of each attack, the searches on all concepts and repeats together."""
    if not curves:
        return []
    rows = _to_one_length(pd.DataFrame(curves)[CURVES].astype({"images": float, "steps": float}))
    for name in ("images", "steps"):
        rows[name] *= rows["goals"]
    found: list[dict[str, object]] = []
    for (method, line, look), mine in rows.groupby(["method", "attack", "look"], sort=False):
        goals, reached = int(mine["goals"].sum()), int(mine["reached"].sum())
        rate = wilson(reached, goals)
        found.append(
            {
                "judge": "", "method": method, "attack": family(str(line)), "view": "own",
                "line": line, "look": look,
                "images": mine["images"].sum(min_count=len(mine)) / goals,
                "steps": mine["steps"].sum() / goals, "n": goals, "successes": reached,
                "share": rate.value, "low": rate.low, "high": rate.high,
            }
        )  # fmt: skip
    return found


def _to_one_length(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, with those of a search that stopped early repeated: it stays as it was, and so does its budget."""
    last = rows.groupby(["method", "attack"], sort=False)["look"].transform("max")
    parts = [rows]
    for _, mine in rows.groupby("cell", sort=False):
        end, most = mine.iloc[-1], int(last[mine.index[-1]])
        missing = range(int(end["look"]) + 1, most + 1)
        parts += [pd.DataFrame([end]).assign(look=look) for look in missing]
    return pd.concat(parts, ignore_index=True)
