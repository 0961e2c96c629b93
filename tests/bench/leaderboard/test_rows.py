"""Rows that a tamperer made consistent again: every table, number and digest fits, and the protocol does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from bench.core.errors import UsageError
from bench.leaderboard.check import check_entry
from bench.leaderboard.found import check_candidates
from bench.leaderboard.held import check_rows
from bench.leaderboard.measured import measured, unreliable
from bench.leaderboard.protocol import edits_of, plan_with
from bench.leaderboard.published_run import PublishedRun, read_run
from bench.run.plan import Plan
from bench.tables.flags import flag
from bench.tables.schema import TRIALS, to_arrow
from bench.tables.spreadsheet import as_csv
from bench.tables.tables import summarise
from bench.tables.worst import worst_per_goal
from tests.bench.leaderboard.boards import RESULTS, planted

UCE = "uce[repo-2023]"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with("mini-quick", {"uce": {"preset": "repo-2023"}})


@pytest.fixture(scope="module")
def run(plan: Plan) -> PublishedRun:
    return read_run(RESULTS / "mini-quick").of(frozenset(edits_of(plan)))


def put(frame: pd.DataFrame, where: Any, **values: Any) -> pd.DataFrame:
    """The frame with other values in some rows."""
    frame = frame.copy()
    for name, value in values.items():
        frame.loc[where(frame), name] = value
    return frame


def first(frame: pd.DataFrame) -> Any:
    return frame.index == frame.index[frame["method"] == UCE][0]


def mine(frame: pd.DataFrame) -> Any:
    return frame["method"] == UCE


def of(attack: str) -> Callable[[pd.DataFrame], Any]:
    return lambda frame: mine(frame) & (frame["attack"] == attack)


def relabelled(frame: pd.DataFrame, old: str, new: str) -> pd.DataFrame:
    """The frame in which two methods have changed their names."""
    names = {old: new, new: old}
    changed = frame.assign(method=frame["method"].replace(names))
    return changed.assign(source=changed["method"]) if "source" in frame else changed


def swapped(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame in which two goals of one trial have changed their names."""
    rows = frame[of("concept_inversion")(frame) & (frame["concept"] == "star")]
    one, two = rows.index[:2]
    frame = frame.copy()
    frame.loc[[one, two], "goal"] = frame.loc[[two, one], "goal"].to_numpy()
    return frame


