"""A base with an odd setting is refused by `plan`, with exit code 2 and one line; what `plan` takes can be loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main as cli
from bench.core.shipped import clip_folder, model_folder
from bench.model.backbone import load_inspected
from bench.model.pipeline.inspect import inspect_base
from bench.model.text_to_image import TextToImage
from tests.fuzz.bases import linked_base

SUITE = """\
name: odd
base: base
concepts: [star]
methods: [none, destroyed]
attacks: [prompts, {random_tokens: {tries: 1}}, {seed_search: {tries: 1}}]
judges: [mini_judge]
surrogate: clip_zero_shot
metrics: [accuracy]
goals: 1
utility: {neighbours: 1, others: 1}
"""
UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
WORDS, TOKENS = "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"
MAP, ADDED = "tokenizer/special_tokens_map.json", "tokenizer/added_tokens.json"
SCHEDULER = "scheduler/scheduler_config.json"
ODD: tuple[tuple[str, str, Any], ...] = (
    # One that inspection took before, and loading refused, of each kind that was found.
    (WORDS, "version", "2.0"), (WORDS, "mine", 1), (WORDS, "version", None), (WORDS, "padding", []),
    (WORDS, "padding", {"strategy": "x"}),
    (WORDS, "truncation", {}), (WORDS, "truncation", 3), (WORDS, "pre_tokenizer", {"type": "Mine"}),
    (WORDS, "pre_tokenizer", [None]), (WORDS, "normalizer", 3), (WORDS, "normalizer", [{"type": "NFC"}]),
    (WORDS, "decoder", 3), (WORDS, "post_processor", "x"), (WORDS, "added_tokens", [{"id": 1}]),
    (WORDS, "added_tokens", [{"id": 1, "content": "a", "lstrip": 3}]),
    (TOKENS, "bos_token", ["<|startoftext|>"]), (TOKENS, "eos_token", ["a", "b"]), (TOKENS, "pad_token", None),
    (TOKENS, "unk_token", {"x": 1}), (TOKENS, "pad_token", "no such token"), (TOKENS, "mask_token", 3),
    (TOKENS, "padding_side", "up"), (TOKENS, "model_max_length", "x"), (TOKENS, "extra_special_tokens", 3),
    (TOKENS, "extra_special_tokens", ["one", "two"]), (TOKENS, "added_tokens_decoder", {"1": "a"}),
    (TOKENS, "added_tokens_decoder", {"x": {"content": "a"}}),
    (TOKENS, "added_tokens_decoder", {"5000": {"content": "a"}}),
    (MAP, "eos_token", 3), (MAP, "eos_token", "no such token"), (ADDED, "zorbo", "x"), (ADDED, "zorbo", 5000),
    (TEXT, "dtype", "x"), (TEXT, "dtype", 16), (TEXT, "torch_dtype", ["float16"]), (TEXT, "initializer_range", "x"),
    (TEXT, "initializer_range", None), (TEXT, "initializer_factor", [1]), (TEXT, "bos_token_id", [1]),
    (TEXT, "pad_token_id", "x"), (TEXT, "eos_token_id", None),
    (VAE, "sample_size", "64"), (VAE, "sample_size", None), (VAE, "force_upcast", "x"), (VAE, "use_quant_conv", "x"),
    (VAE, "mid_block_add_attention", True), (VAE, "mid_block_add_attention", [1]),
    (UNET, "attention_head_dim", [3, 4, 5]), (UNET, "attention_head_dim", [64, 4, 5]), (UNET, "attention_head_dim", 7),
    (UNET, "timestep_post_act", "silu"), (UNET, "timestep_post_act", "x"), (UNET, "time_embedding_act_fn", "x"),
    (UNET, "time_embedding_act_fn", 1), (UNET, "time_embedding_dim", 64), (UNET, "time_embedding_dim", "x"),
    (UNET, "time_embedding_type", "fourier"), (UNET, "only_cross_attention", True), (UNET, "only_cross_attention", []),
    (UNET, "dual_cross_attention", True), (UNET, "dual_cross_attention", "x"), (UNET, "num_attention_heads", 2),
    (UNET, "cross_attention_norm", "layer_norm"), (UNET, "attention_type", "gated"), (UNET, "conv_out_kernel", 5),
    (UNET, "conv_in_kernel", 4), (UNET, "resnet_time_scale_shift", "scale_shift"), (UNET, "downsample_padding", 0),
    (UNET, "class_embeddings_concat", True), (UNET, "mid_block_only_cross_attention", True),
    (UNET, "resnet_out_scale_factor", 0), (UNET, "mid_block_scale_factor", "x"), (UNET, "_diffusers_version", "x"),
    (UNET, "reverse_transformer_layers_per_block", [1, 1, 1]), (UNET, "center_input_sample", "x"),
    (SCHEDULER, "beta_schedule", "x"), (SCHEDULER, "rescale_betas_zero_snr", "x"), (SCHEDULER, "timestep_spacing", 3),
    (SCHEDULER, "clip_sample", [1]),
)  # fmt: skip
TAKEN: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "keys that no class has": {
        UNET: {"inv_gamma": 1.0, "_use_default_values": ["act_fn"], "_name_or_path": 3}, VAE: {"decay": []},
        SCHEDULER: {"_class_name": "logging", "use_karras_sigmas": "x"},
        TEXT: {"return_dict": False, "output_attentions": True, "to_dict": 1, "num_labels": "x", "architectures": 3},
        TOKENS: {"tokenizer_class": 3, "decode": 1, "vocab_file": "/etc/hostname", "auto_map": {}, "init_inputs": [1]},
    },
    "tokens as objects": {
        TOKENS: {"bos_token": {"__type": "AddedToken", "content": "<|startoftext|>", "normalized": True},
                 "added_tokens_decoder": {"1025": {"content": "<|endoftext|>", "special": True}}},
    },
    "tokens as objects, of old": {
        TOKENS: {"eos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "normalized": True}},
        MAP: {"bos_token": {"content": "<|startoftext|>", "normalized": True, "special": True}, "cls_token": None},
    },
    "a tokenizer that pads and cuts": {
        WORDS: {"truncation": {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0},
                "padding": {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1025,
                            "pad_type_id": 0, "pad_token": "<|endoftext|>"}},
    },
    "options at their defaults": {
        UNET: {"upcast_attention": None, "mid_block_only_cross_attention": False, "resnet_out_scale_factor": 1},
        TEXT: {"torch_dtype": "float32", "dropout": 0.0, "initializer_factor": 1, "attention_dropout": 0},
        VAE: {"sample_size": 512, "force_upcast": None},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the suite and a base like the miniature."""
    (tmp_path / "odd.yaml").write_text(SUITE)
    base = linked_base(tmp_path / "base")
    (base / "concepts.json").symlink_to(model_folder() / "concepts.json")
    (base / "clip").symlink_to(clip_folder())
    return tmp_path


