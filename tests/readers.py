"""Every plug-in that reads a user's files, each with the smallest files that it takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.digest import file_sha256
from bench.core.rng import generator_for
from bench.core.shipped import clip_folder, judge_folder, model_folder
from bench.core.spec import Spec
from bench.interfaces import Concept, Features, Judge, Metric, SetMetric, UtilityBatch, registry
from bench.judges.clip_zero_shot import ClipZeroShot
from bench.mini.captions import corpus
from bench.mini.tokenizer import train_tokenizer
from bench.model.text_to_image import TextToImage
from bench.rehearse import networks, tensors
from bench.toolkit.features import ClipFeatures
from methods.output_filter import ClipChecker, OutputFilter, SafetyChecker
from tvc.method import TaskVectorErasure
from tvc.unets import vector_between

__all__ = [
    "ALIKE",
    "NOTHING",
    "READERS",
    "Reader",
    "declared",
    "readers",
    "retrained",
    "weights_in",
]

STAR: Final = Concept(text="star", family="object", neighbours=("moon",))
PROMPTS: Final = ["a star", "a moon"]
NOTHING: Final = {"judge": {"nudenet"}, "metric": {"accuracy"}}
"""The judges and metrics without a field for files; NudeNet's weights are pinned."""
ALIKE: Final = {"kid": "fid", "precision_recall": "fid"}
"""Metrics whose features are another's, by the same code."""
_OPEN_CLIP: Final[dict[str, Any]] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A plug-in with files of a user's.

    Attributes:
        write: Writes its files under a folder; returns the fields that name them.
        make: The plug-in with these fields.
        look: What it says, by its files alone.
        concept: A concept that a judge sees.
        slow: Its network has one size, which is large.
    """

    write: Callable[[Path], dict[str, str]]
    make: Callable[[dict[str, str]], Spec]
    look: Callable[[Any, TextToImage], Tensor]
    concept: Concept = STAR
    slow: bool = False


def readers() -> list[Any]:
    """The names of :data:`READERS` as parameters of a test, those with a large network marked."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] if reader.slow else [])
        for name, reader in READERS.items()
    ]


def declared(spec: Spec) -> set[Path]:
    """The files that its identity knows by their content."""
    own = spec.features().files() if isinstance(spec, SetMetric) else ()
    return {file.resolve() for file in (*spec.files(), *own)}


def weights_in(folder: Path) -> list[Path]:
    """Every file of weights, as deep as it lies."""
    return sorted(folder.rglob("*.safetensors"))


def retrained(folder: Path) -> None:
    """Writes other weights of the same shapes to the same files."""
    for path in weights_in(folder):
        generator = generator_for("retrained", path.name)
        moved = {
            name: value + 0.5 * torch.randn(value.shape, generator=generator).to(value.dtype)
            if value.is_floating_point()
            else value
            for name, value in load_file(path).items()
        }
        save_file(moved, path, metadata={"format": "pt"})


def _images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=generator_for("readers"))


def _judged(judge: Judge, _: TextToImage) -> Tensor:
    return judge.scores(_images(), STAR)


def _measured(metric: Metric, _: TextToImage) -> Tensor:
    shown, base = _images(), _images().flip(0)
    return metric.values(UtilityBatch(PROMPTS, [STAR, None], shown, base))


def _features(spec: Features | SetMetric, _: TextToImage) -> Tensor:
    return (spec.features() if isinstance(spec, SetMetric) else spec).vectors(_images())


def _blanked(method: OutputFilter, _: TextToImage) -> Tensor:
    if method.checker == "clip":
        checker = ClipChecker(
            clip=method.source, texts=("star",), alternatives=(("moon",),), thresholds=(0.0,)
        )
        return checker.log_odds(_images())
    sha256 = file_sha256(Path(method.source) / "model.safetensors")
    return SafetyChecker(folder=method.source, sha256=sha256).blanks(_images())


def _moved(method: TaskVectorErasure, model: TextToImage) -> Tensor:
    vector = vector_between(model, Path(method.with_unet), None)
    judge = ClipZeroShot(clip=method.clip)
    return torch.stack([*(d.norm() for d in vector.deltas.values()), *_judged(judge, model)[0]])


def _clip(folder: Path) -> str:
    """As it lies in a pipeline: the tokenizer is beside it."""
    shutil.copytree(model_folder() / "tokenizer", folder / "tokenizer")
    return str(shutil.copytree(clip_folder(), folder / "clip"))


def _clip_with_words(folder: Path) -> str:
    shutil.copytree(clip_folder(), folder, dirs_exist_ok=True)
    return str(shutil.copytree(model_folder() / "tokenizer", folder, dirs_exist_ok=True))


def _clip_in_parts(folder: Path) -> str:
    from transformers import CLIPModel

    own = Path(_clip_with_words(folder))
    network: Any = CLIPModel.from_pretrained(own)
    (own / "model.safetensors").unlink()
    network.save_pretrained(own, max_shard_size="200KB")
    return str(own)


