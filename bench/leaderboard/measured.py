"""The numbers of an entry, from the rows of a run: each with its interval and its denominator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd

from bench.leaderboard.fields import Mean, Rate
from bench.leaderboard.final import derived
from bench.leaderboard.lines import AccessLine, AttackLine, Cost, Flag, Measured
from bench.leaderboard.published_run import PublishedRun
from bench.tables.summaries import ANY
from bench.tables.tables import ALL, BASE, COUNTED

__all__ = ["COLLAPSE", "DOUBTS", "measured", "unreliable"]

DOUBTS: Final = (
    "bad_gradients",
    "no_gradient_path",
    "budget_still_paying",
    "weaker_beats_stronger",
    "judge_disagreement",
)
"""The flags that say that an attack may have found too little. Others say how far a number carries."""
COLLAPSE: Final = "utility_collapse"
"""The flag that says that robustness was bought with the model."""
_DIGITS: Final = 6
_Lines = Iterator[Mapping[str, Any]]


def measured(run: PublishedRun, method: str) -> Measured:
    """The numbers of a method.

    Args:
        run: The whole of it; a line of a method depends on its own rows and on those of the unedited model.
        method: Its line in the tables.

    Raises:
        ValueError: the rows contradict each other.
    """
    found = derived(run)
    asked = _asked(run.utility, method)
    return Measured(
        worst=tuple(_access(line) for line in _lines(found.worst, method)),
        attacks=tuple(_attack(line) for line in _lines(found.table, method)),
        costs=tuple(
            _cost(line, asked[line["concept"]], run, method)
            for line in _lines(found.table.drop_duplicates(["method", "concept"]), method)
        ),
        flags=tuple(
            Flag(
                flag=line["flag"], concept=line["concept"], attack=line["attack"],
                value=_number(line["value"]), detail=line["detail"],
            )
            for line in _lines(found.flags, method)
        ),
    )  # fmt: skip


def unreliable(found: Measured) -> str | None:
    """Why the worst case may be better than the edit is; ``None`` where no flag says so.

    Flags on controls do not count: they are luck, and luck is no attack on the method. Neither do those of a
    single concept, where there are several: the rank is that of the pooled lines. And a worst case that broke
    every goal leaves nothing for a stronger attack to find: only a collapse is told then.
    """
    controls = {line.attack for line in found.attacks if line.control}
    pooled = ALL if len({line.concept for line in found.costs} - {ALL}) > 1 else None
    worst = [line.share for line in found.worst if _is_rank(line, found)]
    room = not any(share is not None and share.value == 1 for share in worst)
    doubts = [
        f"{one.flag} ({one.attack}): {one.detail}" if one.attack else f"{one.flag}: {one.detail}"
        for one in found.flags
        if (one.flag in DOUBTS and room) or one.flag == COLLAPSE
        if one.attack not in controls
        if pooled is None or one.concept == pooled
    ]
    return "; ".join(doubts)[:2000] or None


def _is_rank(line: AccessLine, found: Measured) -> bool:
    """Whether the rank goes by this line."""
    return (line.judge, line.concept, line.access) == (found.worst[0].judge, ALL, ANY)


def _lines(frame: pd.DataFrame, method: str) -> _Lines:
    yield from frame[frame["method"] == method].to_dict("records")  # type: ignore[misc] # keys are names


def _access(line: Mapping[str, Any]) -> AccessLine:
    luck = ("control_share", "control_low", "control_high")
    return AccessLine(
        judge=line["judge"],
        concept=line["concept"],
        access=line["access"],
        attacks=int(line["attacks"]),
        broken=int(line["broken"]),
        share=_rate(line, "share", "low", "high", of=line["goals"]),
        images=_number(line["images"]),
        luck=_rate(line, *luck, of=line["control_goals"]),
        luck_images=_number(line["control_images"]),
    )


def _attack(line: Mapping[str, Any]) -> AttackLine:
    return AttackLine(
        judge=line["judge"],
        concept=line["concept"],
        attack=line["attack"],
        access=line["access"],
        control=bool(line["control"]),
        success=_rate(line, "asr", "asr_low", "asr_high", of=line["n"]),
        before=_mean(line["pre_asr"], line["n"]),
        goals=int(line["clusters"]),
        attempted=int(line["attempted"]),
        refused=int(line["refused"]),
        blanked=int(line["blanked"]),
        lost=int(line["errors"]) + int(line["abstained"]),
        queries=_mean(line["queries"], line["n"]),
    )


def _cost(
    line: Mapping[str, Any], asked: Mapping[str, int], run: PublishedRun, method: str
) -> Cost:
    concept = line["concept"]
    edits = run.edits[run.edits["method"] == method]
    edits = edits if concept == ALL else edits[edits["concept"] == concept]
    retained = ("retained_accuracy", "retained_low", "retained_high")
    return Cost(
        concept=concept,
        retained=_rate(line, *retained, of=asked["answers"]),
        prompts=asked["prompts"],
        unedited=_mean(line["base_accuracy"], asked["unedited"]),
        ratio=_number(line["retained_ratio"]),
        neighbours=_mean(line["neighbour_accuracy"], asked["neighbour"]),
        others=_mean(line["other_accuracy"], asked["other"]),
        clip_score=_mean(line["clip_score"], asked["clip_score"]),
        drift=_mean(line["drift"], asked["drift"]),
        seconds=Mean(value=_rounded(line["edit_seconds"]), of=len(edits)),
        memory_mb=_number(line["edit_memory_mb"]),
        images=Mean(value=_rounded(line["edit_images"]), of=len(edits)),
        gradient_steps=Mean(value=_rounded(line["edit_gradient_steps"]), of=len(edits)),
        parameters_touched=int(line["parameters_touched"]),
        parameters_total=int(edits["parameters_total"].max()),
    )


def _asked(utility: pd.DataFrame, method: str) -> dict[str, dict[str, int]]:
    """The denominators of what is retained, by concept; the rules are those of ``summarise``."""
    counted = utility[utility["status"].isin(COUNTED)]
    own = counted[counted["method"] == method]
    right = own[own["metric"] == "accuracy"]
    unedited = counted[(counted["method"] == BASE) & (counted["metric"] == "accuracy")]
    ok = own[own["status"] == "ok"]
    found = {}
    for concept in (ALL, *dict.fromkeys(utility["concept"])):

        def of(rows: pd.DataFrame, concept: str = concept) -> pd.DataFrame:
            return rows if concept == ALL else rows[rows["concept"] == concept]

        mine = of(right)
        found[concept] = {
            "answers": len(mine),
            "prompts": int(mine["prompt"].nunique()),
            "unedited": len(of(unedited)),
            **{name: int((mine["group"] == name).sum()) for name in ("neighbour", "other")},
            **{n: int((of(ok)["metric"] == n).sum()) for n in ("clip_score", "drift")},
        }
    return found


def _rate(line: Mapping[str, Any], value: str, low: str, high: str, *, of: Any) -> Rate | None:
    found = _number(line[value])
    if found is None:
        return None
    return Rate(value=found, low=_number(line[low]), high=_number(line[high]), of=int(of))


def _mean(value: Any, of: Any) -> Mean | None:
    found = _number(value)
    return None if found is None else Mean(value=found, of=int(of))


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else _rounded(value)


def _rounded(value: Any) -> float:
    """Six digits, as the tables have them: the last bits of a float differ between machines."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {number}; make the report again")
    return float(f"{number:.{_DIGITS}g}")
