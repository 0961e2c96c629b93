from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from transformers import CLIPModel, CLIPTokenizer

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.core.shipped import model_folder
from bench.mini.captions import corpus
from bench.mini.tokenizer import train_tokenizer
from bench.mini.train.clip import new_clip
from bench.toolkit import clip_towers
from bench.toolkit.clip import check_source, load_clip
from bench.toolkit.clip_towers import Preprocess

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
TEXTS = ["a red star", "a sketch of a fish", "something"]
TINY: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator_for("images", *shape))


def shaken(network: torch.nn.Module) -> Any:
    """Moves every weight, by the same amounts in every run."""
    generator = generator_for("weights")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline-like folder: the CLIP in ``clip``, its tokenizer in ``tokenizer``."""
    root = tmp_path_factory.mktemp("pipeline")
    words = train_tokenizer(corpus(), root / "tokenizer", merges=100, length=16)
    shaken(new_clip(words)).save_pretrained(root / "clip")
    (root / "clip" / "preprocessor_config.json").write_text(json.dumps(HALF))
    return root / "clip"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(folder.parent, tmp_path / "pipeline")
    return tmp_path / "pipeline" / "clip"


@pytest.fixture
def architecture(tmp_path: Path) -> Callable[..., str]:
    """Makes an architecture known to open_clip."""

    def register(name: str, **text: object) -> str:
        config = {**TINY, "text_cfg": {**TINY["text_cfg"], **text}}
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        return name

    return register


def saved(network: Any, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file({n: w.contiguous() for n, w in network.state_dict().items()}, path)
    return path


# --- preprocessing


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(96, 80), (40, 70), (32, 32), (512, 512)])
def test_preprocessing_is_open_clips(
    resize: str, interpolation: str, shape: tuple[int, int]
) -> None:
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    picture = F.interpolate(images(1, 3, 12, 12), shape, mode="bilinear").mul(255).round().div(255)
    theirs = image_transform_v2(
        PreprocessCfg(size=32, mean=mean, std=std, interpolation=interpolation, resize_mode=resize),
        is_train=False,
    )
    expected = theirs(to_pil_image(picture[0]))
    got = Preprocess(32, mean, std, interpolation, resize)(picture)[0]
    assert (got - expected).abs().max() < 2 / 255 / min(std)


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5,)}, {"std": (1, 1, 0)}, {"interpolation": "nearest"}, {"resize": "pad"}]
)
def test_preprocessing_refuses(wrong: dict[str, Any]) -> None:
    fields = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), **wrong}
    with pytest.raises(ValueError, match=r"expected .*, got "):
        Preprocess(32, **fields)


# --- the default


def test_the_default_is_for_a_base_that_brings_it_along(tmp_path: Path) -> None:
    at = ("drift", "clip")
    for base in (model_folder(), tmp_path / "twin"):
        if base != model_folder():
            shutil.copytree(model_folder() / "clip", base / "clip")
        check_source("", base, at=at)
    weights = tmp_path / "twin" / "clip" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    own = re.escape(str(tmp_path / "twin" / "clip"))
    with pytest.raises(UsageError, match=rf"^drift\.clip: expected the source .*such as {own},"):
        check_source("", tmp_path / "twin", at=at)
    for other in (tmp_path, None):
        with pytest.raises(UsageError, match=r"^drift\.clip: .*not for (the base|a base without)"):
            check_source("", other, at=at)
        check_source(str(model_folder() / "clip"), other, at=at)


@pytest.mark.parametrize("gone", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_source_that_is_not_whole_is_refused_when_a_plan_is_made(
    tmp_path: Path, gone: str
) -> None:
    shutil.copytree(model_folder() / "clip", tmp_path / "clip")
    shutil.copytree(model_folder() / "tokenizer", tmp_path / "tokenizer")
    check_source(str(tmp_path / "clip"), None, at=("drift", "clip"))
    (tmp_path / "clip" / gone).unlink()
    for source in (str(tmp_path / "clip"), "somewhere", "open_clip:ViT-B-32@nowhere.safetensors"):
        with pytest.raises(UsageError, match=r"^drift\.clip: expected "):
            check_source(source, None, at=("drift", "clip"))
    shutil.copytree(model_folder() / "clip", tmp_path / "alone" / "clip")
    with pytest.raises(UsageError, match=r"expected tokenizer\.json or vocab\.json"):
        check_source(str(tmp_path / "alone" / "clip"), None, at=("drift", "clip"))


# --- a transformers folder


def test_folder_features_are_the_networks(folder: Path) -> None:
    clip, network = load_clip(str(folder)), CLIPModel.from_pretrained(folder)
    words = CLIPTokenizer.from_pretrained(folder.parent / "tokenizer")
    x = images(3, 3, 64, 64)
    with torch.no_grad():
        image: Any = network.get_image_features(pixel_values=x * 2 - 1)
        text: Any = network.get_text_features(**words(TEXTS, padding=True, return_tensors="pt"))
    torch.testing.assert_close(clip.image_features(x), F.normalize(image.pooler_output))
    torch.testing.assert_close(clip.text_features(TEXTS), F.normalize(text.pooler_output))
    assert clip.logit_scale == pytest.approx(network.logit_scale.exp().item())


def test_features_have_length_one_and_no_gradient(folder: Path) -> None:
    clip = load_clip(str(folder))
    for features in (clip.image_features(images(2, 3, 96, 80)), clip.text_features(TEXTS)):
        assert features.shape[1] == clip.width
        assert not features.requires_grad
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


def test_rows_do_not_depend_on_the_batch(folder: Path) -> None:
    clip = load_clip(str(folder))
    x, texts = images(70, 3, 64, 64), [f"{text} {i}" for i in range(24) for text in TEXTS]
    for row in (0, 63, 64, 69):
        torch.testing.assert_close(
            clip.image_features(x)[row], clip.image_features(x[row : row + 1])[0]
        )
        torch.testing.assert_close(
            clip.text_features(texts)[row], clip.text_features([texts[row]])[0]
        )


def test_an_empty_batch_has_no_rows(folder: Path) -> None:
    clip = load_clip(str(folder))
    assert clip.image_features(images(0, 3, 64, 64)).shape == (0, clip.width)
    assert clip.text_features([]).shape == (0, clip.width)


def test_a_long_text_is_cut(folder: Path) -> None:
    clip = load_clip(str(folder))
    long, longer = "star " * 20, "star " * 40
    assert torch.equal(clip.text_features([long]), clip.text_features([longer]))


def test_loading_is_cached_and_leaves_the_global_generator(copy: Path) -> None:
    before = torch.get_rng_state()
    assert load_clip(str(copy)) is load_clip(f"{copy}/../clip")
    assert torch.equal(before, torch.get_rng_state())


def test_half_precision_weights_are_worked_with_in_full(copy: Path) -> None:
    network: Any = CLIPModel.from_pretrained(copy)
    network.half().save_pretrained(copy)
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        expected: Any = network.float().get_image_features(pixel_values=x * 2 - 1)
    got = load_clip(str(copy)).image_features(x)
    torch.testing.assert_close(got, F.normalize(expected.pooler_output))


def test_tokenizer_in_the_folder_itself(copy: Path, folder: Path) -> None:
    for file in (copy.parent / "tokenizer").iterdir():
        file.rename(copy / file.name)
    expected = load_clip(str(folder)).text_features(TEXTS)
    torch.testing.assert_close(load_clip(str(copy)).text_features(TEXTS), expected)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8)]
)
def test_what_is_no_image_batch_is_refused(folder: Path, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected floats \[B, 3, H, W\]"):
        load_clip(str(folder)).image_features(x)


def test_one_text_is_no_list(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected a list of texts"):
        load_clip(str(folder)).text_features("star")


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        load_clip(str(copy))


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights"):
        load_clip(str(copy))


def test_a_missing_tokenizer_is_named(copy: Path) -> None:
    shutil.rmtree(copy.parent / "tokenizer")
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json or vocab\.json"):
        load_clip(str(copy))


def test_another_kind_of_model_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="'siglip'"):
        load_clip(str(copy))


def test_a_name_of_the_hub_is_not_fetched() -> None:
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        load_clip("openai/clip-vit-base-patch32")


# --- open_clip


def test_open_clip_features_are_the_networks(
    tmp_path: Path, architecture: Callable[..., str]
) -> None:
    name = architecture("tiny-test")
    network = shaken(open_clip.create_model(name))
    weights = saved(network, tmp_path / "weights.safetensors")
    before = torch.get_rng_state()
    clip = load_clip(f"open_clip:{name}@{weights}")
    assert torch.equal(before, torch.get_rng_state())
    x = images(2, 3, 32, 32)
    default = PreprocessCfg()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (default.mean, default.std))
    with torch.no_grad():
        image = network.encode_image((x - mean) / std, normalize=True)
        text = network.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    torch.testing.assert_close(clip.image_features(x), image)
    torch.testing.assert_close(clip.text_features(TEXTS), text)
    assert clip.logit_scale == pytest.approx(network.logit_scale.exp().item())
    assert clip.image_features(images(0, 3, 8, 8)).shape == (0, image.shape[1])


def test_open_clip_config_beside_the_weights_decides_the_preprocessing(
    tmp_path: Path, architecture: Callable[..., str]
) -> None:
    name = architecture("tiny-test")
    weights = saved(open_clip.create_model(name), tmp_path / "own" / "weights.safetensors")
    own = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    (tmp_path / "own" / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": own}))
    got = load_clip(f"open_clip:{name}@{weights}").preprocess
    assert got == Preprocess(32, (0.5,) * 3, (0.25,) * 3, "bicubic", "squash")


def test_ambiguous_preprocessing_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ValueError, match=r"expected open_clip_config\.json beside the weights"):
        load_clip(f"open_clip:ViT-L-14@{tmp_path / 'weights.safetensors'}")


def test_tokenizer_of_the_hub_is_read_beside_the_weights(
    tmp_path: Path, architecture: Callable[..., str]
) -> None:
    words = train_tokenizer(corpus(), tmp_path / "own", merges=100, length=16)
    text = {"context_length": 16, "vocab_size": len(words), "hf_tokenizer_name": "someone/words"}
    name = architecture("tiny-hub-words", **text)
    network = shaken(open_clip.create_model(name))
    weights = saved(network, tmp_path / "own" / "weights.safetensors")
    source = f"open_clip:{name}@{weights}"
    with pytest.raises(FileNotFoundError, match="someone/words"):
        load_clip(source)
    config = {"model_cfg": {**TINY, "text_cfg": {**TINY["text_cfg"], **text}}}
    (tmp_path / "own" / "open_clip_config.json").write_text(json.dumps(config))
    ids = words(TEXTS, padding="max_length", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = network.encode_text(ids, normalize=True)
    torch.testing.assert_close(load_clip(source).text_features(TEXTS), expected)


def test_text_tower_of_the_hub_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ValueError, match="'roberta-base' of the hub"):
        load_clip(f"open_clip:roberta-ViT-B-32@{tmp_path / 'weights.safetensors'}")


def test_unknown_architecture_names_near_matches(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'VIT-B32'; near matches: .*ViT-B-32"):
        load_clip(f"open_clip:VIT-B32@{tmp_path / 'weights.safetensors'}")


@pytest.mark.parametrize("source", ["open_clip:ViT-B-32", "open_clip:@x", "open_clip:ViT-B-32@"])
def test_malformed_source_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="expected open_clip:<architecture>@<path"):
        load_clip(source)


def test_open_clip_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        load_clip(f"open_clip:ViT-B/32@{tmp_path / 'weights.safetensors'}")
    with pytest.raises(ValueError, match="pickled weights are not read"):
        load_clip(f"open_clip:ViT-B-32@{tmp_path / 'weights.pt'}")


def test_open_clip_weights_of_another_architecture(
    tmp_path: Path, architecture: Callable[..., str]
) -> None:
    weights = saved(
        open_clip.create_model(architecture("tiny-test")), tmp_path / "weights.safetensors"
    )
    with pytest.raises(ValueError, match="expected weights of the architecture tiny-deep"):
        load_clip(f"open_clip:{architecture('tiny-deep', layers=2)}@{weights}")


def test_texts_that_are_asked_for_again_are_encoded_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, asked = load_clip(str(folder)), list[list[str]]()

    def encode(texts: list[str]) -> Tensor:
        asked.append(texts)
        return clip.encode_texts(texts)

    counted = replace(clip, encode_texts=encode)
    texts = tuple(TEXTS)
    first = counted.known_features(texts)
    assert torch.equal(first, clip.text_features(texts))
    assert torch.equal(counted.known_features(texts), first)
    assert asked == [TEXTS]
    monkeypatch.setattr(clip_towers, "_KNOWN", 1)
    torch.testing.assert_close(
        counted.known_features(texts[::-1]), first.flip(0)
    )  # the order is the asker's
    assert len(counted._known) == 1
    counted.known_features(texts)
    assert len(asked) == 3
