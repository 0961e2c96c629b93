"""A run computes what the store lacks; failures, damage and SIGKILL cost no more than they must."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bench.config.suite import Suite, load_suite
from bench.core.digest import canonical_json, file_sha256
from bench.core.errors import UsageError
from bench.core.shipped import clip_folder
from bench.model.text_to_image import TextToImage
from bench.publish import Asked, publish
from bench.run.cells import OfAttack, OfMethod
from bench.run.collect import collect
from bench.run.plan import Cell, Plan, make_plan
from bench.run.runner import Outcome, Watcher, run_plan
from bench.run.store import Entry, Store
from bench.run.traces import SEARCH, TRACE, traces_of, with_traces
from bench.tables.schema import CELLS as CELLS_SCHEMA
from bench.tables.tables import summarise
from methods.few_shot import FewShot
from methods.uce import UCE
from tests.forks import FORKABLE
from tests.tiny_bases import with_settings

ROOT = Path(__file__).parents[3]
FIELDS: dict[str, Any] = {
    "name": "tiny",
    "concepts": ["star"],
    "sampler": {"steps": 1, "guidance_scale": 3.0},
    "methods": ["none", "destroyed", {"uce": {"preset": "repo-2023"}}],
    "attacks": ["prompts", {"random_tokens": {"tries": 2}}, {"seed_search": {"tries": 2}}],
    "judges": ["mini_judge"],
    "surrogate": "clip_zero_shot",
    "metrics": ["accuracy", "clip_score", "drift"],
    "goals": 2,
    "utility": {"neighbours": 2, "others": 2},
    "keep_images": 2,
}
CELLS = 1 + 3 * (2 + 3 + 3 * 3)
"""A reference; of each method an edit, utility with three metrics, three attacks with trial and score."""
SAMPLES = 1 + 3 * (1 + 3)
TIMES = ["edit_seconds", "edit_memory_mb"]  # measured: no two runs agree
NUMBERS = count()
ASKED = Asked("tiny.yaml")


def suite(**changes: Any) -> Suite:
    return load_suite("mini-quick").with_(**{**FIELDS, **changes})


def plan_of(base: TextToImage, only: tuple[str, ...] = (), **changes: Any) -> Plan:
    return make_plan(suite(**changes), base.backbone.digest, only=only)


def table_of(plan: Plan, store: Store) -> pd.DataFrame:
    found = collect(plan, store)
    return summarise(found.trials, found.utility, edits=found.edits, suite=plan.suite.name)


def cell_of(plan: Plan, kind: str, method: str, attack: str | None = None) -> Cell:
    for cell in plan.cells:
        named = isinstance(cell, OfMethod) and cell.method.name == method
        tried = cell.attack.name if isinstance(cell, OfAttack) else None
        if cell.kind == kind and named and tried == attack:
            return cell
    raise LookupError(f"{kind} {method} {attack}")


class Heard(Watcher):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.steps = 0

    def begin(self, todo: int, total: int) -> None:
        self.events.append(f"begin {todo}/{total}")

    def cell(self, cell: Cell, number: int) -> None:
        self.events.append(f"cell {number}")

    def step(self, done: int, total: int, what: str) -> None:
        assert 0 <= done <= total
        self.steps += 1

    def done(self, cell: Cell, seconds: float) -> None:
        self.events.append(f"done {cell.kind}")

    def failed(self, cell: Cell, error: BaseException) -> None:
        self.events.append(f"failed {cell.kind}")


@pytest.fixture(scope="module")
def finished(
    miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, Path, Outcome]:
    """A finished run; copy its store before you change it."""
    plan, root = plan_of(miniature), tmp_path_factory.mktemp("finished")
    return plan, root, run_plan(plan, Store(root), miniature)


@pytest.fixture(scope="module")
def table(finished: tuple[Plan, Path, Outcome]) -> pd.DataFrame:
    """Its table without what was measured of time and memory."""
    plan, root, _ = finished
    return table_of(plan, Store(root)).drop(columns=TIMES)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh module for plug-ins, importable by the name of the file."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / f"plugin_{os.getpid()}_{next(NUMBERS)}.py"
    yield path
    sys.modules.pop(path.stem, None)


def write_method(path: Path, body: str) -> dict[str, Any]:
    """Writes a method whose ``erase`` has the body; returns the suite's list of methods."""
    code = """
    from typing import ClassVar
    import torch
    from bench.interfaces import Erasure

    class Mine(Erasure):
        name: ClassVar[str] = "mine"
        slots: ClassVar[frozenset] = frozenset({"weights"})

        def parameters(self, model):
            return ["unet.conv_out.bias"]

        def erase(self, model, concepts, ctx):
            name = "unet.conv_out.bias"
    """
    path.write_text(textwrap.dedent(code) + textwrap.indent(textwrap.dedent(body), " " * 8) + "\n")
    importlib.invalidate_caches()
    return {"methods": ["none", "destroyed", f"{path.stem}:Mine"]}


