"""The command line and the Python interface, on a suite of seconds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import bench
from bench import attack, erase, evaluate, load_model
from bench.cli import main as cli
from bench.cli import request
from bench.cli.progress import LiveWatcher, PlainWatcher, watcher_for
from bench.config.suite import load_suite, suite_names
from bench.core.errors import UsageError
from bench.core.shipped import MINIATURES, model_folder
from bench.interfaces import Concept
from bench.model.regions import is_compiled
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.publish import Asked, committed_place, place, publish
from bench.run.loading import Runtime, load_base
from bench.run.plan import Cell, make_plan
from bench.run.store import Store
from bench.run.watching import AtWork
from bench.tables.schema import TABLE
from methods.checkpoint import Checkpoint
from tests.fuzz.bases import linked_base

ROOT = Path(__file__).parents[3]
TINY = """\
name: tiny
concepts: [star]
sampler: {steps: 1, guidance_scale: 3.0}
methods: [none, destroyed, {uce: {preset: repo-2023}}]
attacks: [prompts, {random_tokens: {tries: 2}}, {seed_search: {tries: 2}}]
judges: [mini_judge]
surrogate: clip_zero_shot
metrics: [accuracy, clip_score, drift]
goals: 2
utility: {neighbours: 2, others: 2}
keep_images: 2
"""
CELLS = 1 + 3 * (2 + 3 + 3 * 3)
SAMPLES = 1 + 3 * (1 + 3)
FILES = {
    *(
        "sweep.csv",
        "sweep.png",
        "worst.csv",
        "worst.md",
        "README.md",
        "index.html",
        "cells.csv",
        "measures.csv",
        "edits.parquet",
        "flags.csv",
        "grid-star.png",
        "provenance.json",
    ),
    *(
        "scatter.pdf",
        "scatter.png",
        "table.csv",
        "table.md",
        "table.tex",
        "trials.parquet",
        "utility.parquet",
    ),
}
RAISES = """
from typing import ClassVar
from bench.interfaces import Erasure

class Mine(Erasure):
    name: ClassVar[str] = "mine"

    def erase(self, model, concepts, ctx):
        raise RuntimeError("the solver diverged")
"""
OVERFLOWS = """
from typing import ClassVar
from bench.interfaces import Erasure
from bench.model.guidance import ClassifierFree

class Overflowing(ClassifierFree):
    name: ClassVar[str] = "overflowing_at_a_word"
    word: int

    def contexts(self, model, conditioning):
        empty, prompt = super().contexts(model, conditioning)
        named = (prompt.ids[0] == self.word).any(1)[:, None, None]
        return empty, prompt.with_states(prompt.states_BLD.masked_fill(named, float("inf")))

class Mine(Erasure):
    name: ClassVar[str] = "mine"
    slots: ClassVar[frozenset] = frozenset({"guidance"})

    def erase(self, model, concepts, ctx):
        (word,) = model.words.ids("star")
        return model.with_guidance(Overflowing(word=word))
"""
"""Its images of prompts with the word ``star`` are not finite; those of other prompts are the model's."""


