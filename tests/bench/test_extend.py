"""A run on top of a published report: what it takes over is the same to the byte, and it computes the rest alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.api import erase, evaluate
from bench.cli.main import main
from bench.config.suite import SUITES, load_suite
from bench.core.errors import UsageError
from bench.extend.cards import cards_in
from bench.extend.extension import extension
from bench.leaderboard.published_run import read_run
from bench.model.pipeline.inspect import inspect_base
from bench.model.text_to_image import TextToImage
from bench.publish import Asked, publish
from bench.report.grid_names import earlier_name
from bench.run.messages import Job
from bench.run.plan import Plan, make_plan
from bench.run.store import Store
from bench.run.workbench import plan_of, same_plan
from bench.tables.schema import BUDGET
from tests.bench.leaderboard.boards import RESULTS, planted, write
from tests.tiny import SUITE

FIRST, SECOND, THIRD = ("a" * 40, "b" * 40, "c" * 40)
DERIVED = ("table.csv", "worst.csv", "flags.csv", "sweep.csv")
Commit = Callable[[str], None]


@cache
def planned(source: str | Path) -> Plan:
    suite = load_suite(str(source))
    base = inspect_base(suite.base, commit=suite.revision)
    return make_plan(suite, base.digest, folder=base.folder)


def done(*words: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def ran(suite: Path, store: Path, out: Path, *words: str) -> int:
    return done("run", str(suite), "--store", str(store), "--out", str(out), *words)


@pytest.fixture
def commit(monkeypatch: pytest.MonkeyPatch) -> Commit:
    """Says at which commit reports are made: a clean one, whatever the working tree is."""

    def at(name: str) -> None:
        monkeypatch.setattr("bench.publish.commit", lambda: {"commit": name, "dirty": False})

    return at


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The smallest suite, with one method more in each."""
    made, folder = [], tmp_path_factory.mktemp("suites")
    for number, more in enumerate(("", ", negative_prompt", ", negative_prompt, uce")):
        path = folder / f"suite{number}.yaml"
        path.write_text(SUITE.replace("destroyed]", f"destroyed{more}]"), encoding="utf-8")
        made.append(path)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the cells of the first suite, once :func:`first` ran."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, suites: list[Path], store: Path) -> Path:
    """A final report of the first suite; take ``report``, which may be changed."""
    out = tmp_path_factory.mktemp("reports") / "first"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.publish.commit", lambda: {"commit": FIRST, "dirty": False})
        assert ran(suites[0], store, out) == 0
    return out


@pytest.fixture
def report(first: Path, tmp_path: Path) -> Path:
    """A copy of the first suite's report."""
    return Path(shutil.copytree(first, tmp_path / "report"))


def test_a_report_of_what_is_taken_whole_has_the_same_bytes(tmp_path: Path) -> None:
    """With an empty store: nothing but the page and the stamp of a draft may differ."""
    plan = planned("mini-quick")
    there = RESULTS / "mini-quick"
    found = extension(plan, there)
    assert not found.rest.cells
    out = tmp_path / "out"
    publish(plan, Store(tmp_path / "store"), Asked("mini-quick"), folder=out, extended=found)
    stamped = {"README.md", "index.html", "provenance.json"}
    drawn = {path.name for path in there.iterdir() if path.suffix in (".png", ".pdf")}
    names = {path.name for path in there.iterdir()}
    commit = found.run.provenance["commit"]
    grids = {name: earlier_name(name, commit) for name in names if name.startswith("grid-")}
    kept = names - grids.keys()
    written = kept | set(grids.values()) | {"measures.csv"}  # the report is older than that
    assert written == {path.name for path in out.iterdir()}
    for name, new in grids.items():
        assert (there / name).read_bytes() == (out / new).read_bytes()
    seen = set(pictures_of(there))
    assert set(pictures_of(out)) == seen and len(seen) > 200
    exact = kept - stamped - drawn
    assert {"trials.parquet", "candidates.jsonl", "candidates.safetensors", "cells.csv"} <= exact
    for name in exact:
        if name.endswith(".parquet"):  # another version of the library writes other bytes
            left, right = (pd.read_parquet(folder / name) for folder in (there, out))
            pd.testing.assert_frame_equal(left, right)
        elif name == "cells.csv":  # the report is older than its column of what was reused
            cells = pd.read_csv(out / name, keep_default_na=False, dtype=str)
            assert set(cells.pop("reused_seconds")) == {""}
            older = cells.to_csv(index=False, lineterminator="\n").encode()
            assert (there / name).read_bytes() == older
        else:
            assert (there / name).read_bytes() == (out / name).read_bytes(), name