# --- what an edit cost


def test_the_cost_of_an_edit_reaches_the_table_and_the_page(
    miniature: TextToImage, tmp_path: Path
) -> None:
    # 2 epochs of 3 images by 2: 4 steps. Both layers of every feed-forward and the last attention.
    few_shot = {"few_shot": {"images": 3, "epochs": 2, "batch_size": 2, "lr": 1e-3}}
    plan = plan_of(
        miniature, only=("few_shot", "none", "prompts"), methods=["none", "destroyed", few_shot]
    )
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    table = table_of(plan, store)
    costs = table.drop_duplicates("method").set_index("method").to_dict("index")
    free = costs.pop("none")
    (mine,) = costs.values()
    counted = ("edit_images", "edit_gradient_steps", "parameters_touched")
    assert [free[name] for name in counted] == [0, 0, 0]
    assert [mine[name] for name in counted[:2]] == [3, 4]
    trained = sum(miniature.parameter(n).numel() for n in FewShot().parameters(miniature))
    assert 0.9 * trained < mine["parameters_touched"] <= trained
    assert mine["edit_seconds"] > free["edit_seconds"] > 0
    assert mine["edit_memory_mb"] > 100
    page = (
        publish(plan, store, ASKED, folder=tmp_path / "report").folder / "README.md"
    ).read_text()
    _, _, section = page.partition("## Cost of the edits")
    line = next(x for x in section.splitlines() if x.startswith("| few"))
    touched = f"{mine['parameters_touched']:,}"
    assert [cell.strip() for cell in line.split("|")[4:7]] == ["3", "4", touched]


# --- once and never again


def test_a_run_computes_every_cell(finished: tuple[Plan, Path, Outcome]) -> None:
    plan, root, outcome = finished
    assert (outcome.computed, outcome.cached, outcome.failed) == (CELLS, 0, [])
    assert len(plan.cells) == CELLS
    kinds = Counter(entry.kind for entry in Store(root).entries())
    assert kinds.pop("images") == SAMPLES
    assert kinds == Counter(cell.kind for cell in plan.cells)
    assert 0 < outcome.model_seconds < outcome.seconds
    assert 0 < outcome.overhead < 1
    assert not any((root / "tmp").iterdir())


def test_a_second_run_computes_nothing(
    finished: tuple[Plan, Path, Outcome], miniature: TextToImage
) -> None:
    plan, root, _ = finished
    before = table_of(plan, Store(root))
    stamps = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    again = run_plan(plan, Store(root), miniature)
    assert (again.computed, again.cached, again.model_seconds) == (0, CELLS, 0)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == stamps
    assert_frame_equal(table_of(plan, Store(root)), before)


def test_two_stores_hold_the_same_rows(
    finished: tuple[Plan, Path, Outcome], miniature: TextToImage, tmp_path: Path
) -> None:
    plan, root, _ = finished
    run_plan(plan, Store(tmp_path), miniature)
    for cell in (c for c in plan.cells if c.kind in ("trial", "utility", "score")):
        one, other = (Store(r).find(cell.kind, cell.digest) for r in (root, tmp_path))
        assert one is not None
        assert other is not None
        assert one.files["rows.parquet"] == other.files["rows.parquet"]


def test_a_watcher_hears_every_cell(miniature: TextToImage, tmp_path: Path) -> None:
    plan, heard = plan_of(miniature, only=("none", "prompts")), Heard()
    run_plan(plan, Store(tmp_path), miniature, heard)
    assert heard.events[0] == "begin 9/9"
    assert heard.events[1:3] == ["cell 0", "done reference"]
    assert len(heard.events) == 1 + 2 * 9
    assert heard.steps >= 3


