"""Files that change after a plan has hashed them: what others say is not stored under the plan's names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.core.kept import kept_while_same
from bench.core.shipped import clip_folder, model_folder
from bench.interfaces import Concept
from bench.judges.clip_zero_shot import ClipZeroShot
from bench.judges.mini import MiniJudge
from bench.model.text_to_image import TextToImage
from bench.run.cells import AttackCell, Cell, EditCell, ScoreCell, TrialCell, UtilityCell
from bench.run.plan import Plan, make_plan
from bench.run.runner import run_plan
from bench.run.seals import Seals
from bench.run.stages.vectors import FEATURES
from bench.run.store import Store
from bench.toolkit.features import ClipFeatures
from tests.readers import READERS, declared, readers, retrained


@pytest.mark.parametrize("name", readers())
def test_weights_that_change_are_another_network_and_not_the_plans(
    name: str, miniature: TextToImage, tmp_path: Path
) -> None:
    reader = READERS[name]
    spec = reader.make(reader.write(tmp_path / "here"))
    seals = Seals.of([spec], MiniJudge(), None)
    sums, said = seals.seals[0].digest, reader.look(spec, miniature)
    seals.check_one(spec)
    shutil.copytree(tmp_path / "here", tmp_path / "before")

    retrained(tmp_path / "here")
    assert not torch.equal(reader.look(spec, miniature), said), "the old network's answer"
    assert Seals.of([spec], MiniJudge(), None).seals[0].digest != sums
    with pytest.raises(UsageError, match="as the plan read it, got another content") as caught:
        seals.check_one(spec)
    assert "\n" not in str(caught.value)
    assert any(str(file) in str(caught.value) for file in declared(spec))

    shutil.copytree(tmp_path / "before", tmp_path / "here", dirs_exist_ok=True)
    seals.check_one(spec)
    assert torch.equal(reader.look(spec, miniature), said)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A CLIP of the user's, which is another network than the shipped one."""
    shutil.copytree(model_folder() / "tokenizer", tmp_path / "pipeline" / "tokenizer")
    shutil.copytree(clip_folder(), tmp_path / "pipeline" / "clip")
    retrained(tmp_path / "pipeline")
    return tmp_path / "pipeline" / "clip"


def plan_of(base: TextToImage, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "name": "tiny", "concepts": ["zorbo"], "sampler": {"steps": 2, "guidance_scale": 3.0},
        "methods": ["none", "destroyed"], "goals": 2, "utility": {"neighbours": 1, "others": 2},
        "attacks": ["prompts", {"random_tokens": {"tries": 1}}, {"seed_search": {"tries": 1}}],
    }  # fmt: skip
    suite = load_suite("mini-quick").with_(**fields | changes)
    return make_plan(suite, base.backbone.digest, folder=base.backbone.folder)


def looks(clip: Path) -> dict[str, Any]:
    """A judge and metrics of each kind that look through a CLIP."""
    given = {"clip": str(clip)}
    return {
        "judges": ["mini_judge", {"clip_zero_shot": given}],
        "metrics": ["accuracy", {"clip_score": given}, {"cmmd": given}],
    }


def theirs(plan: Plan) -> set[str]:
    """The scores that look through the user's CLIP."""
    own = ("mini_judge", "accuracy")
    return {c.digest for c in plan.cells if isinstance(c, ScoreCell) and c.by not in own}


@pytest.fixture(scope="module")
def finished(miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run without these scores; copy it before you change it."""
    root = tmp_path_factory.mktemp("finished")
    assert not run_plan(plan_of(miniature, metrics=["accuracy"]), Store(root), miniature).failed
    return root


def in_store(store: Store) -> set[str]:
    return {entry.digest for entry in store.entries("score")}


def test_scores_of_a_network_that_was_swapped_after_the_plan_are_errors(
    miniature: TextToImage, finished: Path, clip: Path, tmp_path: Path
) -> None:
    store = Store(Path(shutil.copytree(finished, tmp_path / "store")))
    plan = plan_of(miniature, **looks(clip))
    retrained(clip)
    outcome = run_plan(plan, store, miniature)
    assert len(outcome.failed) == len(theirs(plan)) > 3
    assert not in_store(store) & theirs(plan)
    for _, error in outcome.failed:
        assert error.startswith("UsageError: ") and "as the plan read it" in error
    again = plan_of(miniature, **looks(clip))
    assert not run_plan(again, store, miniature).failed
    assert theirs(again) <= in_store(store) and not theirs(again) & theirs(plan)


@pytest.mark.parametrize(
    ("who", "name", "by"),
    [(ClipZeroShot, "scores", "clip_zero_shot"), (ClipFeatures, "vectors", "cmmd")],
)
def test_a_network_that_is_swapped_while_it_looks_is_noticed(
    who: type, name: str, by: str, miniature: TextToImage, finished: Path, clip: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = Store(Path(shutil.copytree(finished, tmp_path / "store")))
    plan = plan_of(miniature, **looks(clip))
    look: Callable[..., Tensor] = getattr(who, name)

    def swapping(self: Any, images_B3HW: Tensor, *more: Concept) -> Tensor:
        found = look(self, images_B3HW, *more)
        if self.clip:
            retrained(clip)
        return found

    monkeypatch.setattr(who, name, swapping)
    assert run_plan(plan, store, miniature).failed
    mine = {c.digest for c in plan.cells if isinstance(c, ScoreCell) and c.by.startswith(by)}
    assert mine and not in_store(store) & mine
    if who is ClipFeatures:
        assert not [*store.entries(FEATURES)], "two networks may have made them"


def test_the_cells_that_read_a_methods_files_are_refused(
    miniature: TextToImage, clip: Path, tmp_path: Path
) -> None:
    filtered = {"output_filter": {"source": str(clip), "threshold": 0.0}}
    vector = {"task_vector": {"clip": str(clip), "alpha": 1.0}}
    surrogate = {"clip_zero_shot": {"clip": str(clip)}}

    def refused(plan: Plan) -> list[Cell]:
        found = []
        for cell in plan.cells:
            try:
                plan.seals.check(cell)
            except UsageError:
                found.append(cell)
        return found

    plan = plan_of(miniature, methods=["none", "destroyed", filtered, vector])
    told = plan_of(miniature, surrogate=surrogate)
    assert not refused(plan) and not refused(told)
    (clip / "preprocessor_config.json").write_text(
        '{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}'
    )
    kinds = (EditCell, AttackCell, TrialCell, UtilityCell)
    assert refused(plan) == [
        cell for cell in plan.cells
        if isinstance(cell, kinds) and (
            cell.method.name == "output_filter"
            or (cell.method.name == "task_vector" and isinstance(cell, EditCell))
        )
    ]  # fmt: skip
    assert refused(told) == [cell for cell in told.cells if isinstance(cell, AttackCell)]


def test_a_file_that_changes_while_it_is_read_is_refused_and_read_again(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", ["one", "other"]
    path.write_text("nothing")

    @kept_while_same(lambda path: (path,), most=2)
    def read(path: Path) -> str:
        if texts:
            path.write_text(texts.pop())
        return path.read_text()

    for _ in range(2):
        with pytest.raises(
            UsageError, match=r"expected .*file to stay as it was while it was read"
        ):
            read(path)
    assert read(path) == "one"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path)