def test_a_run_computes_the_new_lines_alone_and_says_where_the_others_are_from(
    tmp_path: Path,
    suites: list[Path],
    first: Path,
    store: Path,
    commit: Commit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two, whole = tmp_path / "two", tmp_path / "whole"
    commit(SECOND)
    assert ran(suites[2], store, whole) == 0
    capsys.readouterr()
    assert ran(suites[1], tmp_path / "store2", two, "--extend", str(first), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["computed"], told["cached"]) == (1 + 13, 0)  # a reference, and one line
    commit(THIRD)
    assert ran(suites[2], tmp_path / "store3", two, "--extend", str(two)) == 0
    for name in DERIVED:
        assert _but_costs(whole / name) == _but_costs(two / name), name
    for name in ("trials", "utility"):
        left, right = (pd.read_parquet(f / f"{name}.parquet") for f in (whole, two))
        pd.testing.assert_frame_equal(left, right)
    about = json.loads((two / "provenance.json").read_text())
    assert [(part["commit"], part["lines"]) for part in about["parts"]] == [
        (FIRST, [["destroyed", "star", 0], ["none", "star", 0]]),
        (SECOND, [["negative_prompt", "star", 0]]),
    ]
    origins = [part["origins"] for part in about["parts"]]
    assert origins[0] == json.loads((first / "provenance.json").read_text())["origins"]
    assert sum(one["cells"] for one in origins[1]) == 1 + 13
    assert "--extend" in about["command"]
    run = read_run(two)
    assert [run.commit_of(m) for m in ("none", "negative_prompt", "uce")] == [FIRST, SECOND, THIRD]
    grids = ["grid-star.png", *(f"grid-star.{one[:12]}.png" for one in (FIRST, SECOND))]
    assert sorted(path.name for path in two.glob("grid-*")) == sorted(grids)
    assert (two / grids[1]).read_bytes() == (first / "grid-star.png").read_bytes()
    assert sorted(pictures_of(two)) == sorted(pictures_of(whole))
    page = (two / "README.md").read_text(encoding="utf-8")
    assert f"computed at commit {SECOND[:12]}, and taken over: negative" in page
    assert all(f"]({name})" in page for name in grids)


def pictures_of(folder: Path) -> list[str]:
    """The pictures of a report's page with all that it says of them, a text each."""
    rows = pd.read_parquet(folder / "trials.parquet")
    found = cards_in(folder / "index.html", rows[rows["judge"] == rows["judge"].iloc[0]])
    return [str(card) for card in found]


def _but_costs(path: Path) -> bytes:
    """A file's bytes without the seconds of edits, which no two runs share."""
    frame = pd.read_csv(path)
    kept = [c for c in frame.columns if "seconds" not in c and "memory" not in c]
    return frame[kept].to_csv(index=False).encode()


def test_a_report_of_something_else_is_refused(suites: list[Path], report: Path) -> None:
    plan = planned(suites[1])
    with pytest.raises(UsageError, match="and the report does not have it"):
        extension(planned("mini-quick"), report)
    about = json.loads((report / "provenance.json").read_text())

    def refused(said: str, **changes: Any) -> None:
        (report / "provenance.json").write_text(json.dumps(about | changes))
        with pytest.raises(UsageError, match=said):
            extension(plan, report)

    refused("got a draft", dirty=True)
    refused("1 cells failed", failed=["attack none"])
    line = ["none", "star", 0]
    for parts in ("none", ["none"], [{"commit": "f00", "lines": [line]}], [{"commit": FIRST}],
                  [{"commit": FIRST, "lines": [["none", "star"]]}]):  # fmt: skip
        refused("expected parts, each with a commit", parts=parts)
    refused("expected the seed", seed=3)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("trials", lambda rows: rows.iloc[1:], "candidates from 0 on"),
        ("trials", lambda rows: rows.assign(image_seed=7), "held-out seed"),
        ("utility", lambda rows: rows.iloc[1:], "prompts and seeds"),
        ("edits", lambda rows: rows.iloc[1:], "no such edit"),
    ],
)
def test_rows_that_are_not_the_plans_are_refused(
    suites: list[Path], report: Path, name: str, change: Any, said: str
) -> None:
    path = report / f"{name}.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    with pytest.raises(UsageError, match=said):
        extension(planned(suites[0]), report)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("cells.csv", ",0,", ",nought,"),
        ("candidates.jsonl", '"states": "states/', '"states": "states/x'),
        ("candidates.jsonl", '"states": "states/', '"states": ["'),
        ("candidates.safetensors", "", "no tensors"),
        ("index.html", "data:image/webp;base64,", "https://example.org/"),
        ("index.html", "</body>", "<![0 ]></body>"),
        ("index.html", '<table id="pictures"', "<!-- <table"),
        ("cells.csv", ",none,none,star,0,prompts,,0.", ",none,none,star,0,prompts,,inf"),
        ("grid-star.png", "", "no picture"),
        ("candidates.jsonl", '"own_score": ', '"own_score": 1' + 400 * "0"),
        ("index.html", '<td class="prompt">', '<td></td><td class="prompt">'),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, old: str, new: str) -> None:
    report = planted(tmp_path / "results").run
    shutil.copyfile(RESULTS / "mini-quick" / "index.html", report / "index.html")
    path = report / name
    data = path.read_bytes()
    changed = data.replace(old.encode(), new.encode(), 1) if old else new.encode()
    assert changed != data
    write(path, changed)
    with pytest.raises(UsageError, match=re.escape(name)) as error:
        extension(planned("mini-quick"), report)
    assert "\n" not in str(error.value)