@dataclass(frozen=True)
class Said:
    """The output of a command, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


def call(*words: object, at: Path) -> Said:
    out, err = StringIO(), StringIO()
    with chdir(at), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    assert isinstance(end.value.code, int)
    return Said(end.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A folder where the tiny suite was run, and what that said."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tiny.yaml").write_text(TINY)
    return folder, call("run", "tiny.yaml", at=folder)


@pytest.fixture
def copy(done: tuple[Path, Said], tmp_path: Path) -> Path:
    """A copy of that folder, to be changed."""
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with the tiny suite and nothing else."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.mark.parametrize("command", ["plan", "run", "report"])
def test_a_base_that_no_run_can_use_is_one_line(command: str, fresh: Path) -> None:
    base = linked_base(fresh / "base")
    (base / "concepts.json").symlink_to(model_folder() / "concepts.json")
    path = base / "scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"sample"'))
    (fresh / "tiny.yaml").write_text(TINY + "base: base\n")
    said = call(command, "tiny.yaml", at=fresh)
    assert said.code == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert re.search(
        r"^error: base '.*prediction_type: expected epsilon or v_prediction, got 'sam", line
    )


# --- run


def test_run_prints_progress_the_table_the_files_and_its_own_cost(done: tuple[Path, Said]) -> None:
    folder, said = done
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == f"{CELLS} cells, 0 already in the store"
    assert lines[1].startswith(f"[1/{CELLS}] reference unedited / star  ")
    assert sum(line.startswith(f"[{k}/{CELLS}] ") for line in lines for k in range(99)) == CELLS
    assert "luck: by a control; judge mini_judge" in said.out
    methods = ("none", "uce[repo-2023]", "destroyed")
    assert [sum(line.startswith(f"{name} ") for line in lines) for name in methods] == [1, 1, 1]
    assert "too_few_samples: the suite as a whole, every method (" in said.out
    assert f"report: results/runs/tiny/index.html and {len(FILES) - 1} files beside it" in lines
    assert lines[-1].startswith(f"{CELLS} cells computed, 0 from the store, 0 failed; ")
    assert lines[-1].endswith(" % outside the models' own compute")
    assert "\x1b" not in said.out  # no colours and no bars where there is no terminal
    assert "\r" not in said.out
    assert {p.name for p in (folder / "results/runs/tiny").iterdir()} == FILES


def test_run_writes_a_table_of_its_schema(done: tuple[Path, Said]) -> None:
    table = pd.read_csv(done[0] / "results/runs/tiny/table.csv")
    assert list(table.columns) == TABLE.names
    assert set(table["suite"]) == {"tiny"}
    provenance = json.loads((done[0] / "results/runs/tiny/provenance.json").read_text())
    assert provenance["command"] == "tvc-bench run tiny.yaml"
    assert provenance["seed"] == 0
    assert (
        "Made by `tvc-bench run tiny.yaml` at"
        in (done[0] / "results/runs/tiny/README.md").read_text()
    )
    assert len(provenance["suite_digest"]) == 64
    assert (provenance["failed"], provenance["missing"]) == ([], [])
    assert provenance["run"]["computed"] == CELLS


def test_a_second_run_computes_nothing_and_repeats_the_table(copy: Path) -> None:
    before = (copy / "results/runs/tiny/table.csv").read_bytes()
    said = call("run", "tiny.yaml", "--json", at=copy)
    assert said.code == 0
    assert set(said.data) == {
        *("suite", "out", "computed", "cached", "failed", "blocked", "seconds"),
        "model_seconds",
        *("overhead", "set_aside", "self_check", "errors", "table", "flags", "worst", "compared"),
    }
    assert (said.data["computed"], said.data["cached"], said.data["failed"]) == (0, CELLS, [])
    assert said.data["out"] == "results/runs/tiny"
    assert [set(row) for row in said.data["table"]] == [set(TABLE.names)] * len(said.data["table"])
    assert f"{CELLS} already in the store" in said.err
    assert (copy / "results/runs/tiny/table.csv").read_bytes() == before


def test_a_partial_run_is_a_draft(fresh: Path) -> None:
    said = call(
        *("run", "tiny.yaml", "--only", "none", "--only", "prompts", "--limit", 1), at=fresh
    )
    assert said.code == 0
    assert "report: results/drafts/tiny/index.html and " in said.out
    assert not (fresh / "results/runs/tiny").exists()
    assert "PARTIAL" in (fresh / "results/drafts/tiny/README.md").read_text()


def test_out_store_and_seed_are_taken(fresh: Path) -> None:
    words = ("run", "tiny.yaml", "--only=none", "--only=prompts", "--limit=1")
    said = call(*words, "--out", "here", "--store=kept", "--seed=7", "--batch-size=1", at=fresh)
    assert said.code == 0
    assert "report: here/index.html and " in said.out
    assert (fresh / "kept/STORE.json").is_file()
    assert not (fresh / "results").exists()
    again = call(*words, "--store=kept", "--json", at=fresh)
    assert again.data["cached"] == 0  # another seed is another suite


def test_the_command_says_all_that_decides_the_results() -> None:
    assert Asked("mini-full").command == "tvc-bench run mini-full"
    asked = Asked("my suites/a.yaml", ("uce*", "star"), limit=2, seed=7)
    words = "--only 'uce*' --only star --limit 2 --seed 7"
    assert asked.command == f"tvc-bench run 'my suites/a.yaml' {words}"


def test_results_of_another_seed_do_not_take_the_place_of_the_suites(copy: Path) -> None:
    before = {p.name: p.read_bytes() for p in (copy / "results/runs/tiny").iterdir()}
    assert call("report", "tiny.yaml", "--seed", 0, at=copy).code == 0  # its own
    assert not (copy / "results/drafts").exists()
    report = json.loads((copy / "results/runs/tiny/provenance.json").read_text())
    assert report["command"] == "tvc-bench run tiny.yaml"
    (copy / "results/runs/tiny/provenance.json").write_bytes(before["provenance.json"])
    (copy / "results/runs/tiny/scatter.pdf").write_bytes(before["scatter.pdf"])
    words = ("tiny.yaml", "--seed", 7, "--only", "none", "--only", "prompts")
    assert call("run", *words, at=copy).code == 0
    assert {p.name: p.read_bytes() for p in (copy / "results/runs/tiny").iterdir()} == before
    report = json.loads((copy / "results/drafts/tiny/provenance.json").read_text())
    assert report["seed"] == 7
    assert report["command"] == "tvc-bench run tiny.yaml --only none --only prompts --seed 7"


def test_who_has_a_place_in_results(tmp_path: Path) -> None:
    shipped = load_suite("mini-quick")
    changed = shipped.with_(goals=1)
    mine = shipped.with_(name="mine")
    cases = [
        (shipped, Asked("mini-quick"), True),
        (shipped.with_(seed=7), Asked("mini-quick", seed=7), False),
        (shipped, Asked("copies/mini-quick.yaml"), False),
        (changed, Asked("mini-quick.yaml"), False),
        (changed, Asked("mini-quick"), False),
        (mine, Asked("mine.yaml"), True),
        (mine.with_(seed=7), Asked("mine.yaml", seed=7), False),
        (shipped.with_(name="paper"), Asked("paper.yaml"), True),
    ]
    for suite, asked, expected in cases:
        whole = replace(make_plan(suite, "0" * 64), cells=())  # nothing is missing
        there = Path("results/runs" if expected else "results/drafts") / suite.name
        assert place(whole, asked) == there, asked
        if suite in (changed, mine):  # and a report goes to its place
            with chdir(tmp_path):
                assert publish(whole, Store(tmp_path / "store"), asked).folder == there


def test_a_shipped_suite_is_compared_with_the_committed_one_and_leaves_it(tmp_path: Path) -> None:
    committed = ROOT / "results" / "mini-quick"
    held = {path.name: path.read_bytes() for path in committed.iterdir()}
    lines = len(pd.read_csv(committed / "table.csv"))
    suite = load_suite("mini-quick")
    whole = replace(make_plan(suite, "0" * 64), cells=())
    with chdir(tmp_path):
        done = publish(whole, Store(tmp_path / "store"), Asked("mini-quick"))
        assert done.compared == (committed, (0, (), lines))
        assert {path.name: path.read_bytes() for path in committed.iterdir()} == held
        mine = replace(make_plan(suite.with_(name="mine"), "0" * 64), cells=())
        assert publish(mine, Store(tmp_path / "store"), Asked("mine.yaml")).compared is None
    assert committed_place(whole, Asked("mini-quick")) == Path("results/mini-quick")
    for plan, asked in ((mine, Asked("mine.yaml")), (whole, Asked("mini-quick.yaml"))):
        with pytest.raises(UsageError, match="expected the whole of a shipped suite"):
            committed_place(plan, asked)


def test_plan_takes_another_base_and_refuses_what_is_none(tmp_path: Path) -> None:
    base = tmp_path / "mine"
    base.symlink_to(model_folder())
    words = ("plan", "mini-quick", "--only", "none", "--json")
    own, other = (call(*words, *more, at=tmp_path).data for more in ((), ("--base", "mine")))
    assert (own["suite"], other["suite"]) == ("mini-quick", "mini-quick-on-mine")
    assert len(own["cells"]) == len(other["cells"])
    refused = call(*words, "--base", "./nothing", at=tmp_path)
    assert refused.code == 2
    assert refused.err.startswith("error: --base: expected a folder")


def test_a_shipped_suite_on_another_base_is_committed_for_a_miniature_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "miniature-z"
    base.symlink_to(model_folder())
    suite = load_suite("mini-quick", base=str(base))
    whole = replace(make_plan(suite, "0" * 64), cells=())
    asked = Asked("mini-quick", base=str(base))
    assert asked.command == f"tvc-bench run mini-quick --base {base}"
    assert place(whole, asked) == Path("results/runs/mini-quick-on-miniature-z")
    with pytest.raises(UsageError, match="expected the whole of a shipped suite"):
        committed_place(whole, asked)
    monkeypatch.setattr("bench.publish.MINIATURES", (str(base),))
    assert committed_place(whole, asked) == Path("results/mini-quick-on-miniature-z")
    with pytest.raises(UsageError, match="expected the whole of a shipped suite"):
        committed_place(whole, Asked("mini-quick"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--kernels", "flash"), "error: --kernels: expected a GPU to use flash on, and the device is cpu"),
        (("--kernels", "flahs"), "error: --kernels: unknown word 'flahs'; did you mean 'flash'?"),
    ],
)  # fmt: skip
def test_kernels_are_a_gpus_and_named(words: Sequence[str], line: str, fresh: Path) -> None:
    said = call("run", "tiny.yaml", "--device", "cpu", *words, at=fresh)
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith(line)
    assert not (fresh / "results").exists()


def test_publish_is_for_shipped_suites_and_not_beside_out(copy: Path) -> None:
    said = call("report", "tiny.yaml", "--publish", at=copy)
    assert said.code == 2
    assert said.err.startswith(
        "error: --publish: expected the whole of a shipped suite as it ships"
    )
    said = call("report", "tiny.yaml", "--publish", "--out", "x", at=copy)
    assert said.code == 2
    assert "expected --out or --publish, got both" in said.err


def test_the_page_names_the_command_that_writes_it_where_it_is(copy: Path) -> None:
    for words, out in (((), "results/runs/tiny"), (("--out", "my results"), "my results")):
        if words:  # the copy was made by the command without them
            assert call("run", "tiny.yaml", *words, at=copy).code == 0
        page = (copy / out / "README.md").read_text()
        command = " --out 'my results'" if words else ""
        assert f"Made by `tvc-bench run tiny.yaml{command}` at" in page
        assert json.loads((copy / out / "provenance.json").read_text())["command"] == (
            f"tvc-bench run tiny.yaml{command}"
        )


def test_git_ignores_where_reports_go_by_themselves() -> None:
    for where in ("runs", "drafts"):
        told = subprocess.run(
            ["git", "check-ignore", f"results/{where}/mini-quick/README.md"], cwd=ROOT, check=False
        )
        assert told.returncode == 0


def test_a_folder_of_something_else_is_refused_before_anything_is_computed(fresh: Path) -> None:
    (fresh / "mine").mkdir()
    (fresh / "mine/candidates.safetensors").write_text("mine")
    told = call("run", "tiny.yaml", "--out", "mine", at=fresh)
    assert told.code == 2
    assert told.err == (
        "error: mine: expected an empty folder or a report of the suite 'tiny', got "
        "'candidates.safetensors'; choose another folder with --out, or empty this one\n"
    )
    assert (fresh / "mine/candidates.safetensors").read_text() == "mine"
    assert not (fresh / ".store").exists()


def test_a_failed_cell_is_named_and_the_exit_code_is_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(copy))
    (copy / "broken_plugin.py").write_text(RAISES)
    text = TINY.replace("methods: [", "methods: ['broken_plugin:Mine', ")
    (copy / "mine.yaml").write_text(text)
    said = call("run", "mine.yaml", "--allow-code", at=copy)
    assert said.code == 1
    assert "failed: edit mine / star: RuntimeError: the solver diverged" in said.out.splitlines()
    assert "] FAILED edit mine / star: RuntimeError: the solver diverged" in said.out
    assert f"0 cells computed, {CELLS} from the store, 1 failed, 13 blocked; " in said.out
    assert (
        "[14/14] blocked score of mini_judge: trial mine / star / seed_search(tries=2)" in said.out
    )
    assert "DRAFT" in (copy / "results/runs/tiny/README.md").read_text()
    told = call("run", "mine.yaml", "--allow-code", "--json", at=copy)
    assert told.code == 1
    assert told.data["failed"][0] == {
        "cell": "edit mine / star",
        "error": "RuntimeError: the solver diverged",
    }
    assert call("report", "mine.yaml", "--allow-code", at=copy).code == 1


def test_images_that_are_not_finite_are_rows_with_an_error_and_the_exit_code_is_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(copy))
    (copy / "overflowing_plugin.py").write_text(OVERFLOWS)
    text = TINY.replace("methods: [", "methods: ['overflowing_plugin:Mine', ")
    (copy / "mine.yaml").write_text(text)
    said = call("run", "mine.yaml", "--allow-code", at=copy)
    assert said.code == 1
    assert f"14 cells computed, {CELLS} from the store, 0 failed; " in said.out
    for command in ("run", "report"):  # it stays so, though nothing is computed any more
        told = call(command, "mine.yaml", "--allow-code", "--json", at=copy)
        assert told.code == 1
        first = told.data["errors"][0]
        assert first.startswith("trial mine / star / prompts: 2 of 6 rows: "), first
    report = copy / "results/runs/tiny"
    assert "DRAFT" in (report / "README.md").read_text()
    rows = pd.read_parquet(report / "trials.parquet")
    mine = rows[(rows["method"] == "mine") & (rows["attack"] == "prompts")]
    named = mine["prompt_set"] == "name"
    assert set(mine.loc[named, "status"]) == {"error"}
    assert mine.loc[named, "reason"].str.contains("finite").all()
    assert mine.loc[named, "score"].isna().all()
    assert set(mine.loc[~named, "status"]) == {"ok"}


def test_a_damaged_entry_is_named_and_computed_again(copy: Path) -> None:
    victim = next((copy / ".store/trial").rglob("rows.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1])
    checked = call("verify", "--json", at=copy)
    assert checked.code == 1
    assert checked.data["entries"] == CELLS + SAMPLES - 1
    assert [d["digest"] for d in checked.data["damaged"]] == [victim.parent.name]
    assert f"damaged: trial {victim.parent.name}: " in call("verify", at=copy).out
    said = call("run", "tiny.yaml", at=copy)
    assert said.code == 0
    assert f"damaged, set aside and computed again: trial {victim.parent.name[:12]}" in said.out
    assert call("verify", at=copy).code == 0


def test_an_interrupt_says_how_to_go_on(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.runner.run_plan", interrupted)
    said = call("run", "tiny.yaml", at=fresh)
    assert said.code == 130
    assert said.err == "interrupted; run the same command to go on\n"


# --- plan, report, ls, verify


def test_plan_lists_the_cells(copy: Path) -> None:
    said = call("plan", "tiny.yaml", at=copy)
    assert said.code == 0
    lines = said.out.splitlines()
    assert len(lines) == CELLS + 1
    assert lines[0].startswith("done  ")
    assert lines[0].endswith("  reference unedited / star")
    assert lines[-1] == f"{CELLS} cells, {CELLS} in the store"
    shutil.rmtree(copy / ".store/trial")
    data = call("plan", "tiny.yaml", "--json", at=copy).data
    assert set(data) == {"suite", "partial", "cells", "done", "warnings"}
    assert (data["suite"], data["partial"], data["done"]) == ("tiny", False, CELLS - 9)
    assert all(set(c) == {"kind", "digest", "title", "done", "taken"} for c in data["cells"])
    assert not any(cell["taken"] for cell in data["cells"])  # nothing was extended
    assert {cell["kind"] for cell in data["cells"] if not cell["done"]} == {"trial"}


def test_plan_narrows(fresh: Path) -> None:
    data = call("plan", "tiny.yaml", "--only", "uce", "--only", "prompts", "--json", at=fresh).data
    assert data["partial"]
    assert [cell["kind"] for cell in data["cells"]] == [
        *("reference", "edit", "utility", *["score"] * 3, "attack", "trial", "score")
    ]


def test_report_repeats_the_files_without_computing(copy: Path) -> None:
    before = {p.name: p.read_bytes() for p in (copy / "results/runs/tiny").iterdir()}
    shutil.rmtree(copy / "results")
    said = call("report", "tiny.yaml", at=copy)
    assert said.code == 0
    first = json.loads(before["provenance.json"])
    looked = first.pop("run")["self_check"]
    assert json.loads((copy / "results/runs/tiny/provenance.json").read_text()) == first
    (origin,) = first["origins"]
    assert (origin["cells"], origin["self_checks"]) == (CELLS, [looked])
    assert origin["versions"]["torch"] == metadata.version("torch")
    assert (origin["device"]["type"], origin["commit"]) == ("cpu", first["commit"])
    for name in FILES - {"provenance.json", "scatter.pdf"}:
        assert (copy / "results/runs/tiny" / name).read_bytes() == before[name], name
    data = call("report", "tiny.yaml", "--json", "--out", "x", at=copy).data
    assert set(data) == {"suite", "out", "missing", "errors", "table", "flags", "worst", "compared"}
    assert (data["suite"], data["out"], data["missing"]) == ("tiny", "x", [])
    written = pd.read_csv(copy / "results/runs/tiny/table.csv")
    told = pd.DataFrame(data["table"])
    for column in ("judge", "method", "concept", "attack"):
        assert told[column].tolist() == written[column].tolist()
    np.testing.assert_allclose(told["asr"].astype(float), written["asr"], rtol=1e-5)


def test_the_report_of_an_unfinished_run_is_a_draft(copy: Path) -> None:
    shutil.rmtree(copy / "results")
    shutil.rmtree(next((copy / ".store/trial").glob("*/*")))
    said = call("report", "tiny.yaml", at=copy)
    assert said.code == 0
    assert "1 cells are not computed yet: run the suite" in said.out
    assert not (copy / "results/runs/tiny").exists()
    assert "PARTIAL" in (copy / "results/drafts/tiny/README.md").read_text()


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("methods", "uce"),
        ("attacks", "random_tokens"),
        ("judges", "mini_judge"),
        ("metrics", "drift"),
        ("suites", "mini-quick"),
        ("concepts", "zorbo"),
    ],
)
def test_ls_lists_by_name(tmp_path: Path, what: str, name: str) -> None:
    said = call("ls", what, at=tmp_path)
    assert said.code == 0
    assert any(line.split()[0] == name for line in said.out.splitlines())
    rows = call("ls", what, "--json", at=tmp_path).data
    assert all(set(row) == {"name", "about"} and row["about"] for row in rows)
    assert len(rows) == len(said.out.splitlines())
    assert not any(tmp_path.iterdir())


def test_ls_lists_the_store(done: tuple[Path, Said]) -> None:
    rows = call("ls", "store", "--json", at=done[0]).data
    assert len(rows) == CELLS + SAMPLES
    assert sum(row["about"].startswith("images of trial ") for row in rows) == 9
    assert "trial none / star / prompts" in {row["about"] for row in rows}


def test_verify_counts_sound_entries(done: tuple[Path, Said]) -> None:
    said = call("verify", at=done[0])
    assert (said.code, said.out) == (0, f"{CELLS + SAMPLES} sound entries, 0 damaged\n")
    assert call("verify", "--json", at=done[0]).data == {"entries": CELLS + SAMPLES, "damaged": []}


# --- what the user got wrong


def write(folder: Path, old: str, new: str) -> str:
    assert old in TINY
    (folder / "bad.yaml").write_text(TINY.replace(old, new))
    return "bad.yaml"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "mini-quik"), "unknown suite 'mini-quik'; did you mean 'mini-quick' or"),
        (("run", "nowhere.yaml"), "expected a file, got nowhere.yaml, which is not there"),
        (("run", "tiny.yaml", "--batch-size", "0"), "--batch-size: expected a number from 1"),
        (("run", "tiny.yaml", "--batch-size", "many"), "or auto, got 'many'"),
        (("run", "tiny.yaml", "--limit", "0"), "--limit: expected at least 1, got 0"),
        (("run", "tiny.yaml", "--device", "gpu"), "--device 'gpu': not usable here ("),
        (("run", "tiny.yaml", "--seed", "-1"), "seed: expected greater than or equal to 0"),
        (("run", "tiny.yaml", "--only", "usce"), "--only 'usce' matches no method, attack or"),
        (("plan", "tiny.yaml", "--only", "usce"), "--only 'usce' matches no method, attack or"),
        (("verify",), "--store .store: no such folder; run a suite first"),
        (("ls", "store", "--store", "no"), "--store no: no such folder; run a suite first"),
        (("run", "tiny.yaml", "--store", "other"), "expected a store or an empty folder"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_two(
    fresh: Path, words: Sequence[str], said: str
) -> None:
    (fresh / "other").mkdir()
    (fresh / "other/file").touch()
    told = call(*words, at=fresh)
    assert told.code == 2
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert told.out == ""
    assert not (fresh / "results").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("goals: 2", "goals: [", "error: bad.yaml:"),
        ("goals: 2", "gaols: 2", "bad.yaml:9: key gaols: unknown key 'gaols'; did you mean 'go"),
        ("[none, ", "[none, uci, ", "bad.yaml:4: key methods[1]: unknown method 'uci'; did you m"),
        (
            "[none, ",
            "[none, checkpoint, ",
            "bad.yaml:4: key methods[1].checkpoint.path: expected t",
        ),
        ("{tries: 2}", "{tries: 0}", "bad.yaml:5: key attacks[1].random_tokens.tries: expected"),
        ("[star]", "[start]", "bad.yaml:2: key concepts[0]: unknown concept 'start'; did you me"),
        ("concepts:", "base: nowhere\nconcepts:", "bad.yaml:2: key base: expected 'miniature'"),
    ],
)
def test_a_wrong_suite_names_the_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    told = call("run", write(tmp_path, old, new), at=tmp_path)
    assert told.code == 2
    assert said in told.err
    assert told.err.count("\n") == 1


BAD = "a small child"
MISSING = {"goal": "g", "prompt": "a", "concept": "star", "states": "states/0"}


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", f"prompt\n{BAD}\n{BAD}\n", "a.csv: no row of it can be tried: 2 rows, 2 withheld"),
        ("a.jsonl", json.dumps({"prompt": "a fish", "concept": "fish"}),
         "a.jsonl: has no row for the concept 'star', but for 'fish'"),
        ("a.csv", "prompt,concept\na star\n", "a.csv:2: the number of fields is not that of the header"),
        ("a.csv", "text\na star\n", "a.csv:1: expected a column named prompt, got text"),
        ("a.jsonl", '{"prompt": 3}', "a.jsonl:1: prompt: expected text, got 3"),
        ("a.jsonl", json.dumps(MISSING), "a.jsonl: its candidates need a.safetensors beside it"),
    ],
)  # fmt: skip
def test_a_bad_row_of_a_file_of_prompts_is_found_before_anything_runs(
    tmp_path: Path, command: str, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    suite = write(tmp_path, "attacks: [", f"attacks: [{{prompts: {{file: {name}}}}}, ")
    told = call(command, suite, at=tmp_path)
    assert told.code == 2
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert told.out == ""
    assert not (tmp_path / ".store").exists()


def test_what_a_plan_leaves_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,seed\na star,1\n{BAD},2\n")
    suite = write(tmp_path, "attacks: [", "attacks: [{prompts: {file: a.csv}}, ")
    told = call("plan", suite, "--json", at=tmp_path)
    lines = [
        "prompts, a.csv: 2 rows, 1 withheld as they may speak of minors: N = 1",
        "prompts, a.csv: sampled as the suite says; draws: file would use seed",
    ]
    assert told.code == 0
    assert told.err.splitlines() == [f"warning: {line}" for line in lines]
    assert json.loads(told.out)["warnings"] == lines


def test_a_file_counts_for_the_concepts_and_attacks_that_are_run(tmp_path: Path) -> None:
    rows = [MISSING | {"concept": "heart"}, {"prompt": "a star"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    suite = write(tmp_path, "attacks: [", "attacks: [{prompts: {file: a.jsonl}}, ")
    assert call("plan", suite, at=tmp_path).code == 0  # of hearts nothing is tried
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": BAD}))
    assert call("plan", suite, "--only", "seed_search", at=tmp_path).code == 0


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_does_not_suit_the_base_is_neither_planned_nor_run(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "base").mkdir()
    for part in model_folder().iterdir():
        if part.name not in ("clip", "SHA256SUMS"):
            (tmp_path / "base" / part.name).symlink_to(part)
    told = call(command, write(tmp_path, "concepts:", "base: base\nconcepts:"), at=tmp_path)
    assert told.code == 2
    assert told.err.startswith(
        "error: clip_zero_shot.clip: expected the source of a CLIP, got none"
    )
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert not (tmp_path / ".store").exists()


@pytest.mark.parametrize(
    "words", [("run", "--limit", "abc"), ("nosuch",), ("ls", "widgets"), ("run", "--colour")]
)
def test_words_that_do_not_parse_are_exit_code_two(tmp_path: Path, words: Sequence[str]) -> None:
    assert call(*words, at=tmp_path).code == 2


def test_the_module_runs_and_help_loads_no_torch() -> None:
    version = subprocess.run(
        [sys.executable, "-m", "bench", "--version"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert version.stdout.strip() == bench.__version__
    code = (
        "import bench.cli.main, sys; bench.cli.main.app('--help', result_action='return_value'); "
    )
    code += "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    assert all(name in shown.stdout for name in ("plan", "run", "report", "ls", "verify", "mini"))


# --- progress


def one_cell() -> Cell:
    return make_plan(load_suite("mini-quick"), "0" * 64).cells[0]


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    told = StringIO()
    watcher = watcher_for(Console(file=told, width=40))
    assert isinstance(watcher, PlainWatcher)
    cell = one_cell()
    watcher.begin(2, 5)
    watcher.cell(cell, 0)
    watcher.step(1, 2, "sampling")  # too soon for a line
    monkeypatch.setattr("bench.cli.progress._PLAIN_EVERY_S", -1.0)
    watcher.step(2, 2, "sampling")
    watcher.done(cell, 1.5)
    watcher.cell(cell, 1)
    watcher.failed(cell, ValueError("[b]no[/b]"))
    watcher.stop()
    lines = told.getvalue().splitlines()
    assert lines[0] == "5 cells, 3 already in the store"
    assert lines[1].startswith("  [1/2] reference unedited / star: sampling 2/2")
    assert lines[2].startswith("[1/2] reference unedited / star  1.5 s, about ")
    assert lines[3] == "[2/2] FAILED reference unedited / star: ValueError: [b]no[/b]"
    assert len(lines) == 4


AT_WORK = [
    AtWork("edit a", 3, 10, "steps"), AtWork("edit b"), *(AtWork(f"trial [{n}]", n, 9) for n in range(3)),
]  # fmt: skip


def test_plain_lines_tell_now_and_then_of_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    told = StringIO()
    watcher = PlainWatcher(Console(file=told, width=40))
    watcher.begin(9, 9)
    watcher.at_work(AT_WORK)  # too soon for a line
    monkeypatch.setattr("bench.cli.progress._PLAIN_EVERY_S", -1.0)
    watcher.at_work(AT_WORK)
    watcher.at_work([])
    watcher.unseated(1, 3)
    assert told.getvalue().splitlines()[1:] == [
        "  [0/9] 5 at work: edit a 3/10; edit b; trial [0] 0/9; trial [1] 1/9 and 1 more",
        "  [0/9] workers begin",
        "1 of 3 workers find no place in the cluster yet; they begin when there is one",
    ]


def test_one_bar_on_a_terminal_adds_up_several_workers() -> None:
    told = StringIO()
    watcher = watcher_for(Console(file=told, force_terminal=True, width=140))
    watcher.begin(9, 9)
    watcher.at_work(AT_WORK)
    watcher.unseated(1, 3)
    watcher.stop()
    bar = next(line for line in plain(told).splitlines() if "5 at work" in line)
    assert " 6/37 " in bar  # of the four that know how far they are
    assert "edit a 3/10; edit b and 3 more" in bar
    assert "1 of 3 workers find no place in the cluster yet" in plain(told)


def test_bars_on_a_terminal_take_no_name_for_markup() -> None:
    told = StringIO()
    watcher = watcher_for(Console(file=told, force_terminal=True, width=100))
    assert isinstance(watcher, LiveWatcher)
    plan = make_plan(load_suite("mini-quick"), "0" * 64)
    cell = next(c for c in plan.cells if c.title == "edit uce[repo-2023] / star")
    watcher.begin(1, 2)
    watcher.cell(cell, 0)
    watcher.step(1, 2, "sampling")
    watcher.failed(cell, ValueError("expected [/red] or [1, 2]"))
    watcher.done(cell, 0.1)
    watcher.stop()
    assert "2 cells, 1 already in the store" in plain(told)
    assert "edit uce[repo-2023] / star: ValueError: expected [/red] or [1, 2]" in plain(told)
    assert "edit uce[repo-2023] / star ━" in plain(told)  # the bar


def plain(told: StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.getvalue())


# --- from Python


def test_the_readmes_lines_work(tmp_path: Path, done: tuple[Path, Said]) -> None:
    model = load_model()
    edited = erase(model, "star", "uce")
    candidates = attack(edited, "star", "random_tokens", sampler=Sampler(steps=2), limit=2)
    assert [c.goal for c in candidates] == ["name-000", "name-001"]
    edited.to_diffusers().save_pretrained(tmp_path / "edited")
    again = load_model(str(tmp_path / "edited"))
    name = next(iter(edited.weights))
    assert again.parameter(name).equal(edited.parameter(name))
    table = evaluate(done[0] / "tiny.yaml", store=done[0] / ".store")
    assert list(table.columns) == TABLE.names


def test_an_edit_from_python_changes_nothing_in_the_model(model: TextToImage) -> None:
    name = "unet.conv_out.weight"
    before = model.parameter(name).clone()
    edited = erase(model, ["star", "zorbo"], "destroyed", seed=1)
    assert not edited.parameter(name).equal(before)
    assert model.parameter(name).equal(before)
    assert erase(model, "star", "destroyed", seed=1).parameter(name).equal(edited.parameter(name))
    assert not erase(model, "star", "destroyed").parameter(name).equal(edited.parameter(name))


def test_attack_takes_the_users_own_prompts(model: TextToImage) -> None:
    found = attack(model, "star", "prompts", prompts=["a thing", "one"])
    assert [(c.goal, c.prompt) for c in found] == [("given-000", "a thing"), ("given-001", "one")]


def test_wrong_words_from_python_are_usage_errors(model: TextToImage) -> None:
    with pytest.raises(UsageError, match=r"unknown method 'uci'; did you mean 'uce'\?"):
        erase(model, "star", "uci")
    for lacking in ("checkpoint", {"checkpoint": {"sha256": "0" * 64}}, Checkpoint()):
        with pytest.raises(UsageError, match=r"^checkpoint\.path: expected this key, got none"):
            erase(model, "star", lacking)
    with pytest.raises(UsageError, match="unknown attack 'promts'"):
        attack(model, "star", "promts")
    with pytest.raises(UsageError, match="no prompts for 'dragon'"):
        attack(model, Concept(text="dragon"), "prompts")
    with pytest.raises(UsageError, match="unknown suite"):
        evaluate("mini-quik")


def test_evaluate_adds_a_method_and_names_the_first_failure(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(copy))
    (copy / "another_plugin.py").write_text(RAISES)
    words: dict[str, Any] = {"store": copy / ".store", "only": ["mine", "prompts"]}
    with pytest.raises(
        RuntimeError, match=r"cells failed: 1, blocked: 7; the first: edit mine / star"
    ):
        evaluate(copy / "tiny.yaml", methods=["another_plugin:Mine"], **words)
    table = evaluate(copy / "tiny.yaml", methods=["negative_prompt"], **words | {"only": ["neg*"]})
    assert set(table["method"]) == {"negative_prompt"}
    assert len(Store(copy / ".store").failures("edit", "0" * 64)) == 0


def test_every_shipped_suite_plans(tmp_path: Path) -> None:
    for name in suite_names():
        if load_suite(name).base not in MINIATURES:
            continue  # its judges' weights are the user's: tests/bench/rehearse plans it with stand-ins
        assert make_plan(load_suite(name), "0" * 64).cells


def test_the_batch_is_as_large_as_the_device_is_used_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [request.batch_of("auto", d) for d in ("cpu", "cuda", "cuda:1")] == [64, 256, 256]
    assert request.batch_of("7", "cpu") == 7


@pytest.mark.parametrize("asked", [False, True])
def test_networks_are_compiled_where_it_is_asked_for(asked: bool) -> None:
    files, made, _ = request.planned("mini-quick", (), None, None, code="installed")
    base = load_base(files, made.suite.dtype, Runtime(device="cpu", compiled=asked))
    assert base.backbone.compiled == asked
    networks = (base.backbone.unet, base.backbone.vae.decoder)
    assert [is_compiled(n) for n in networks] == [asked, asked]
    assert not is_compiled(base.backbone.text_encoder)
    assert not is_compiled(base.to_diffusers().unet)  # an ordinary pipeline
