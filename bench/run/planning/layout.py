"""Lays out the cells of a scope: parents first, the cells of an edit together, transfers last."""

from __future__ import annotations

from itertools import product

from bench.config.budget import Laid, check_budget
from bench.run.cells import Cell, TrialCell
from bench.run.planning.edits import Edits
from bench.run.planning.goals import most_goals, tried_goals
from bench.run.planning.scope import Scope
from bench.run.planning.scores import Scores
from bench.run.planning.searches import Searches
from bench.run.planning.trials import Trials
from bench.run.planning.utilities import References, Utilities, check_metrics

__all__ = ["lay_out"]


def lay_out(scope: Scope) -> tuple[Cell, ...]:
    """The cells of a scope.

    Raises:
        UsageError: they are too many, or a part of the suite does not suit what it would be asked.
    """
    suite, laid = scope.suite, Laid(edits=scope.edits)
    goals = {attack.label: most_goals(scope, attack) for attack in scope.attacks}
    check_budget(suite, scope.methods, scope.attacks, scope.tried, goals, captions=scope.captioned)
    tried = tried_goals(scope, laid)
    for judge, concept in product((*suite.judges, suite.surrogate), scope.tried):
        judge.check_concept(concept)
    references = References(scope).cells(laid)
    check_metrics(scope, references.values())
    edits, utilities = Edits(scope), Utilities(scope)
    searches, trials, scores = Searches(scope, tried), Trials(scope), Scores(scope)
    cells: list[Cell] = list(references.values())
    ordinary: list[TrialCell] = []
    for edit in edits.cells():
        cells.append(edit)
        for concept in edits.kept(edit):
            if (reference := references.get(concept.text)) is not None:
                utility = utilities.of(edit, reference)
                cells += [utility, *scores.measured(utility, reference)]
                cells += scores.compared(utility, reference)
            for search, one in searches.on(edit, concept):
                trial = trials.of(search, one)
                cells += [search, trial, *scores.judged(trial)]
                ordinary.append(trial)
    for trial in trials.transfers(ordinary):
        cells += [trial, *scores.judged(trial)]
    return tuple(cells)