def test_curves_that_are_none_are_one_line(suites: list[Path], report: Path) -> None:
    head = ",".join(BUDGET.names)
    line = ",".join("0" if column.dtype != "str" else "own" for column in BUDGET.columns)
    more = line.replace("own,0,0,0,0,0,", "own,0,0,0,1,2,")
    assert more != line
    for text in ("", "view\nown\n", "\x00\xff", f"{head}\n{line}\n{more}\n"):
        (report / "budget.csv").write_text(text)
        with pytest.raises(UsageError, match=r"budget\.csv"):
            extension(planned(suites[0]), report)


def test_a_concept_more_is_computed_of_every_method(
    tmp_path: Path, suites: list[Path], report: Path
) -> None:
    wider = tmp_path / "wider.yaml"
    wider.write_text(suites[0].read_text().replace("[star]", "[star, zorbo]"))
    found = extension(planned(wider), report)
    assert {cell.concept.text for cell in found.rest.cells} == {"zorbo"}
    assert "none (in part)" in found.remarks[0]
    assert found.taken.unpooled == {"none", "destroyed"}
    assert set(found.run.commits()) == {("none", "star", 0), ("destroyed", "star", 0)}


def test_a_line_that_lacks_a_cell_is_computed(
    tmp_path: Path, suites: list[Path], report: Path
) -> None:
    """An attack more is cells more of each line: none is taken. One cell less, and its line is not."""
    cells = pd.read_csv(report / "cells.csv", keep_default_na=False, dtype=str)
    lost = cells.index[(cells["method"] == "destroyed") & (cells["kind"] == "attack")][0]
    cells.drop(index=lost).to_csv(report / "cells.csv", index=False)
    found = extension(planned(suites[0]), report)
    assert {cell.method_label for cell in found.rest.cells} == {"destroyed", ""}
    assert set(found.run.trials["method"]) == {"none"}
    wider = tmp_path / "wider.yaml"
    wider.write_text(suites[0].read_text().replace("tries: 1}}]", "tries: 1}}, noise_probe]"))
    with pytest.raises(UsageError, match="'attack none / star / noise_probe', and the report does"):
        extension(planned(wider), report)


def test_a_line_with_transfers_is_computed_with_all_that_it_needs(
    tmp_path: Path, suites: list[Path], report: Path
) -> None:
    moving = tmp_path / "moving.yaml"
    moving.write_text(suites[0].read_text() + "transfer: [random_tokens]\n")
    plan = planned(moving)
    moved = {c.method_label for c in plan.cells if c.source_label not in ("", c.method_label)}
    assert moved == {"none", "destroyed"}
    with pytest.raises(UsageError, match="leave it out"):
        extension(plan, report)


