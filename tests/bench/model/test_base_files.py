"""Whatever a base cannot do is refused when the plan is made; what is accepted loads."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UsageError
from bench.core.shipped import model_folder
from bench.model.backbone import load_backbone, load_inspected
from bench.model.pipeline.inspect import inspect_base, local_folder, looks_local
from bench.model.text_to_image import TextToImage
from tests.fuzz.bases import CONFIGS, WEIGHTS, Raw, cases, linked_base, outcome, put

MINIATURE = "1b20dc42a2241b46a91912c6c7937ec42c1ae9aae1b8fe133550cd687a77da9d"
UNET = "unet/diffusion_pytorch_model"
TEXT = "text_encoder/model"
Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return linked_base(tmp_path / "base")


def changed(name: str, **fields: Any) -> Change:
    """A change of a JSON file's values; ``...`` takes the key away."""

    def change(folder: Path) -> None:
        path = folder / name
        data = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))

    return change


def holding(name: str, data: bytes) -> Change:
    return lambda folder: put(folder / name, data)


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def poisoned(name: str, bits: bytes) -> Change:
    """A change of a number of float16 in the middle of a file."""

    def change(folder: Path) -> None:
        raw = Raw.read(model_folder() / name)
        middle = len(raw.data) // 4 * 2
        data = raw.data[:middle] + bits + raw.data[middle + 2 :]
        put(folder / name, Raw(raw.header, data).whole)

    return change


def lacking(name: str, tensor: str) -> Change:
    def change(folder: Path) -> None:
        raw = Raw.read(model_folder() / name)
        put(folder / name, raw.only([one for one in raw.names if one != tensor]).whole)

    return change


# --- what is accepted


def of_fp16(folder: Path) -> None:
    for name in WEIGHTS:
        path = folder / name
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))


def of_one_fp16(folder: Path) -> None:
    path = folder / WEIGHTS[2]
    path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))


def sharded(name: str, middle: str = "") -> Change:
    """A change of one file of weights into two with an index."""

    def change(folder: Path) -> None:
        raw = Raw.read(model_folder() / f"{name}.safetensors")
        (folder / f"{name}.safetensors").unlink()
        stem = Path(name).name
        halves = raw.names[::2], raw.names[1::2]
        shards: dict[str, str] = {}
        for number, names in enumerate(halves, start=1):
            file = f"{stem}{middle}-{number:05d}-of-00002.safetensors"
            put((folder / name).with_name(file), raw.only(list(names)).whole)
            shards |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": len(raw.data)}, "weight_map": shards}
        (folder / f"{name}.safetensors.index{middle}.json").write_text(json.dumps(index))

    return change


