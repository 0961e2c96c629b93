"""Makes an entry from a published run: everything in it is read or computed, and nothing is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.core.errors import UsageError, from_pydantic
from bench.leaderboard.elsewhere import published_of
from bench.leaderboard.entry import VERSION, Entry, Method, Protocol, Run
from bench.leaderboard.final import check_final, check_tables
from bench.leaderboard.found import check_candidates
from bench.leaderboard.held import check_rows
from bench.leaderboard.measured import measured, unreliable
from bench.leaderboard.paper import paper_of
from bench.leaderboard.protocol import edits_of, plan_with, protocol_of
from bench.leaderboard.published_run import PublishedRun

__all__ = ["entry_of"]


def entry_of(run: PublishedRun, method: str, *, suite: str, spelled: Any, board: Path) -> Entry:
    """The entry of a method, once the run has been found whole and its rows those of the protocol.

    Args:
        run: As it is published.
        method: Its line in the tables.
        suite: The shipped suite whose protocol was run.
        spelled: The method as a suite file spells it.
        board: The folder of the leaderboard.

    Raises:
        UsageError: in one line: the run is no whole and final one, or something in it is not as it must be.
    """
    plan = plan_with(suite, spelled)
    edit = edits_of(plan).get(method)
    if edit is None:
        raise UsageError(
            f"expected the line {method!r} of {spelled!r}, and it is called {', '.join(edits_of(plan))}"
        )
    check_final(run)
    check_tables(run)
    own = run.of(frozenset(edits_of(plan)))
    check_rows(own, plan)
    check_candidates(own, plan)
    spec = edit.method
    paper = paper_of(board, method, spec.name)
    reported, external = published_of(board, paper)
    about = run.provenance
    try:
        numbers = measured(run, method)
        rows = run.of(frozenset({method}))
        return Entry(
            version=VERSION,
            protocol=_protocol(protocol_of(plan), suite),
            method=Method(
                name=method, entry=spelled, digest=spec.digest, slots=tuple(sorted(spec.slots)),
                control=spec.control, bypassed_by=spec.ways_around(), paper=paper,
            ),
            run=Run(
                folder=run.folder.name, suite=run.suite, suite_digest=about["suite_digest"],
                commit=run.commit_of(method), seed=about["seed"], files=dict(sorted(run.files.items())),
                rows={"trials": len(rows.trials), "utility": len(rows.utility), "edits": len(rows.edits)},
            ),
            measured=numbers,
            unreliable=unreliable(numbers),
            reported=reported,
            external=external,
        )  # fmt: skip
    except ValidationError as error:
        raise UsageError(f"{run.folder}: {from_pydantic(error, Entry)}") from error
    except (KeyError, TypeError) as error:
        raise UsageError(f"{run.folder}: expected a whole report: {error}") from error
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{run.folder}: {error}") from error


def _protocol(found: Protocol, suite: str) -> Protocol:
    return found.model_copy(update={"suite": suite})
