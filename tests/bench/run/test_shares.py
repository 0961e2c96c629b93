"""`--shard`: jobs that know nothing of each other share a suite, and the last one writes the report."""

from __future__ import annotations

import json
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main as cli
from bench.config.suite import load_suite
from bench.model.text_to_image import TextToImage
from bench.run.chains import Share, share_of
from bench.run.plan import Plan, make_plan
from bench.run.runner import run_plan
from bench.run.store import Store
from bench.run.survey import left
from tests.tiny import CELLS, SUITE

MOVING = SUITE.replace(
    "attacks: [prompts, {random_tokens: {tries: 1}}, {seed_search: {tries: 1}}]",
    "attacks: [prompts, random_tokens, seed_search]\ntransfer: [prompts]",
)


def said(*words: str, at: Path) -> tuple[int, Any, str]:
    """Exit code, JSON and errors of a command."""
    out, err = StringIO(), StringIO()
    with chdir(at), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.main(list(words))
    text = out.getvalue()
    return (
        int(str(end.value.code)),
        json.loads(text) if text.startswith("{") else text,
        err.getvalue(),
    )


@pytest.mark.slow
def test_the_last_share_writes_the_report(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    words = ("run", "tiny.yaml", "--device", "cpu", "--out", "report", "--json", "--shard")
    code, first, _ = said(*words, "2/2", at=tmp_path)
    assert (code, first["out"], first["shard"]) == (0, None, "2/2")
    assert first["computed"] + first["elsewhere"] == CELLS
    assert first["elsewhere"] > 0
    assert not (tmp_path / "report").exists()
    code, second, _ = said(*words, "1/2", at=tmp_path)
    assert code == 0
    assert second["out"] == "report"
    assert first["computed"] + second["computed"] == CELLS, "nothing is computed twice"
    assert (tmp_path / "report" / "index.html").is_file()
    assert len({row["method"] for row in second["table"]}) == 2


@pytest.mark.slow
def test_a_share_computes_what_it_needs_of_shares_that_have_not_begun(
    miniature: TextToImage, tmp_path: Path
) -> None:
    (tmp_path / "moving.yaml").write_text(MOVING)
    plan = make_plan(load_suite(tmp_path / "moving.yaml"), miniature.backbone.digest)
    store = Store(tmp_path / "store")
    own, needed = share_of(plan.cells, Share(1, 3))
    assert needed
    outcome = run_plan(plan, store, miniature, share=Share(1, 3))
    assert (outcome.failed, outcome.blocked) == ([], [])
    there = {cell.digest for cell in plan.cells if store.find(cell.kind, cell.digest)}
    assert there == {cell.digest for cell in (*own, *needed)}
    assert {cell.digest for cell in left(plan, store)} == {c.digest for c in plan.cells} - there


def test_what_failed_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    plan, store = make_plan(load_suite(tmp_path / "tiny.yaml"), "0" * 64), Store(tmp_path / "store")
    assert left(plan, store) == list(plan.cells)
    edit = next(cell for cell in plan.cells if cell.kind == "edit")
    store.fail(edit.kind, edit.digest, {}, ValueError("no"))
    of_it = {c.digest for c in plan.cells if c.method_label == edit.method_label}
    assert {cell.digest for cell in left(plan, store)} == {c.digest for c in plan.cells} - of_it


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--shard", "3/2"), "--shard: expected I/N with 1 <= I <= N"),
        (("--workers", "0"), "--workers: expected a number from 1 or auto"),
        (("--workers", "many"), "--workers: expected a number from 1 or auto"),
        (("--per-gpu", "2"), "--per-gpu: expected --workers or --ray beside it"),
        (("--workers", "2", "--batch-size", "x"), "--batch-size: expected a number"),
        (("--per-gpu", "0", "--workers", "2"), "--per-gpu: expected a number from 1 to 100"),
        (
            ("--ray", "ray://there:10001"),
            "--ray: expected HOST:PORT of the cluster's head, or auto",
        ),
        (("--workers", "2", "--device", "cuda:1"), "--device: expected auto, cpu or cuda"),
    ],
)
def test_wrong_words_are_one_line(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    code, _, errors = said("run", "tiny.yaml", *words, at=tmp_path)
    assert code == 2
    assert line in errors
    assert len(errors.splitlines()) == 1


def test_hours_without_a_measured_cell_say_how_to_measure(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    code, text, _ = said("plan", "tiny.yaml", "--estimate", at=tmp_path)
    assert code == 0
    assert f"{CELLS} cells lack; the store has no cell of this base" in text
    assert "tvc-bench run tiny.yaml --limit 1" in text
    code, found, _ = said(
        "plan", "tiny.yaml", "--estimate", "--workers", "3", "--json", at=tmp_path
    )
    assert (code, found["cells"], found["hours_of_all"], found["workers"]) == (0, CELLS, 0.0, 3)


@pytest.mark.slow
def test_shares_drop_no_image_that_another_share_needs(
    miniature: TextToImage, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE + "images: thumbnails\n")
    plan: Plan = make_plan(load_suite(tmp_path / "tiny.yaml"), miniature.backbone.digest)
    store = Store(tmp_path / "store")
    (reference,) = [cell for cell in plan.cells if cell.kind == "reference"]
    assert not run_plan(plan, store, miniature, share=Share(1, 2)).failed
    assert store.find("images", reference.digest) is not None, "the other share measures by it"
    assert not run_plan(plan, store, miniature, share=Share(2, 2)).failed
    assert list(store.entries("images")) == []