def test_the_table_has_a_line_for_every_method_attack_and_set(
    finished: tuple[Plan, Path, Outcome],
) -> None:
    plan, root, _ = finished
    table = table_of(plan, Store(root))
    assert set(table["method"]) == {"none", "destroyed", "uce[repo-2023]"}
    assert set(table["concept"]) == {"star", "all"}
    assert (table["n"] + table["errors"] + table["abstained"] == table["attempted"]).all()
    assert not table["errors"].any()
    found = collect(plan, Store(root))
    assert (found.missing, found.failed) == ([], [])
    assert set(found.pictures) == {"star"}
    assert all(image.shape == (64, 64, 3) for images in found.pictures["star"].values()
               for image in images)  # fmt: skip
    assert 0 < found.seconds[0] < found.seconds[1]


def test_the_attacks_own_view_goes_with_the_surrogates_threshold(
    finished: tuple[Plan, Path, Outcome],
) -> None:
    plan, root, _ = finished
    never = plan.surrogate.model_copy(update={"threshold": 1.5})
    for surrogate, threshold in ((plan.surrogate, 0.5), (never, 1.5)):
        with_it = replace(plan, surrogate=surrogate)  # the cells stay, so the rows are the same
        trials = collect(with_it, Store(root)).trials
        assert set(trials["own_threshold"]) == {threshold}
        assert set(trials["threshold"]) == {0.5}
    own = table_of(with_it, Store(root))["own_asr"].dropna()
    assert len(own)
    assert not own.any()


def test_entries_say_how_they_were_made(finished: tuple[Plan, Path, Outcome]) -> None:
    plan, root, _ = finished
    for cell in plan.cells:
        entry = Store(root).find(cell.kind, cell.digest)
        assert entry is not None
        record: Any = entry.record
        assert record["title"] == cell.title
        assert record["parents"] == cell.parents
        assert record["timing"]["seconds"] >= record["timing"]["model_seconds"] >= 0
        assert record["provenance"]["base"] == plan.base


def test_the_time_and_memory_of_every_cell_are_published(
    finished: tuple[Plan, Path, Outcome], tmp_path: Path
) -> None:
    plan, root, _ = finished
    cells = publish(plan, Store(root), ASKED, folder=tmp_path).found.cells
    assert sorted(cells["digest"]) == sorted({c.digest for c in plan.cells})
    assert cells["kind"].value_counts().to_dict() == {
        **{"reference": 1, "edit": 3, "utility": 3, "attack": 9, "trial": 9, "score": 9 + 9}
    }
    assert (cells["peak_memory_mb"] > 10).all()  # the networks alone are more
    assert (cells["seconds"] > 0).all()
    written = pd.read_csv(tmp_path / "cells.csv", keep_default_na=False)
    assert list(written) == CELLS_SCHEMA.names
    assert len(written) == CELLS
    attack = written[(written["kind"] == "attack") & (written["attack"] == "seed_search")]
    assert set(attack["method"]) == set(attack["source"]) == {"none", "destroyed", "uce[repo-2023]"}
    scores = written[written["kind"] == "score"]
    assert set(scores["scored_by"]) == {"mini_judge", "accuracy", "clip_score", "drift"}
    assert set(written.loc[written["kind"] != "score", "scored_by"]) == {""}
    page = (tmp_path / "README.md").read_text()
    assert re.search(r"The largest peak of memory .* attack \d+ MiB, trial \d+ MiB", page)


