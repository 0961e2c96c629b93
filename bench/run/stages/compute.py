"""Computes a cell by the stage of its kind."""

from __future__ import annotations

from bench.run.cells import (
    AttackCell,
    Cell,
    ComparedCell,
    EditCell,
    JudgedCell,
    MeasuredCell,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)
from bench.run.stages.attack import attack
from bench.run.stages.compare import compared
from bench.run.stages.edit import edit
from bench.run.stages.score import judged, measured
from bench.run.stages.trial import trial
from bench.run.stages.utility import reference, utility
from bench.run.stages.workspace import Workspace, Written

__all__ = ["compute"]


def compute(work: Workspace, cell: Cell) -> Written:
    """Computes a cell.

    Returns:
        Its record, and a function that writes its files into a folder.

    Raises:
        UsageError: a plug-in of it reads other files than when the plan was made.
    """
    work.plan.seals.check(cell)
    done = _computed(work, cell)
    work.plan.seals.check(cell)  # once more: it was reading all the time
    return done


def _computed(work: Workspace, cell: Cell) -> Written:
    match cell:
        case ReferenceCell():
            return reference(work, cell)
        case EditCell():
            return edit(work, cell)
        case AttackCell():
            return attack(work, cell)
        case TrialCell():
            return trial(work, cell)
        case UtilityCell():
            return utility(work, cell)
        case JudgedCell():
            return judged(work, cell)
        case MeasuredCell():
            return measured(work, cell)
        case ComparedCell():
            return compared(work, cell)
    raise TypeError(f"expected a cell of one of the kinds of bench.run.cells, got {cell.title}")