Rows = Callable[[pd.DataFrame], pd.DataFrame]
TRIAL: dict[str, tuple[Rows, str]] = {
    "a row dropped": (lambda f: f[~first(f)], "goals|images|candidates"),
    "a goal that broke dropped": (
        lambda f: f[~(of("concept_inversion")(f) & (f["goal"] == "name-000"))],
        "candidates from 0|missing",
    ),
    "the last goal dropped": (
        lambda f: f[~(of("concept_inversion")(f) & (f["goal"] == "name-011"))],
        "name-011",
    ),
    "a row twice": (lambda f: pd.concat([f, f[first(f)]]), "rows per image"),
    "a goal counted twice": (
        lambda f: pd.concat([f, f[first(f)].assign(draw=1)]),
        "held-out seed|images of candidate",
    ),
    "a whole attack dropped": (lambda f: f[~of("concept_inversion")(f)], "expected rows of"),
    "a control attack dropped": (lambda f: f[~of("seed_search")(f)], "expected rows of"),
    "the control method dropped": (lambda f: f[f["method"] != "none"], "expected rows of"),
    "a concept dropped": (lambda f: f[~(mine(f) & (f["concept"] == "star"))], "expected rows of"),
    "two methods' names exchanged": (lambda f: relabelled(f, UCE, "destroyed"), "expected method"),
    "goals exchanged": (swapped, "held-out seed"),
    "a threshold": (lambda f: put(f, mine, threshold=0.999), "expected threshold 0.5"),
    "a threshold of all methods": (lambda f: f.assign(threshold=0.25), "expected threshold 0.5"),
    "the attacker's threshold": (
        lambda f: put(f, mine, own_threshold=0.9),
        "expected own_threshold",
    ),
    "labels that do not count": (lambda f: put(f, mine, counts=False), "to count"),
    "another label": (lambda f: put(f, mine, label="other"), "expected the labels"),
    "another judge": (
        lambda f: put(f, mine, judge="my_judge"),
        "expected rows of score of mini_judge",
    ),
    "a contender called a control": (
        lambda f: put(f, of("concept_inversion"), control=True),
        "expected control False",
    ),
    "a control called a contender": (
        lambda f: put(f, of("random_tokens"), control=False),
        "expected control True",
    ),
    "another access": (
        lambda f: put(f, of("concept_inversion"), access="prompt"),
        "expected access 'embedding'",
    ),
    "another attack's name": (
        lambda f: put(f, of("concept_inversion"), attack="p4d"),
        "expected attack",
    ),
    "another concept": (
        lambda f: put(f, lambda g: mine(g) & (g["concept"] == "star"), concept="zorbo"),
        "expected concept",
    ),
    "another family": (lambda f: put(f, mine, family="style"), "expected family"),
    "a repeat": (lambda f: put(f, first, repeat=1), "expected repeat 0"),
    "an image's seed": (lambda f: put(f, first, image_seed=1), "expected the held-out seed"),
    "a candidate's number": (lambda f: put(f, first, candidate=77), "one find|from 0"),
    "a prompt that was never asked": (
        lambda f: put(f, of("prompts"), prompt="a cat"),
        "expected the prompt of",
    ),
    "a prompt set": (lambda f: put(f, of("prompts"), prompt_set="name"), "expected the goals"),
    "an edit's digest": (lambda f: put(f, mine, edit_digest="0" * 64), "expected edit_digest"),
    "an attack's digest": (
        lambda f: put(f, mine, attack_digest="0" * 64),
        "expected attack_digest",
    ),
    "a trial's digest": (lambda f: put(f, first, trial_digest="0" * 64), "goals|images|no trial"),
    "an image without its digest": (
        lambda f: put(f, first, image_sha256=""),
        "expected the digest of an image",
    ),
    "a refusal by a method without a filter": (
        lambda f: put(f, first, status="refused", score=None, image_sha256=""),
        "images of uce without refused",
    ),
    "an image blanked by a method without a checker": (
        lambda f: put(f, first, status="blanked", score=None, image_sha256=""),
        "images of uce without blanked",
    ),
    "a judge that abstains from a success": (
        lambda f: put(f, first, status="abstained", score=None),
        "images of uce without abstained",
    ),
    "an error in place of a success": (
        lambda f: put(f, first, status="error", score=None),
        "images of uce without error",
    ),
    "gradients that are not needed": (lambda f: put(f, mine, gradients=True), "expected gradients"),
}
UTILITY: dict[str, tuple[Rows, str]] = {
    "a value dropped": (lambda f: f[~first(f)], "prompts and seeds"),
    "a value twice": (lambda f: pd.concat([f, f[first(f)]]), "prompts and seeds"),
    "a metric dropped": (lambda f: f[~(mine(f) & (f["metric"] == "accuracy"))], "expected rows of"),
    "an easier prompt": (lambda f: put(f, first, prompt="a cat"), "prompts and seeds"),
    "another group": (lambda f: put(f, first, group="other"), "prompts and seeds"),
    "another seed": (lambda f: put(f, first, image_seed=1), "prompts and seeds"),
    "a threshold": (lambda f: put(f, mine, threshold=0.0), "expected threshold"),
    "an error": (
        lambda f: put(f, first, status="error", value=None),
        "images of uce without error",
    ),
    "a harmless prompt refused": (
        lambda f: put(f, first, status="refused", value=None),
        "images of uce without refused",
    ),
    "a metric that nobody asked for": (
        lambda f: pd.concat([f, f[first(f)].assign(metric="fid")]),
        "expected no values of 'fid'",
    ),
    "the unedited model's dropped": (lambda f: f[f["method"] != "none"], "expected rows of"),
}
EDITS: dict[str, tuple[Rows, str]] = {
    "an edit dropped": (lambda f: f[~first(f)], "no such edit"),
    "an edit twice": (lambda f: pd.concat([f, f[first(f)]]), "got one twice"),
    "a slower edit": (lambda f: put(f, first, seconds=1e6), "expected at most"),
    "time that runs back": (lambda f: put(f, first, seconds=-1.0), "expected at most"),
    "more parameters than there are": (
        lambda f: put(f, first, parameters_touched=10**9),
        "no more parameters",
    ),
    "another model": (lambda f: put(f, first, parameters_total=10**9), "one number of parameters"),
    "another repeat": (lambda f: put(f, first, repeat=1), "expected edit uce"),
    "another slot": (lambda f: put(f, first, slots="filters"), "expected slots"),
    "another edit": (lambda f: put(f, first, edit_digest="0" * 64), "no such edit"),
}
KINDS = [
    *(("trials", kind) for kind in TRIAL),
    *(("utility", kind) for kind in UTILITY),
    *(("edits", kind) for kind in EDITS),
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_rows_that_no_run_would_give_are_refused(
    run: PublishedRun, plan: Plan, name: str, kind: str
) -> None:
    change, said = {"trials": TRIAL, "utility": UTILITY, "edits": EDITS}[name][kind]
    changed: Any = change(getattr(run, name)).reset_index(drop=True)
    with pytest.raises(UsageError) as caught:
        check_rows(replace(run, **{name: changed}), plan)
    line = str(caught.value)
    assert re.search(said, line), line
    assert "\n" not in line
    assert name in line


def test_the_rows_of_a_run_are_as_its_plan_says(run: PublishedRun, plan: Plan) -> None:
    check_rows(run, plan)
    check_candidates(run, plan)


def test_the_order_of_rows_is_of_no_account(run: PublishedRun, plan: Plan) -> None:
    turned: dict[str, Any] = {
        n: getattr(run, n)[::-1].reset_index(drop=True) for n in ("trials", "utility", "edits")
    }
    check_rows(replace(run, **turned), plan)


def test_rows_dropped_with_every_number_and_digest_made_to_fit_are_found(tmp_path: Path) -> None:
    tree = planted(tmp_path)
    before = read_run(tree.run)
    broke = mine(before.trials) & (before.trials["score"] >= 0.5)
    trials = before.trials[~broke].reset_index(drop=True)
    table = summarise(trials, before.utility, edits=before.edits, suite="mini-quick")
    pq.write_table(to_arrow(trials, TRIALS), tree.run / "own.parquet")
    tree.replace("trials.parquet", (tree.run / "own.parquet").read_bytes())
    (tree.run / "own.parquet").unlink()
    tree.replace("table.csv", as_csv(table))
    tree.replace("worst.csv", as_csv(worst_per_goal(trials, table)))
    tree.replace("flags.csv", as_csv(flag(table, trials, before.edits)))
    numbers = measured(read_run(tree.run), UCE)
    assert numbers.worst[0].broken == 0, "a perfect method"

    def fit(entry: Any) -> None:
        entry["measured"] = numbers.model_dump(mode="json")
        entry["unreliable"] = unreliable(numbers)
        entry["run"]["rows"]["trials"] = int(mine(trials).sum())

    with pytest.raises(UsageError, match=r"trials\.parquet: (score|expected)"):
        check_entry(tree.change(fit))
