"""Folders of Stable Diffusion XL: what does not fit together is refused from the files alone, in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UsageError
from bench.model.backbone import load_backbone
from bench.model.families.sdxl import StableDiffusionXL
from bench.model.pipeline.download import _next
from bench.model.pipeline.inspect import inspect_base
from tests.tiny_bases import make_base

INDEX, UNET, TEXT_2 = "model_index.json", "unet/config.json", "text_encoder_2/config.json"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base("sdxl", tmp_path_factory.mktemp("xl") / "base")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "base"))


def changed(name: str, **fields: Any) -> Change:
    """A change of a JSON file's values; ``...`` takes the key away."""

    def change(folder: Path) -> None:
        path = folder / name
        data = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))

    return change


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def without_folder(name: str) -> Change:
    return lambda folder: shutil.rmtree(folder / name)


def other_words(folder: Path) -> None:
    """Two tokens of the second tokenizer change places."""
    path = folder / "tokenizer_2/tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(data))


REFUSED: dict[str, tuple[Change, str]] = {
    "no second encoder": (changed(INDEX, text_encoder_2=...), "lacks text_encoder_2; expected a pipeline of Stable"),
    "its folder": (without_folder("text_encoder_2"), "lacks text_encoder_2; expected a pipeline of Stable"),
    "no second tokenizer": (without("tokenizer_2/tokenizer.json"), "tokenizer_2 is incomplete"),
    "its weights": (without("text_encoder_2/model.safetensors"), "text_encoder_2 holds no weights"),
    "without projection": (changed(INDEX, text_encoder_2=["transformers", "CLIPTextModel"]),
                           r"text_encoder_2: expected \[transformers, CLIPTextModelWithProjection\]"),
    "no zeros": (changed(INDEX, force_zeros_for_empty_prompt=False),
                 "force_zeros_for_empty_prompt: expected True, got False"),
    "one width": (changed(UNET, cross_attention_dim=32), "width of the text encoders' states, 80, got 32"),
    "nothing added": (changed(UNET, addition_embed_type=None), "addition_embed_type: expected 'text_time'"),
    "an image added": (changed(UNET, addition_embed_type="image"), "addition_embed_type: expected .*got 'image'"),
    "no width of sizes": (changed(UNET, addition_time_embed_dim=None), "'text_time' and None"),
    "five sizes": (changed(UNET, projection_class_embeddings_input_dim=80),
                   "input_dim: expected 88, a pooled vector of 40 and 6 sizes of 8, got 80"),
    "another projection": (changed(TEXT_2, projection_dim=48), "expected 96, a pooled vector of 48"),
    "other positions": (changed(TEXT_2, max_position_embeddings=77),
                        "text_encoder_2: .*position_embedding.weight has the shape"),
    "more words": (changed(TEXT_2, vocab_size=49408), "token_embedding.weight has the shape"),
    "means of latents": (changed("vae/config.json", latents_mean=[0.0] * 4), "latents_mean: expected"),
    "more blocks": (changed(UNET, transformer_layers_per_block=[1, 3]), "lack .*transformer_blocks.2"),
    "quantised": (changed(TEXT_2, quantization_config={"a": 1}), "text_encoder_2.*quantised weights are not read"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case: str, folder: Path) -> None:
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(UsageError, match=message) as refused:
        inspect_base(str(folder))
    assert len(str(refused.value).splitlines()) == 1


def test_tokenizers_that_disagree_are_refused_when_it_is_loaded(folder: Path) -> None:
    other_words(folder)
    with pytest.raises(UsageError, match="tokenizer_2: expected the tokens of tokenizer, got oth"):
        load_backbone(str(folder))


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_the_second_of_each_is_in_the_digest(part: str, folder: Path) -> None:
    files = inspect_base(str(folder))
    assert {path.relative_to(folder).parts[0] for path in files.files} == {
        *StableDiffusionXL.stems, *StableDiffusionXL.tokenizers, "scheduler",
    }  # fmt: skip
    name = "config.json" if part == "text_encoder_2" else "tokenizer_config.json"
    changed(f"{part}/{name}", tvc_bench=1)(folder)
    assert inspect_base(str(folder)).digest != files.digest


def test_a_download_asks_for_all_that_is_loaded_and_no_more(folder: Path) -> None:
    files = inspect_base(str(folder))
    asked: set[str] = {INDEX}
    while names := _next(folder, StableDiffusionXL, asked):
        asked |= names
    there = {name for name in asked if (folder / name).exists()}
    assert there == {INDEX, *(path.relative_to(folder).as_posix() for path in files.files)}
    assert files.sizes.context_width == 80
    assert files.sizes.image_side == 32