def _open_clip(folder: Path, **text: object) -> str:
    name = f"readers-{len(text)}"
    config = {**_OPEN_CLIP, "text_cfg": {**_OPEN_CLIP["text_cfg"], **text}}
    (folder / "names").mkdir(parents=True)
    (folder / "names" / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "names" / f"{name}.json")
    with torch.random.fork_rng(devices=[]):
        values = cast("Any", open_clip.create_model(name)).state_dict()
    (folder / "own").mkdir()
    path = folder / "own" / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in values.items()}, path)
    said = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "own" / "open_clip_config.json").write_text(json.dumps(said))
    return f"open_clip:{name}@{path}"


def _open_clip_with_words(folder: Path) -> str:
    words = train_tokenizer(corpus(), folder / "own-words", merges=100, length=16)
    source = _open_clip(folder, vocab_size=len(words), hf_tokenizer_name="someone/words")
    for file in (folder / "own-words").iterdir():
        file.rename(folder / "own" / file.name)
    return source


def _mini(folder: Path) -> str:
    return str(shutil.copytree(judge_folder(), folder, dirs_exist_ok=True))


def _folder_of(write: Callable[..., None], *more: Any) -> Callable[[Path], str]:
    def written(folder: Path) -> str:
        write(folder, *more, real_size=False)
        return str(folder)

    return written


def _file_of(write: Callable[..., None], *more: Any) -> Callable[[Path], str]:
    def written(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "own.safetensors", *more)
        return str(folder / "own.safetensors")

    return written


def _faces(folder: Path) -> dict[str, str]:
    networks.write_photographs(folder / "people", ["star"])
    networks.write_embedder(folder / "network", real_size=False)
    return {"weights": str(folder / "network"), "references": str(folder / "people")}


def _q16(folder: Path) -> dict[str, str]:
    source = _clip(folder)
    width = json.loads((Path(source) / "config.json").read_text())["projection_dim"]
    return {"clip": source, "prompts": _file_of(tensors.write_q16, width)(folder / "prompts")}


def _unet(folder: Path) -> dict[str, str]:
    name = "diffusion_pytorch_model.safetensors"
    values = load_file(model_folder() / "unet" / name)
    first = next(iter(values))
    values[first] = values[first] + 0.25
    (folder / "unet").mkdir(parents=True)
    save_file(values, folder / "unet" / name)
    return {"with": str(folder / "unet"), "clip": _clip(folder)}


def _thousand() -> list[str]:
    return ["star", *(f"LABEL_{number}" for number in range(1, 1000))]


def _one(field: str, write: Callable[[Path], str]) -> Callable[[Path], dict[str, str]]:
    return lambda folder: {field: write(folder / "files")}


def _of(kind: str, name: str, **fields: Any) -> Callable[[dict[str, str]], Spec]:
    return lambda given: registry.build(cast("Any", kind), {name: {**fields, **given}})


def _readers() -> Iterator[tuple[str, Reader]]:
    clips: dict[str, Callable[[Path], str]] = {
        "": _clip, "own words": _clip_with_words, "in parts": _clip_in_parts, "open_clip": _open_clip,
        "open_clip with words": _open_clip_with_words,
    }  # fmt: skip
    for called, write in clips.items():
        name = " ".join(filter(None, ("clip_zero_shot", called)))
        yield name, Reader(_one("clip", write), _of("judge", "clip_zero_shot"), _judged)
    classes = networks.write_classifier
    judges: tuple[tuple[str, str, Callable[[Path], str]], ...] = (
        ("mini_judge", "folder", _mini),
        ("image_classifier", "weights", _folder_of(classes, ["star", "moon"])),
        ("imagenet_classifier", "weights", _folder_of(classes, _thousand())),
        ("vqa", "weights", _folder_of(networks.write_questions)),
    )
    for name, field, write in judges:
        yield name, Reader(_one(field, write), _of("judge", name), _judged)
    faces = _of("judge", "face_identity", faces="whole")
    yield "face_identity", Reader(_faces, faces, _judged)
    yield "q16", Reader(_q16, _of("judge", "q16"), _judged, Concept(text="nudity"))
    metrics: tuple[tuple[str, str, Callable[[Path], str]], ...] = (
        ("clip_score", "clip", _clip),
        ("drift", "clip", _clip),
        ("lpips", "weights", _file_of(networks.write_lpips)),
        ("image_reward", "weights", _folder_of(tensors.write_image_reward)),
    )
    for name, field, write in metrics:
        yield name, Reader(_one(field, write), _of("metric", name), _measured)
    yield "cmmd", Reader(_one("clip", _clip), _of("metric", "cmmd"), _features)
    inception = _one("inception", _file_of(networks.write_inception))
    yield "fid", Reader(inception, _of("metric", "fid"), _features, slow=True)
    yield "clip features", Reader(_one("clip", _clip), lambda f: ClipFeatures(**f), _features)
    blank = _of("method", "output_filter", alternatives=["moon"])
    yield "output_filter", Reader(_one("source", _clip), blank, _blanked)
    checker = _of("method", "output_filter", checker="safety_checker")
    written = _folder_of(tensors.write_safety_checker)
    yield "output_filter[safety_checker]", Reader(_one("source", written), checker, _blanked)
    yield "task_vector", Reader(_unet, _of("method", "task_vector"), _moved)


READERS: Final[Mapping[str, Reader]] = dict(_readers())
