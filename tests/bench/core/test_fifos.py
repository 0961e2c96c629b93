"""Whatever file a user gives, a FIFO in its place is refused: to open it would wait for ever."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from attacks.shared.prompt_file import read_prompts
from bench.config.suite import load_suite, read_concepts
from bench.core.errors import UsageError
from bench.core.headers import read_header
from bench.core.json_files import read_object
from bench.core.shipped import clip_folder, judge_folder, model_folder
from bench.core.weight_files import scan
from bench.interfaces import Concept
from bench.interfaces.registry import build
from bench.judges.mini import MiniJudge
from bench.model.text_to_image import TextToImage
from bench.toolkit.clip import load_clip
from bench.toolkit.judge_net import load_judge
from tvc.diverse_inversion import InversionSet
from tvc.task_vector import TaskVector, subtract_in_place

pytestmark = pytest.mark.timeout(120)

ONE: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "suite": ("a.yaml", load_suite),
    "concepts": ("concepts.json", read_concepts),
    "prompts of csv": ("a.csv", read_prompts),
    "prompts of jsonl": ("a.jsonl", read_prompts),
    "checkpoint": (
        "a.safetensors",
        lambda path: build("method", {"checkpoint": {"path": str(path)}}),
    ),
    "header": ("a.safetensors", read_header),
    "weights": ("a.safetensors", scan),
    "json": ("a.json", read_object),
    "open_clip": ("a.safetensors", lambda path: load_clip(f"open_clip:ViT-B-32@{path}")),
    "task vector": ("a.safetensors", TaskVector.load),
    "task vector in place": ("a.safetensors", lambda path: subtract_in_place({}, path, 1.0)),
    "inversions": ("a.safetensors", InversionSet.load),
}


def fifo(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("what", ONE)
def test_a_fifo_is_not_opened(tmp_path: Path, what: str) -> None:
    name, use = ONE[what]
    path = fifo(tmp_path / name)
    with pytest.raises(UsageError, match="got a FIFO at "):
        use(path)


FOLDERS: Mapping[str, tuple[Callable[[], Path], Callable[[Path], object]]] = {
    "judge": (judge_folder, load_judge),
    "clip": (clip_folder, lambda folder: load_clip(str(folder))),
    "tokenizer": (
        lambda: model_folder() / "tokenizer",
        lambda folder: load_clip(str(_beside(folder))),
    ),
}


def _beside(tokenizer: Path) -> Path:
    return Path(shutil.copytree(clip_folder(), tokenizer.parent / "clip"))


def _opened(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if path.suffix in {".json", ".safetensors"}
    )


@pytest.mark.parametrize("what", FOLDERS)
def test_a_fifo_in_a_folder_is_not_opened(tmp_path: Path, what: str) -> None:
    source, use = FOLDERS[what]
    names = _opened(source())
    assert names
    for number, name in enumerate(names):
        folder = tmp_path / str(number) / what
        shutil.copytree(source(), folder)
        fifo(folder / name)
        with pytest.raises((UsageError, FileNotFoundError)) as caught:
            use(folder)
        assert "\n" not in str(caught.value)


def test_a_judge_that_is_a_fifo_is_refused_in_the_plan(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name
        shutil.copytree(judge_folder(), folder)
        fifo(folder / name)
        judge = MiniJudge(folder=str(folder))
        with pytest.raises(UsageError, match="got a FIFO at "):
            judge.check_concept(Concept(text="star", family="object"))
            judge.identity()


@pytest.mark.parametrize("name", ["edit.json", "weights.safetensors"])
def test_an_edit_that_is_a_fifo_is_refused(model: TextToImage, tmp_path: Path, name: str) -> None:
    model.save_edit(tmp_path)
    fifo(tmp_path / name)
    with pytest.raises(UsageError, match="got a FIFO at "):
        model.load_edit(tmp_path)
