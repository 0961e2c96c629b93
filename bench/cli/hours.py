"""Says how long a plan will take, and what that rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cli.output import out, print_json

if TYPE_CHECKING:
    from bench.publish import Asked
    from bench.run.estimate import Estimate
    from bench.run.plan import Plan
    from bench.run.store import Store

__all__ = ["time_of", "told"]


def told(plan: Plan, store: Store, asked: Asked, *, workers: int, json_: bool) -> int:
    """Prints the hours of what the store lacks of a plan; returns the exit code.

    Args:
        plan: Of the suite.
        store: Whose cells were measured.
        asked: How the plan was asked for: the way to measure names the command.
        workers: How many would share the work.
        json_: For machines.
    """
    from bench.run.estimate import estimate, hours_on
    from bench.run.survey import survey

    todo = survey(plan, store).todo
    found = estimate(plan, store, todo)
    hours = hours_on(todo, found.each, workers)
    if json_:
        print_json(
            {
                "suite": plan.suite.name,
                "cells": found.cells,
                "hours": {kind: s / 3600 for kind, s in found.seconds.items()},
                "hours_of_one_worker": found.total / 3600,
                "workers": workers,
                "hours_of_all": hours,
                "rests_on": dict(found.rests),
                "unknown": dict(found.unknown),
                "stored": found.stored,
                "device": found.device,
            }
        )
    else:
        out.print("\n".join(_lines(found, hours, workers, asked.command)), soft_wrap=True)
    return 0


def _lines(found: Estimate, hours: float, workers: int, command: str) -> list[str]:
    measure = f"measure first: {command} --limit 1 into the same store takes each part once"
    if not found.cells:
        return ["nothing lacks: 0 hours"]
    if not found.each:
        return [f"{found.cells} cells lack; the store has no cell of this base to go by; {measure}"]
    least = "at least " if found.unknown else "about "
    shared = f", {least}{time_of(hours * 3600)} on {workers}" if workers > 1 else ""
    lines = [f"{found.cells} cells lack: {least}{time_of(found.total)} on one worker{shared}"]
    for kind, seconds in found.seconds.items():
        known = found.counts[kind] - found.unknown.get(kind, 0)
        lines.append(f"  {kind:9}  {known:6} cells  {time_of(seconds)}")
    lines += [f"  {kind:9}  {n:6} cells  not known; {measure}" for kind, n in found.unknown.items()]
    rests = "; ".join(f"{count} on {what}" for what, count in found.rests.items())
    lines.append(f"it rests on {found.stored} stored cells, computed on {found.device}: {rests}")
    return lines


def time_of(seconds: float) -> str:
    """Returns seconds as people say them: s, min or h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