def change(base: Path, name: str, fields: Mapping[str, Any]) -> None:
    path = base / name
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**data, **fields}))


def plan(folder: Path) -> tuple[int, str]:
    """The exit code and what is said of errors."""
    said = StringIO()
    with chdir(folder), redirect_stdout(StringIO()), redirect_stderr(said):
        with pytest.raises(SystemExit) as end:
            cli.main(["plan", "odd.yaml"])
    assert isinstance(end.value.code, int)
    return end.value.code, said.getvalue()


def test_the_suite_is_planned_on_a_base_without_oddities(folder: Path) -> None:
    assert plan(folder)[0] == 0


@pytest.mark.parametrize(
    ("file", "key", "value"), ODD, ids=[f"{file}-{key}-{value}"[:60] for file, key, value in ODD]
)
def test_a_plan_refuses_an_odd_setting(file: str, key: str, value: Any, folder: Path) -> None:
    change(folder / "base", file, {key: value})
    code, said = plan(folder)
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith("error: base '")
    assert line.isprintable()
    assert "could not be loaded" not in line


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_plan_takes_is_the_same_model(
    name: str, folder: Path, miniature: TextToImage
) -> None:
    for file, fields in TAKEN[name].items():
        change(folder / "base", file, fields)
    assert plan(folder)[0] == 0
    model = TextToImage(load_inspected(inspect_base(str(folder / "base"))))
    prompts = ["a red star in a meadow", "zorbo, as a sketch", ""]
    told, expected = model.encode(prompts), miniature.encode(prompts)
    assert told.ids[0].equal(expected.ids[0])
    assert told.states_BLD.equal(expected.states_BLD)
    assert dict(model.backbone.unet.config)["sample_size"] == 16


def test_a_base_whose_images_a_judge_does_not_take_is_refused(folder: Path) -> None:
    change(folder / "base", UNET, {"sample_size": 8})
    code, said = plan(folder)
    assert code == 2
    (line,) = said.splitlines()
    assert (
        "sampler.size: expected 64, the only size that mini_judge sees, got none, and 32 is" in line
    )
    suite = folder / "odd.yaml"
    suite.write_text(f"{SUITE}sampler: {{size: 64}}\n")
    assert plan(folder)[0] == 0