def test_cells_stored_before_memory_was_recorded_have_none(
    finished: tuple[Plan, Path, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, root, _ = finished
    found = Store.read

    def older(self: Store, kind: str, digest: str) -> Entry | None:
        entry = found(self, kind, digest)
        assert entry is not None
        record: Any = json.loads(json.dumps(entry.record))
        del record["timing"]["peak_memory_mb"]
        return replace(entry, record=record)

    monkeypatch.setattr(Store, "read", older)
    assert (
        publish(plan, Store(root), ASKED, folder=tmp_path)
        .found.cells["peak_memory_mb"]
        .isna()
        .all()
    )
    assert "largest peak" not in (tmp_path / "README.md").read_text()


def test_an_interrupt_ends_the_run_between_cells(miniature: TextToImage, tmp_path: Path) -> None:
    plan, answers = plan_of(miniature, only=("none", "prompts")), iter([False, False, True])
    store = Store(tmp_path)
    outcome = run_plan(plan, store, miniature, interrupt=lambda: next(answers))
    assert (outcome.computed, outcome.failed) == (2, [])
    assert len(collect(plan, store).missing) == 7
    assert run_plan(plan, store, miniature).as_json() | {"seconds": 0} == {
        **run_plan(plan, store, miniature).as_json(), "seconds": 0, "computed": 7, "cached": 2,
        "model_seconds": pytest.approx(0, abs=60), "overhead": pytest.approx(0.5, abs=0.5),
        "self_check": {"text_spread": pytest.approx(1, abs=1), "image_spread": pytest.approx(0.5, abs=0.5)},
    }  # fmt: skip


def test_a_plan_for_another_base_is_refused(miniature: TextToImage, tmp_path: Path) -> None:
    plan = make_plan(suite(), "0" * 64)
    with pytest.raises(ValueError, match="the plan is for base 000000000000"):
        run_plan(plan, Store(tmp_path), miniature)


def test_the_plug_ins_are_asked_about_the_base_once(
    miniature: TextToImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr(UCE, "check_base", lambda spec, folder: asked.append(folder))
    folder = miniature.backbone.folder
    plan = make_plan(suite(), miniature.backbone.digest, folder=folder, only=("uce", "prompts"))
    run_plan(plan, Store(tmp_path / "a"), miniature, interrupt=lambda: True)
    assert asked == [folder]
    plan = make_plan(suite(), miniature.backbone.digest, only=("uce", "prompts"))
    run_plan(plan, Store(tmp_path / "b"), miniature, interrupt=lambda: True)
    assert asked == [folder, folder]


def test_a_plan_for_another_precision_is_refused(miniature: TextToImage, tmp_path: Path) -> None:
    plan = make_plan(suite(dtype="bfloat16"), miniature.backbone.digest)
    with pytest.raises(ValueError, match="a base in bfloat16, but the model is in float32"):
        run_plan(plan, Store(tmp_path), miniature)


# --- cells that fail


def test_a_suite_that_looks_through_the_miniatures_clip_is_refused_on_another_base(
    miniature: TextToImage, tmp_path: Path
) -> None:
    folder = with_settings(tmp_path)
    other = replace(miniature, backbone=replace(miniature.backbone, folder=folder))
    named = {"clip": str(clip_folder())}
    looks: dict[str, Any] = {
        "metrics": ["accuracy", {"drift": named}],
        "surrogate": {"clip_zero_shot": named},
        "methods": ["none", "destroyed"],
    }
    cases: dict[str, dict[str, Any]] = {
        "clip_score": {"metrics": ["clip_score"]},
        "drift": {"metrics": ["drift"]},
        "clip_zero_shot": {"surrogate": "clip_zero_shot"},
        "task_vector": {"methods": ["none", "destroyed", "task_vector"]},
    }
    for what, changes in cases.items():
        with pytest.raises(UsageError, match=rf"^{what}\.clip: expected the source of a CLIP"):
            run_plan(plan_of(other, **{**looks, **changes}), Store(tmp_path / "store"), other)
    plan = plan_of(other, **looks)
    outcome = run_plan(plan, Store(tmp_path / "store"), other, interrupt=lambda: True)
    assert not outcome.failed
    assert not outcome.computed


def test_a_failed_cell_keeps_its_traceback_and_the_others_go_on(
    miniature: TextToImage, tmp_path: Path, plugin: Path
) -> None:
    changes = write_method(plugin, 'raise RuntimeError("the solver diverged")')
    plan, store, heard = plan_of(miniature, **changes), Store(tmp_path / "store"), Heard()
    outcome = run_plan(plan, store, miniature, heard)
    assert outcome.failed == [("edit mine / star", "RuntimeError: the solver diverged")]
    assert len(outcome.blocked) == 4 + 3 * 3  # all that needs it
    assert outcome.computed == CELLS - 1 - 13
    assert [e for e in heard.events if e.startswith("failed")] == ["failed edit"]
    lost = cell_of(plan, "edit", "mine")
    (failure,) = store.failures("edit", lost.digest)
    assert "the solver diverged" in failure.traceback
    assert plugin.name in failure.traceback
    trial = cell_of(plan, "trial", "mine", "prompts")
    assert trial.title in outcome.blocked
    assert store.failures("trial", trial.digest) == []
    found, table = collect(plan, store), table_of(plan, store)
    assert (found.failed, found.missing) == (["edit mine / star"], [])
    assert found.blocked == outcome.blocked
    assert set(found.trials.loc[found.trials["method"] == "mine", "reason"]) == {"the edit failed"}
    mine = table[(table["method"] == "mine") & (table["concept"] == "star")]
    assert (mine["errors"] == mine["attempted"]).all()
    assert (mine["attempted"] > 0).all()
    assert (mine["n"] == 0).all()
    assert mine["asr"].isna().all()
    assert not table.loc[table["method"] != "mine", "errors"].any()


def test_a_mended_plugin_computes_only_what_failed(
    miniature: TextToImage, tmp_path: Path, plugin: Path
) -> None:
    changes = write_method(plugin, 'raise RuntimeError("not yet")')
    store, only = Store(tmp_path / "store"), ("none", "mine", "prompts")
    broken = run_plan(plan_of(miniature, only, **changes), store, miniature)
    assert (broken.computed, len(broken.failed), len(broken.blocked)) == (9, 1, 7)
    sys.modules.pop(plugin.stem)
    write_method(plugin, "return model.with_weights({name: model.parameter(name) + 1.0})")
    Path(importlib.util.cache_from_source(str(plugin))).unlink(missing_ok=True)
    plan = plan_of(miniature, only, **changes)
    outcome = run_plan(plan, store, miniature)
    assert (outcome.computed, outcome.cached, outcome.failed) == (8, 9, [])
    assert not any(store.failures(c.kind, c.digest) for c in plan.cells)
    assert not table_of(plan, store)["errors"].any()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            'return model.with_weights({"unet.conv_in.bias": model.parameter(name).new_ones(32)})',
            "changed parameters it does not declare: ['unet.conv_in.bias']",
        ),
        (
            "from bench.model.guidance import NegativePrompt\n"
            'return model.with_guidance(NegativePrompt(text="star"))',
            "declares slots ['weights'] but filled ['guidance']",
        ),
        (
            'return model.with_weights({name: model.parameter(name) * float("nan")})',
            "the edited values are not finite",
        ),
    ],
)
def test_an_edit_beyond_its_declaration_is_refused(
    miniature: TextToImage, tmp_path: Path, plugin: Path, body: str, said: str
) -> None:
    changes = write_method(plugin, body)
    plan = plan_of(miniature, ("mine", "prompts"), **changes)
    outcome = run_plan(plan, Store(tmp_path / "store"), miniature)
    assert outcome.computed == 1  # the reference
    assert said in outcome.failed[0][1]