def of_words_and_merges(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    model = json.loads(path.read_text())["model"]
    path.with_name("vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    path.with_name("merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    path.unlink()


def of_old_names(folder: Path) -> None:
    """As transformers 4 wrote the text encoder."""
    raw = Raw.read(model_folder() / f"{TEXT}.safetensors")
    header = {k if k == "__metadata__" else f"text_model.{k}": v for k, v in raw.header.items()}
    put(folder / f"{TEXT}.safetensors", Raw(header, raw.data).whole)


def of_few_keys(folder: Path) -> None:
    """As diffusers of 2022 wrote it: what is usual is left out."""
    changed("unet/config.json", in_channels=..., out_channels=..., addition_embed_type=...,
            class_embed_type=..., num_class_embeds=..., transformer_layers_per_block=...)(folder)  # fmt: skip
    changed("scheduler/scheduler_config.json", prediction_type=..., trained_betas=...)(folder)


def of_another_scheduler(folder: Path) -> None:
    changed("model_index.json", scheduler=["diffusers", "PNDMScheduler"],
            safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
            feature_extractor=["transformers", "CLIPFeatureExtractor"],
            tokenizer=["transformers", "CLIPTokenizerFast"])(folder)  # fmt: skip
    changed("scheduler/scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True)(
        folder
    )


@pytest.mark.parametrize(
    "change",
    [
        of_fp16, of_one_fp16, sharded(TEXT), sharded(UNET), sharded(UNET, ".fp16"), of_words_and_merges,
        of_old_names, of_few_keys, of_another_scheduler,
    ],
    ids=lambda change: change.__qualname__.partition(".")[0],  # no address: workers must agree
)  # fmt: skip
def test_what_is_accepted_loads_as_the_same_model(
    change: Change, folder: Path, model: TextToImage, fingerprint: Callable[[TextToImage], str]
) -> None:
    change(folder)
    files = inspect_base(str(folder))
    loaded = TextToImage(load_inspected(files))
    assert loaded.backbone.digest == files.digest
    assert fingerprint(loaded) == fingerprint(model)
    prompts = ["a red star in a meadow", "zorbo, as a sketch"]
    assert loaded.tokenize(prompts).equal(model.tokenize(prompts))
    assert files.sizes.context_length == loaded.backbone.length
    assert files.sizes.latent_side == loaded.latent_shape[1]
    assert files.sizes.latent_channels == loaded.latent_shape[0]
    assert files.sizes.image_side == loaded.latent_shape[1] * loaded.backbone.latent_scale


def test_what_predicts_v_is_loaded_as_that(folder: Path) -> None:
    changed(SCHEDULER, prediction_type="v_prediction")(folder)
    files = inspect_base(str(folder))
    assert files.prediction_type == "v_prediction"
    assert TextToImage(load_inspected(files)).schedule.prediction == "v_prediction"


def test_the_miniature_keeps_its_digest(model: TextToImage) -> None:
    files = inspect_base("miniature")
    assert files.digest == model.backbone.digest == MINIATURE
    assert files.prediction_type == "epsilon"
    assert files.sizes.context_width == model.encode(["a"]).states_BLD.shape[-1]


def test_a_copy_of_links_is_the_same_base(folder: Path) -> None:
    assert inspect_base(str(folder)).digest == MINIATURE


def test_a_changed_file_is_another_base(folder: Path) -> None:
    before = inspect_base(str(folder)).digest
    changed("scheduler/scheduler_config.json", beta_end=0.013)(folder)
    assert inspect_base(str(folder)).digest != before


def test_it_loads_no_networks_and_no_torch(tmp_path: Path) -> None:
    code = """
        import sys
        from bench.model.pipeline.inspect import inspect_base
        inspect_base("miniature")
        print([name for name in ("torch", "diffusers", "transformers") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# --- what is refused

INDEX = "model_index.json"
UNET_CONFIG = "unet/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
REFUSED: dict[str, tuple[Change, str]] = {
    "sdxl": (changed(INDEX, _class_name="StableDiffusionXLPipeline"),
             "lacks tokenizer_2, text_encoder_2; expected a pipeline of Stable Diffusion XL"),
    "refiner": (changed(INDEX, _class_name="StableDiffusionXLImg2ImgPipeline"),
                "expected StableDiffusionPipeline .* or StableDiffusionXLPipeline .*, got 'StableDiffusionXLImg2Img"),
    "no class": (changed(INDEX, _class_name=...), "expected StableDiffusionPipeline .*, got None"),
    "a class that is a list": (changed(INDEX, _class_name=["a"]), r"_class_name: .*got \['a'\]"),
    "a second encoder": (changed(INDEX, text_encoder_2=["transformers", "CLIPTextModel"]),
                         "'text_encoder_2': no part of a StableDiffusionPipeline"),
    "own python": (changed(INDEX, unet=["None", "Mine"]), r"unet: expected \[diffusers, UNet2D.*got \['None'"),
    "own library": (changed(INDEX, vae=["os", "system"]), r"vae: expected .*got \['os', 'system'\]"),
    "class is a list": (changed(INDEX, unet=["diffusers", ["a"]]), "unet: expected"),
    "a part is a word": (changed(INDEX, unet="x"), "unet: expected .*got 'x'"),
    "no part": (changed(INDEX, unet=...), "lacks unet; expected a pipeline of Stable Diffusion 1.x or 2.x"),
    "null part": (changed(INDEX, vae=[None, None]), "lacks vae; expected a pipeline of Stable Diffusion 1.x or 2.x"),
    "odd scheduler": (changed(INDEX, scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
                      "scheduler: expected"),
    "inpainting": (changed(UNET_CONFIG, in_channels=9),
                   r"in_channels: expected the VAE's 4, got 9 \(a UNet for inpainting\)"),
    "out channels": (changed(UNET_CONFIG, out_channels=8), "out_channels: expected the VAE's 4, got 8"),
    "added conditions": (changed(UNET_CONFIG, addition_embed_type="text_time"),
                         "addition_embed_type: expected null, got 'text_time'"),
    "classes": (changed(UNET_CONFIG, class_embed_type="timestep"), "class_embed_type: expected null"),
    "image prompt": (changed(UNET_CONFIG, encoder_hid_dim_type="ip_image_proj"), "encoder_hid_dim_type: expected null"),
    "null size": (changed(UNET_CONFIG, sample_size=None), "sample_size: expected one number.*got None"),
    "no size": (changed(UNET_CONFIG, sample_size=...), "sample_size: expected one number.*got None"),
    "two sizes": (changed(UNET_CONFIG, sample_size=[16, 24]), r"sample_size: expected one number.*got \[16, 24\]"),
    "huge size": (changed(UNET_CONFIG, sample_size=10**30), "sample_size: expected"),
    "width": (changed(UNET_CONFIG, cross_attention_dim=768),
              "cross_attention_dim: expected the width of the text encoder's states, 128, got 768"),
    "many layers": (changed(UNET_CONFIG, layers_per_block=10**9), "layers_per_block: expected .* 128, got 10"),
    "odd layers": (changed(UNET_CONFIG, layers_per_block=[1, "x", 1]), r"layers_per_block\[1\]: expected .*got 'x'"),
    "few layers": (changed(UNET_CONFIG, layers_per_block=[1]), "layers_per_block: expected 3 items"),
    "wrong blocks": (changed(UNET_CONFIG, block_out_channels=[32, 96, 240]), "has the shape .* asks for"),
    "predicts images": (changed(SCHEDULER, prediction_type="sample"),
          "expected epsilon or v_prediction, got 'sample'.*not supported"),
    "odd prediction": (changed(SCHEDULER, prediction_type=["epsilon"]), "prediction_type: expected"),
    "timesteps": (changed(SCHEDULER, num_train_timesteps=10**12), "num_train_timesteps: expected"),
    "betas": (changed(SCHEDULER, trained_betas=[0.1]), "trained_betas: expected 1000 numbers, got 1"),
    "quantised": (changed(UNET_CONFIG, quantization_config={"a": 1}), "quantised weights are not read"),
    "another text model": (changed("text_encoder/config.json", model_type="t5"), "expected clip_text_model, got 't5'"),
    "more words": (changed("text_encoder/config.json", vocab_size=49408), "token_embedding.weight has the shape"),
    "more text layers": (changed("text_encoder/config.json", num_hidden_layers=12), "lack encoder.layers.3"),
    "heads": (changed("text_encoder/config.json", num_attention_heads=7), "a multiple of the 7 heads"),
    "another unet": (changed(UNET_CONFIG, _class_name="SD3Transformer2DModel"), "expected UNet2DConditionModel"),
    "nan": (poisoned(WEIGHTS[2], b"\x01\x7e"), "expected finite numbers, got others in .*; the file is damaged"),
    "inf": (poisoned(WEIGHTS[1], b"\x00\x7c"), "expected finite numbers, got others in .*; the file is damaged"),
    "minus inf": (poisoned(WEIGHTS[0], b"\x00\xfc"), "expected finite numbers, got others in .*; the file is damaged"),
    "lfs": (holding(WEIGHTS[2], b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"),
            "is a Git LFS pointer, not the file: run `git lfs pull` there"),
    "metadata": (lambda folder: put(folder / WEIGHTS[0], Raw({"__metadata__": {"a": 1}}, b"").whole),
                 "its metadata are no mapping of texts"),
    "empty": (holding(WEIGHTS[0], b""), "expected safetensors, got .*: it is empty; fetch it again"),
    "a header alone": (holding(WEIGHTS[0], b"\x08\0\0\0\0\0\0\0{"), "it has 9 bytes; fetch it again"),
    "half a header": (holding(WEIGHTS[0], b"\x09\0\0\0\0\0\0\0{\"a\":"), "is cut off in its header, after 13 bytes"),
    "a page": (holding(WEIGHTS[0], b"<!DOCTYPE html>" * 100), "it is a page of the web, not the file"),
    "no weights": (without(WEIGHTS[2]), "unet holds no weights; expected safetensors"),
    "half a unet": (lacking(WEIGHTS[2], "mid_block.resnets.0.conv2.weight"), "lack mid_block.resnets.0.conv2.weight"),
    "half a decoder": (lacking(WEIGHTS[1], "decoder.conv_in.bias"), "lack decoder.conv_in.bias"),
    "odd activation": (changed(UNET_CONFIG, act_fn="no such function"), "act_fn: expected"),
    "few block types": (changed(UNET_CONFIG, up_block_types=["UpBlock2D"]), "up_block_types: expected 3 items"),
    "groups": (changed("vae/config.json", norm_num_groups=7), "norm_num_groups: expected a divisor of 24"),
    "no shortcut": (lacking(WEIGHTS[2], "down_blocks.1.resnets.0.conv_shortcut.weight"),
                    "unet: the weights lack down_blocks.1.resnets.0.conv_shortcut.weight"),
    "no tensor": (lacking(WEIGHTS[0], "final_layer_norm.bias"), "lack final_layer_norm.bias"),
    "no tokenizer": (without("tokenizer/tokenizer.json"),
                     "tokenizer is incomplete: expected tokenizer.json, or vocab.json and merges.txt"),
    "no config": (without(UNET_CONFIG), "expected a file, got .*unet/config.json, which is not there"),
    "no scheduler": (without(SCHEDULER), "expected a file, got .*scheduler_config.json, which is not there"),
    "bytes": (holding(UNET_CONFIG, b'{"a": "\xff"}'), "expected UTF-8, got byte 0xff"),
    "deep": (holding(INDEX, b"[" * 100_000), "expected JSON"),
    "twice": (holding(INDEX, b'{"a": 1, "a": 2}'), "expected each key once"),
    "a list": (holding(SCHEDULER, b"[]"), r"expected a JSON object, got \[\]"),
    "words of text": (holding("tokenizer/tokenizer.json", b'{"model": {"vocab": []}}'), "model.vocab: expected"),
    "too many words": (holding("tokenizer/tokenizer.json",
                               b'{"added_tokens": [], "model": {"merges": [], "vocab": {"a": 5000}}}'),
                       "expected token numbers below 1026, the rows of the text encoder's table, got 5000"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_run_can_use_is_refused_for_its_own_reason(name: str, folder: Path) -> None:
    change, reason = REFUSED[name]
    change(folder)
    with pytest.raises(UsageError, match=reason) as error:
        inspect_base(str(folder))
    assert str(error.value).startswith("base ")


def test_an_index_that_names_a_shard_that_is_not_there_is_refused(folder: Path) -> None:
    sharded(UNET)(folder)
    (folder / f"{UNET}-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        UsageError, match=r"names diffusion_pytorch_model-00002.*which is not there"
    ):
        inspect_base(str(folder))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "a\0.safetensors", ""])
def test_an_index_cannot_lead_out_of_the_folder(name: str, folder: Path) -> None:
    sharded(TEXT)(folder)
    changed(f"{TEXT}.safetensors.index.json", weight_map={"x": name})(folder)
    (folder / "outside.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="expected names of files beside it"):
        inspect_base(str(folder))


@pytest.mark.parametrize("name", [INDEX, UNET_CONFIG, WEIGHTS[0], "tokenizer/added_tokens.json"])
@pytest.mark.parametrize("kind", ["pipe", "link", "loop", "folder"])
def test_what_is_no_file_is_never_opened(name: str, kind: str, folder: Path) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
            said = "expected a regular file, got a FIFO at .*; give the file itself"
        case "link":
            path.symlink_to(folder / "nothing")
            said = "expected a file, got .*, a link to nothing; restore what it points to"
        case "loop":
            path.symlink_to(path)
            said = "expected a file, got .*, which cannot be read"
        case "folder":
            path.mkdir()
            said = "expected a regular file, got a folder at .*; give the file itself"
    with pytest.raises(UsageError, match=said):
        inspect_base(str(folder))


@pytest.mark.parametrize("source", ["./nofolder", "/no/such/folder", "~/no-such-folder", "../a"])
def test_a_path_is_never_taken_for_a_hub_id(source: str) -> None:
    assert looks_local(source)
    for revision in (None, "0" * 40):
        with pytest.raises(UsageError, match=r"no such folder$"):
            inspect_base(source, commit=revision)


@pytest.mark.parametrize("source", ["~nosuchuser/model", "a" * 300, "./" + "b" * 300])
def test_a_path_that_cannot_be_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="expected a folder"):
        local_folder(source)


def test_a_base_that_one_may_not_read_is_refused(folder: Path) -> None:
    folder.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(UsageError, match="Permission denied"):
            inspect_base(str(folder))
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_a_folders_own_python_is_never_run(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for part in ("", "unet", "vae", "scheduler", "tokenizer", "text_encoder"):
        for module in ("None", "diffusers", "transformers", "pipeline"):
            (folder / part / f"{module}.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    changed("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["None.Mine", None]})(
        folder
    )
    assert load_backbone(str(folder)).digest
    assert not ran.exists()


def test_what_the_libraries_cannot_load_is_one_line(folder: Path) -> None:
    files = inspect_base(str(folder))
    put(folder / WEIGHTS[2], b"damaged since")
    with pytest.raises(UsageError, match="could not be loaded: ") as error:
        load_inspected(files)
    assert str(error.value).isprintable()
    assert error.value.__cause__ is not None


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_a_mutated_base_loads_or_is_refused_in_one_line(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = linked_base(tmp_path_factory.mktemp("fuzz") / "base")
    outcome(next(cases(random.Random(seed))).write(folder))


def test_the_mutator_is_not_blind(tmp_path: Path) -> None:
    """It changes every file, and is itself repeatable."""
    found = [case for _, case in zip(range(200), cases(random.Random(3)), strict=False)]
    again = [case for _, case in zip(range(200), cases(random.Random(3)), strict=False)]
    assert found == again
    assert {name for case in found for name in case.files} == {*CONFIGS, *WEIGHTS}
    for case in found:
        assert any(
            data != (model_folder() / name).read_bytes() for name, data in case.files.items()
        )