def test_the_command_line_says_what_is_there(
    tmp_path: Path, suites: list[Path], report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(suites[1]), "--store", str(tmp_path / "other"), "--extend"]
    assert done(*words, str(report)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"40 cells, 26 in the store or in {report}" in said
    assert done(*words, str(tmp_path / "nowhere")) == 2


def test_a_model_of_ones_own_is_computed_alone(
    tmp_path: Path, suites: list[Path], report: Path, miniature: TextToImage
) -> None:
    edited = erase(miniature, "star", "uce")
    table = evaluate(suites[0], methods=[("mine", edited)], store=tmp_path / "other", extend=report)
    assert set(table["method"]) == {"none", "destroyed", "mine"}
    kept = [path.name for path in (tmp_path / "other" / "edit").rglob("edit.json")]
    assert len(kept) == 1


def test_workers_know_the_plan_that_a_rest_is_cut_from(suites: list[Path], report: Path) -> None:
    found = extension(planned(suites[1]), report)
    about = found.plan.suite.file.model_dump(mode="json")
    job = Job(suite=about, cells=same_plan(found.rest.laid_out))
    there, _ = plan_of(job)
    assert {cell.digest for cell in found.rest.cells} < {cell.digest for cell in there.cells}


def test_curves_are_taken_only_where_they_pool_what_is_taken(tmp_path: Path) -> None:
    """They pool all concepts and attacks of a method; a suite may ask for less."""
    whole = RESULTS / "mini-full"
    every = extension(planned(whole_suite(tmp_path)), whole).taken.looks
    assert {"p4d", "unlearn_diff_atk"} == set(every["line"]) and set(every["n"]) == {36}
    fewer = whole_suite(tmp_path, ("[star, zorbo, watercolour]", "[star]"))
    assert not len(extension(planned(fewer), whole).taken.looks)
    less = whole_suite(tmp_path, ("  - p4d:", "  # - p4d:"))
    assert set(extension(planned(less), whole).taken.looks["line"]) == set(every["line"]) - {"p4d"}


def whole_suite(folder: Path, *changes: tuple[str, str]) -> Path:
    """A file of mini-full with two of its methods, after changes to its text."""
    text = (SUITES / "mini-full.yaml").read_text(encoding="utf-8")
    head, rest = text.split("methods:")
    attacks = rest[rest.index("attacks:") :]
    text = f"{head}methods: [none, destroyed]\n{attacks}"
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / f"whole-{len(list(folder.iterdir()))}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_grid_is_left_out_where_one_of_its_rows_is_computed_anew(
    tmp_path: Path, suites: list[Path], first: Path, store: Path, commit: Commit
) -> None:
    """It would show the method as it was before, under the same name."""
    named = [tmp_path / f"{preset}.yaml" for preset in ("repo-2023", "repo-2025")]
    for path in named:
        entry = f"destroyed, uce: {{preset: {path.stem}, as: mine}}]".replace("uce:", "{uce:") + "}"
        text = suites[0].read_text().replace("destroyed]", entry.replace("]}", "}]"))
        path.write_text(text, encoding="utf-8")
    commit(SECOND)
    assert ran(named[0], store, tmp_path / "mine") == 0
    same, other = (extension(planned(path), tmp_path / "mine") for path in named)
    assert [grid.name for grid in same.taken.grids] == [f"grid-star.{SECOND[:12]}.png"]
    assert {cell.method_label for cell in other.rest.cells} == {"mine", ""}
    assert not other.taken.grids and {card.method for card in other.taken.cards} == {
        "none",
        "destroyed",
    }


def test_a_link_is_no_grid(tmp_path: Path, suites: list[Path], report: Path) -> None:
    grid = report / "grid-star.png"
    secret = tmp_path / "secret.png"
    grid.rename(secret)
    grid.symlink_to(secret)
    with pytest.raises(UsageError, match="got a link"):
        extension(planned(suites[0]), report)


def test_a_draft_does_not_take_the_place_of_what_it_extends(
    tmp_path: Path, suites: list[Path], report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.publish.commit", lambda: {"commit": SECOND, "dirty": True})
    before = (report / "provenance.json").read_bytes()
    assert ran(suites[1], tmp_path / "other", report, "--extend", str(report)) == 2
    assert (report / "provenance.json").read_bytes() == before