def test_a_keyboard_interrupt_is_no_failure(
    miniature: TextToImage, tmp_path: Path, plugin: Path
) -> None:
    changes = write_method(plugin, "raise KeyboardInterrupt")
    plan, store = plan_of(miniature, ("mine", "prompts"), **changes), Store(tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, store, miniature)
    assert not any(store.failures(c.kind, c.digest) for c in plan.cells)
    assert [entry.kind for entry in store.entries()] == ["images", "reference"]


# --- damage


@pytest.mark.parametrize("name", ["rows.parquet", "pictures.npz", "record.json"])
def test_a_damaged_entry_is_set_aside_and_computed_again(
    finished: tuple[Plan, Path, Outcome],
    table: pd.DataFrame,
    miniature: TextToImage,
    tmp_path: Path,
    name: str,
) -> None:
    plan, root, _ = finished
    subprocess.run(["cp", "-a", f"{root}/.", str(tmp_path)], check=True)
    cell = cell_of(plan, "trial", "uce", "random_tokens")
    entry = Store(tmp_path).find("trial", cell.digest)
    assert entry is not None
    path = entry.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    store = Store(tmp_path)
    outcome = run_plan(plan, store, miniature)
    assert (outcome.computed, outcome.cached, outcome.failed) == (1, CELLS - 1, [])
    (line,) = outcome.set_aside
    assert line.startswith(f"trial {cell.digest[:12]}: ")
    assert name in line
    (kept,) = store.quarantined()
    assert (kept.path / "entry" / name).read_bytes() == bytes(data)
    assert_frame_equal(table_of(plan, store).drop(columns=TIMES), table)
    assert store.verify() == []


def test_a_damaged_edit_does_not_touch_its_children(
    finished: tuple[Plan, Path, Outcome], miniature: TextToImage, tmp_path: Path
) -> None:
    plan, root, _ = finished
    subprocess.run(["cp", "-a", f"{root}/.", str(tmp_path)], check=True)
    entry = Store(tmp_path).find("edit", cell_of(plan, "edit", "uce").digest)
    assert entry is not None
    (entry.path / "edit.json").unlink()
    outcome = run_plan(plan, Store(tmp_path), miniature)
    assert (outcome.computed, outcome.cached) == (1, CELLS - 1)
    assert len(outcome.set_aside) == 1


def spoil(entry: Entry, name: str, data: bytes) -> None:
    """Gives a file another content, and the manifest what fits it."""
    path = entry.path / name
    path.write_bytes(data)
    manifest = json.loads((entry.path / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": file_sha256(path), "size": len(data)}
    (entry.path / "manifest.json").write_text(canonical_json(manifest))


def parquet(frame: pd.DataFrame) -> bytes:
    data: bytes = frame.to_parquet(index=False)
    return data


CONTENTS = [
    ("trial", "rows.parquet", b"PAR1 no rows PAR1"),
    ("trial", "rows.parquet", b""),
    ("trial", "rows.parquet", parquet(pd.DataFrame({"goal": ["name-000"]}))),
    ("trial", "pictures.npz", b"PK no pictures"),
    ("trial", "pictures.npz", b"\x93NUMPY"),
    ("utility", "rows.parquet", b"no rows"),
    ("attack", "candidates.json", b"[{}]"),
    ("attack", "candidates.json", b"{}"),
    ("attack", "candidates.json", b"\xff"),
    ("attack", "candidates.json", b"[" * 100_000),
    ("edit", "edit.json", b"[]"),
    ("edit", "weights.safetensors", b"no tensors"),
    ("reference", "rows.parquet", b""),
    ("score", "rows.parquet", b"no rows"),
    ("score", "rows.parquet", parquet(pd.DataFrame({"image": [0], "value": [0.5]}))),
    ("edit", "record.json", b'{"timing": 3}'),
]


@pytest.mark.parametrize(("kind", "name", "data"), CONTENTS)
def test_an_entry_that_fits_its_manifest_but_holds_nonsense_is_computed_again(
    finished: tuple[Plan, Path, Outcome],
    table: pd.DataFrame,
    miniature: TextToImage,
    tmp_path: Path,
    kind: str,
    name: str,
    data: bytes,
) -> None:
    plan, root, _ = finished
    subprocess.run(["cp", "-a", f"{root}/.", str(tmp_path / "store")], check=True)
    cell = next(
        c for c in plan.cells if c.kind == kind and ("uce" in c.title or kind == "reference")
    )
    entry = Store(tmp_path / "store").find(kind, cell.digest)
    assert entry is not None
    spoil(entry, name, data)
    assert Store(tmp_path / "store").verify() == [], "the manifest fits"
    copy = Path(shutil.copytree(tmp_path / "store", tmp_path / "copy"))
    seen = Store(copy)
    found = collect(plan, seen)  # and no traceback
    assert cell.title in found.missing
    (damage,) = seen.damage
    assert damage.reason.startswith((name, "expected")), damage.reason
    store = Store(tmp_path / "store")
    outcome = run_plan(plan, store, miniature)
    assert (outcome.computed, outcome.cached, outcome.failed) == (1, CELLS - 1, [])
    assert len(outcome.set_aside) == len(store.quarantined()) == 1
    assert_frame_equal(table_of(plan, store).drop(columns=TIMES), table)


def test_a_damaged_record_of_a_failure_stops_neither_run_nor_report(
    miniature: TextToImage, tmp_path: Path
) -> None:
    plan, store = plan_of(miniature, only=("none", "prompts")), Store(tmp_path)
    cell = cell_of(plan, "trial", "none", "prompts")
    folder = store.fail(cell.kind, cell.digest, {}, ValueError("x"))
    (folder / "record.json").write_text("{")
    assert len(store.verify()) == 1
    assert cell.title in collect(plan, store).missing
    assert not run_plan(plan, store, miniature).failed
    assert store.verify() == []


class Overtaken(Heard):
    """While the first cell is at work, another run does what it can; that is all but this cell."""

    def __init__(self, other: Callable[[], Outcome]) -> None:
        super().__init__()
        self._other = other
        self.others = 0

    def cell(self, cell: Cell, number: int) -> None:
        super().cell(cell, number)
        self.others = self.others or self._other().computed

    def elsewhere(self, cell: Cell) -> None:
        self.events.append(f"elsewhere {cell.kind}")


def test_the_store_is_looked_at_again_before_each_cell(
    miniature: TextToImage, tmp_path: Path
) -> None:
    plan = plan_of(miniature, only=("none", "prompts"))
    kinds = [c.kind for c in plan.cells]
    assert kinds == ["reference", "edit", "utility", *["score"] * 3, "attack", "trial", "score"]
    done = iter(range(100))

    def other() -> Outcome:  # utility waits for the reference, which the first run holds
        return run_plan(plan, Store(tmp_path), miniature, interrupt=lambda: next(done) >= 9)

    heard = Overtaken(other)
    outcome = run_plan(plan, Store(tmp_path), miniature, heard)
    assert heard.others == 4
    assert (outcome.computed, outcome.cached) == (5, 4)
    assert heard.events[:2] == ["begin 9/9", "cell 0"]
    assert [e for e in heard.events if e.startswith("else")] == [
        *("elsewhere edit", "elsewhere attack", "elsewhere trial", "elsewhere score")
    ]


# --- SIGKILL

CHILD = """
import json, os, signal, sys
from pathlib import Path

import torch
torch.set_num_threads(1)  # a forked child must not wait for threads that it does not have

import bench.run.runner
from bench.run.collect import collect
from bench.model.text_to_image import load_model
from bench.run.plan import make_plan
from bench.tables.tables import summarise
from bench.run.runner import run_plan
from bench.run.store import Store
from bench.config.suite import load_suite
from tests.forks import begin, ended, require_success

fields, whole, broken, log = json.loads(sys.argv[1]), *map(Path, sys.argv[2:5])
base = load_model()
only = ["destroyed", "prompts", "seed_search"]  # two attacks tell all kinds of cells
plan = make_plan(load_suite("mini-quick").with_(**fields), base.backbone.digest, only=only)
compute, publish = bench.run.runner.compute, Store.publish
fatal = ""  # the place where this process dies


def at(place):
    if place == fatal:
        os.kill(os.getpid(), signal.SIGKILL)


def logged(work, cell):
    at("before compute")
    with log.open("a") as file:
        file.write(cell.digest + "\\n")
    done = compute(work, cell)
    at("after compute")
    return done


def mortal(self, kind, digest, record, write):
    if kind == "images":  # of a cell that is killed after it: "after compute"
        return publish(self, kind, digest, record, write)

    def written(folder):
        at("before write")
        write(folder)
        at("after write")

    entry = publish(self, kind, digest, record, written)
    at("after publish")
    return entry


def table(store):
    found = collect(plan, store)
    assert not found.missing and not found.failed, (found.missing, found.failed)
    return summarise(found.trials, found.utility, edits=found.edits, suite="tiny")


def in_a_child(place):
    def work():
        global fatal
        fatal = place
        run_plan(plan, Store(broken), base)
        return 0

    said = broken.with_name("child.log")
    code = ended(begin(work, said))
    if code != -signal.SIGKILL:
        require_success(code, said)
    return code


run_plan(plan, Store(whole), base)
table(Store(whole)).drop(columns=["edit_seconds", "edit_memory_mb"]).to_csv(whole / "table.csv", index=False)
bench.run.runner.compute, Store.publish = logged, mortal
places = ("before compute", "after compute", "before write", "after write", "after publish")
kills = dict.fromkeys(places, 0)
for _ in range(2 * len(plan.cells)):
    for place in places:
        status = in_a_child(place)
        if status == 0:
            break
        kills[place] += 1
    if status == 0:
        break
store = Store(broken)
left = len(list((broken / "tmp").iterdir()))
removed = len(store.clean_tmp())
table(store).drop(columns=["edit_seconds", "edit_memory_mb"]).to_csv(broken / "table.csv", index=False)
computed = log.read_text().split()
print(json.dumps({
    "cells": len(plan.cells), "kills": kills, "computed": len(computed), "status": status,
    "left": left, "removed": removed, "damaged": len(store.verify()),
    "entries": sum(entry.kind != "images" for entry in store.entries()),
    "failures": sum(bool(store.failures(c.kind, c.digest)) for c in plan.cells),
}))
"""


@pytest.mark.slow
def test_sigkill_at_every_boundary_loses_the_current_cell_only(tmp_path: Path) -> None:
    fields = {
        **FIELDS,
        "methods": ["none", "destroyed"],
        "attacks": ["prompts", {"random_tokens": {"tries": 1}}, {"seed_search": {"tries": 1}}],
        "goals": 1,
        "utility": {"neighbours": 1, "others": 1},
    }
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(fields), str(whole), str(broken), str(log)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **FORKABLE},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    cells = 1 + (2 + 3) + 2 * 3
    assert told["cells"] == told["entries"] == cells
    assert told["status"] == 0
    assert set(told["kills"].values()) == {cells}  # every cell met every place
    middle = ("after compute", "before write", "after write")
    assert told["computed"] == cells + sum(told["kills"][place] for place in middle)
    assert told["left"] == 2 * cells * 2  # what was written, and the lock of it
    assert told["removed"] == told["left"] + cells  # and the claims
    assert (told["damaged"], told["failures"]) == (0, 0)
    assert (broken / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()


# --- what the attacks say of their search


def test_the_search_of_each_goal_is_kept_and_reaches_the_rows(
    miniature: TextToImage, tmp_path: Path
) -> None:
    small = {"preset": "mini", "steps": 10, "iterations": 2, "checks": 1, "finalists": 0}
    plan = plan_of(
        miniature,
        ("none", "p4d", "random_tokens"),
        attacks=[*FIELDS["attacks"], {"p4d": small}],
        utility={"neighbours": 0, "others": 0},
    )
    store = Store(tmp_path)
    assert not run_plan(plan, store, miniature).failed
    cell = cell_of(plan, "attack", "none", "p4d")
    entry = store.find("attack", cell.digest)
    assert entry is not None
    kept: Any = entry.read_json("candidates.json")
    for row in kept:
        looks = row["trace"].pop("looks")
        images = row["trace"].pop("images")  # a prompt that was shown before costs none
        assert (images[0], len(images), images[-1]) == (1, 6, row["queries"])
        assert images == sorted(images)
        assert row["trace"] == {"changed": 0, "steps": 10, "budget": 10, "zero": 0, "bad": 0}
        assert len(looks) == 6
        assert looks == sorted(looks)
        # The plain prompt was the first look. Where it reaches the threshold, it wins.
        assert row["own_score"] == (looks[0] if looks[0] >= 0.5 else looks[-1])
    rows = collect(plan, store).trials.set_index("attack")
    p4d, control = rows.loc["p4d"], rows.loc["random_tokens"]
    assert p4d["gradients"].all()
    assert (p4d["gradient_steps"] == 10).all()
    assert (p4d["late_gain"] >= 0).all()
    assert not control["gradients"].any()
    assert control[["changed", "gradient_steps", "late_gain"]].isna().to_numpy().all()


def test_candidates_stored_before_searches_were_kept_are_still_read(
    finished: tuple[Plan, Path, Outcome],
) -> None:
    plan, root, _ = finished
    cell = cell_of(plan, "trial", "none", "random_tokens")
    entry = Store(root).find("trial", cell.digest)
    assert entry is not None
    rows = pd.read_parquet(entry.file("rows.parquet"))
    attack = Store(root).find("attack", cell.parents["attack"])
    assert attack is not None
    found: Any = attack.read_json("candidates.json")
    old = [{k: v for k, v in row.items() if k != "trace"} for row in found]
    traces = pd.DataFrame(traces_of(old, attack.digest), columns=[*SEARCH, *TRACE])
    traced = with_traces(rows.assign(attack_digest=attack.digest), traces)
    assert len(traced) == len(rows)
    assert traced[["changed", "gradient_steps", "late_gain"]].isna().to_numpy().all()
